"""The model server: wires config, repository, watcher and gRPC, and starts and stops them in order.

Knows the order. Changes no process-wide settings; `configure_tensorflow` does, for the command line.
"""

import functools
import logging
import threading
from collections.abc import Callable
from typing import Self

import grpc
import tensorflow as tf
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from model_server import listener, warmup
from model_server.batching import read_batching
from model_server.config import ServerConfig, read_config, single_model
from model_server.errors import ModelServerError, ModelsUnavailable, TransitionRefused
from model_server.flags import Flags
from model_server.repository import Repository
from model_server.servable import Servable
from model_server.servicer import ModelServicer, PredictionServicer
from model_server.tls import read_credentials
from model_server.watcher import Watcher

log = logging.getLogger(__name__)
# How long shutdown waits for running calls, and then for a version that is being loaded, which nobody will use.
GRACE_S = 5.0
_LOADING_GRACE_S = 1.0
_NO_TRANSITION = (
    "Cannot transition to requested config. It is only legal to transition from one ModelConfigList to another."
)


def configure_tensorflow(flags: Flags) -> None:
    """Set the sizes of TensorFlow's thread pools, before TensorFlow runs anything in this process.

    Raises:
        RuntimeError: TensorFlow is already initialized.
    """
    tf.config.threading.set_intra_op_parallelism_threads(flags.tensorflow_intra_op_parallelism)
    tf.config.threading.set_inter_op_parallelism_threads(flags.tensorflow_inter_op_parallelism)


class ModelServer:
    """A model server in this process; a context manager that starts and stops it.

    Attributes:
        port: The port it listens on, after start.
    """

    def __init__(self, flags: Flags) -> None:
        """Prepare a server; `configure_tensorflow` applies the flags for TensorFlow's threads.

        Raises:
            ConfigError: the batching parameters or the SSL config are invalid.
        """
        batching = read_batching(flags.batching_parameters_file) if flags.enable_batching else None
        self._credentials = read_credentials(flags.ssl_config_file) if flags.ssl_config_file else None
        self.port = flags.port
        self._flags = flags
        self._models_root = flags.models_root
        if flags.models_root is None and flags.model_config_file is not None:
            self._models_root = flags.model_config_file.absolute().parent
        self._repository: Repository[Servable] = Repository(
            allow_unavailable_labels=flags.allow_version_labels_for_unavailable_models
        )
        self._watcher = Watcher(
            self._repository,
            functools.partial(warmup.load, batching=batching),
            poll_s=flags.file_system_poll_wait_seconds,
            max_retries=flags.max_num_load_retries,
            retry_s=flags.load_retry_interval_micros / 1e6,
        )
        self._grpc: grpc.Server | None = None
        self._stopping = threading.Event()

    @property
    def address(self) -> str:
        """Host and port, as the target of a gRPC channel."""
        return listener.address(self._flags.host, self.port)

    def start(self, give_up: Callable[[], bool] = lambda: False) -> None:
        """Load the configured versions and then listen, even if a version fails to load.

        A model without any version delays the start: as in TensorFlow Serving, the port stays closed until it has one.
        `give_up` is polled; once true, it stops waiting and does not listen.

        Raises:
            ConfigError: the config file is missing or invalid.
            LabelRefused: the config has labels, and `allow_version_labels_for_unavailable_models` is not set.
            PortUnavailable: the port is in use, or the host is not an address of this machine.
        """
        listener.check_port(self._flags.host, self.port)
        config = self._read_config()
        if config is None:
            log.info("the config file has no model_config_list: nothing is served until it has one")
        names = frozenset() if config is None else self._repository.configure(config)
        self._watcher.start()
        if not self._repository.wait_settled(names, give_up):
            return
        self._grpc, self.port = listener.listen(
            self._flags.host, self.port, self._flags.grpc_max_threads, self._add_services, self._credentials
        )
        if self._flags.model_config_file and self._flags.model_config_file_poll_wait_seconds:
            threading.Thread(target=self._follow_config, name="model-config", daemon=True).start()
        log.info("serving at %s%s", self.address, " (TLS)" if self._credentials else "")

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Refuse new calls, wait for running ones, and stop the watcher.

        A call that is longer than the grace period is cancelled (CANCELLED) and its thread abandoned. So is, after one
        second, a version that is being loaded.
        """
        self._stopping.set()
        if self._grpc is not None:
            self._grpc.stop(grace_s).wait()
        self._watcher.stop(_LOADING_GRACE_S)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop."""
        self.stop()

    def _read_config(self) -> ServerConfig | None:
        if self._flags.model_config_file is not None:
            return read_config(self._flags.model_config_file, self._models_root)
        if self._flags.model_base_path is None:
            raise ValueError("flags must have model_config_file or model_base_path")
        return single_model(self._flags.model_name, self._flags.model_base_path)

    def _add_services(self, server: grpc.Server) -> None:
        prediction = PredictionServicer(self._repository)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(prediction, server)
        model = ModelServicer(self._repository, self._models_root)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(model, server)

    def _follow_config(self) -> None:
        """Reload the config file whenever it differs from the current config, as TensorFlow Serving does.

        As there, the file is not read again until every new model has a version that has loaded or failed.
        """
        last_error = ""
        while not self._stopping.wait(self._flags.model_config_file_poll_wait_seconds):
            try:
                self._apply_config(self._read_config())
                last_error = ""
            except ModelsUnavailable as error:
                log.error("config file applied, but %s", error)
            except ModelServerError as error:
                if str(error) != last_error:
                    log.error("the current config stays in effect: %s", error)
                last_error = str(error)

    def _apply_config(self, config: ServerConfig | None) -> None:
        """Apply a config if it differs from the current one."""
        if config is None:
            if self._repository.is_configured:
                raise TransitionRefused(_NO_TRANSITION)
        elif config != self._repository.config:
            self._repository.reload(config, self._stopping.is_set)
            log.info("config file reloaded, models: %s", ", ".join(config) or "none")
