"""The model server: joins config, repository, watcher and gRPC, and starts and stops them in order.

Knows the order. Sets nothing that belongs to the process: `configure_tensorflow` does, for the command line.
"""

import functools
import logging
import threading
from collections.abc import Callable
from types import TracebackType
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
# How long a stopping server waits for running calls, and then for a version that is being loaded: nobody is to use it.
GRACE_S = 5.0
_LOADING_GRACE_S = 1.0
_NO_TRANSITION = (
    "Cannot transition to requested config. It is only legal to transition from one ModelConfigList to another."
)


def configure_tensorflow(flags: Flags) -> None:
    """Fix the sizes of TensorFlow's thread pools, before it runs anything in this process.

    Raises:
        RuntimeError: TensorFlow is in use already.
    """
    tf.config.threading.set_intra_op_parallelism_threads(flags.tensorflow_intra_op_parallelism)
    tf.config.threading.set_inter_op_parallelism_threads(flags.tensorflow_inter_op_parallelism)


class ModelServer:
    """One server in this process; a context manager that starts and stops it.

    Attributes:
        port: The one it listens on, once it has started.
    """

    def __init__(self, flags: Flags) -> None:
        """Prepare a server.

        Args:
            flags: With a config file or a base path. Those that concern TensorFlow's threads are for
                `configure_tensorflow` and not looked at here.

        Raises:
            ConfigError: the file of batching parameters or the SSL config cannot be used.
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
        """Host and port, as a gRPC channel takes them."""
        return listener.address(self._flags.host, self.port)

    def start(self, give_up: Callable[[], bool] = lambda: False) -> None:
        """Load what the config asks for and only then listen; a version that fails to load is no obstacle.

        A model without any version is one: until it has one the port stays shut, as TensorFlow Serving's does.

        Args:
            give_up: Asked now and then; once true, loading is left and the port stays shut.

        Raises:
            ConfigError: the config file is missing or cannot be used.
            LabelRefused: it has labels, and `allow_version_labels_for_unavailable_models` is not set.
            PortUnavailable: something else listens there, or the host is not this machine's.
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
        """Take no more calls, let the running ones finish, and follow the folders no more.

        Args:
            grace_s: How long calls may take. One that takes longer is answered with CANCELLED and left behind in its
                thread, as is a version that is being loaded, after a second.
        """
        self._stopping.set()
        if self._grpc is not None:
            self._grpc.stop(grace_s).wait()
        self._watcher.stop(_LOADING_GRACE_S)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
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
        """Put the config file's content in force whenever it differs from what is, as TensorFlow Serving does.

        As there, the file is not read again before every new model has a version that was loaded or failed.
        """
        last_error = ""
        while not self._stopping.wait(self._flags.model_config_file_poll_wait_seconds):
            try:
                self._apply_config(self._read_config())
                last_error = ""
            except ModelsUnavailable as error:
                log.error("the config file is in force: %s", error)
            except ModelServerError as error:
                if str(error) != last_error:
                    log.error("the present config stays: %s", error)
                last_error = str(error)

    def _apply_config(self, config: ServerConfig | None) -> None:
        """Reload a config if it differs from the present one.

        Raises:
            TransitionRefused: it has no `model_config_list`, and the present one has.
            LabelRefused: a label may not point where it does.
            ModelsUnavailable: a new model has no available version.
        """
        if config is None:
            if self._repository.is_configured:
                raise TransitionRefused(_NO_TRANSITION)
        elif config != self._repository.config:
            self._repository.reload(config, self._stopping.is_set)
            log.info("config file read again, models: %s", ", ".join(config) or "none")
