"""The model server: wires config, manager and the gRPC port, and starts and stops them in order."""

import logging
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import tensorflow as tf
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from contract.models_config import CONTAINER_ROOT
from model_server import servable
from model_server.config import ServerConfig, read_config, read_credentials, single_model
from model_server.errors import ModelServerError
from model_server.flags import Flags
from model_server.manager import Manager
from model_server.servicer import ModelServicer, PredictionServicer

log = logging.getLogger(__name__)
# How long shutdown waits for running calls, and then for a version that is being loaded, which nobody will use.
GRACE_S = 5.0
_LOADING_GRACE_S = 1.0
_OPTIONS = (
    # Otherwise two servers would silently share a port, and each would get some of the connections.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


def configure_tensorflow(flags: Flags) -> None:
    """Set the sizes of TensorFlow's thread pools, before TensorFlow runs anything in this process."""
    tf.config.threading.set_intra_op_parallelism_threads(flags.tensorflow_intra_op_parallelism)
    tf.config.threading.set_inter_op_parallelism_threads(flags.tensorflow_inter_op_parallelism)


class ModelServer:
    """A model server in this process.

    Attributes:
        port: The port it listens on, after start.
    """

    def __init__(self, flags: Flags) -> None:
        """Prepare a server; `configure_tensorflow` applies the flags for TensorFlow's threads.

        Raises:
            ConfigError: the SSL config is invalid.
        """
        self._credentials = read_credentials(flags.ssl_config_file) if flags.ssl_config_file else None
        self.port = flags.port
        self._flags = flags
        self._models_root = flags.models_root or Path(CONTAINER_ROOT)
        if flags.models_root is None and flags.model_config_file is not None:
            self._models_root = flags.model_config_file.absolute().parent
        self._manager = Manager(
            servable.load,
            poll_s=flags.file_system_poll_wait_seconds,
            max_retries=flags.max_num_load_retries,
            retry_s=flags.load_retry_interval_micros / 1e6,
            allow_unavailable_labels=flags.allow_version_labels_for_unavailable_models,
        )
        self._grpc: grpc.Server | None = None
        self._stopping = threading.Event()

    @property
    def address(self) -> str:
        """Host and port, as the target of a gRPC channel."""
        host = self._flags.host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def start(self, give_up: Callable[[], bool] = lambda: False) -> None:
        """Load the configured versions and then listen, even if a version fails to load.

        A model without any version delays the start: as in TensorFlow Serving, the port stays closed until it has one.
        `give_up` is polled; once true, it stops waiting and does not listen.

        Raises:
            ConfigError: the config file is missing or invalid.
            ModelServerError: UNAVAILABLE: the port is in use, or the host is not an address of this machine.
                FAILED_PRECONDITION: the config has labels, and the flag that allows them is not set.
        """
        self._check_port()
        config = self._read_config()
        if config is None:
            log.info("the config file has no model_config_list: nothing is served until it has one")
        names = frozenset() if config is None else self._manager.configure(config)
        self._manager.start()
        if not self._manager.wait_settled(names, give_up):
            return
        self._listen()
        if self._flags.model_config_file and self._flags.model_config_file_poll_wait_seconds:
            threading.Thread(target=self._follow_config, name="model-config", daemon=True).start()
        log.info("serving at %s%s", self.address, " (TLS)" if self._credentials else "")

    def stop(self) -> None:
        """Refuse new calls, wait for running ones, and stop the manager.

        A call that is longer than the grace period is cancelled (CANCELLED) and its thread abandoned. So is, after one
        second, a version that is being loaded.
        """
        self._stopping.set()
        if self._grpc is not None:
            self._grpc.stop(GRACE_S).wait()
        self._manager.stop(_LOADING_GRACE_S)

    def _check_port(self) -> None:
        """Refuse a port that is in use before minutes of loading."""
        try:
            addresses = socket.getaddrinfo(self._flags.host, self.port, type=socket.SOCK_STREAM)
            family, _, _, _, socket_address = addresses[0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(socket_address)
        except (OSError, UnicodeError) as error:
            # The latter for a name such as a..b.
            raise self._cannot_listen(getattr(error, "strerror", None) or error) from error

    def _listen(self) -> None:
        # As gRPC's C++ server, which keeps one thread for polling. The next call gets RESOURCE_EXHAUSTED at once.
        max_calls = self._flags.grpc_max_threads - 1
        pool = ThreadPoolExecutor(max_calls, "grpc")
        server = grpc.server(pool, options=_OPTIONS, maximum_concurrent_rpcs=max_calls)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionServicer(self._manager), server)
        model = ModelServicer(self._manager, self._models_root)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(model, server)
        try:
            if self._credentials:
                self.port = server.add_secure_port(self.address, self._credentials)
            else:
                self.port = server.add_insecure_port(self.address)
        except RuntimeError as error:
            raise self._cannot_listen(error) from error
        server.start()
        self._grpc = server

    def _cannot_listen(self, reason: object) -> ModelServerError:
        return ModelServerError(grpc.StatusCode.UNAVAILABLE, f"cannot listen on {self.address}: {reason}")

    def _read_config(self) -> ServerConfig | None:
        if self._flags.model_config_file is not None:
            return read_config(self._flags.model_config_file, self._models_root)
        assert self._flags.model_base_path is not None, "flags.parse requires one of the two"
        return single_model(self._flags.model_name, self._flags.model_base_path)

    def _follow_config(self) -> None:
        """Reload the config file whenever it differs from the current config, as TensorFlow Serving does.

        As there, the file is not read again until every new model has a version that has loaded or failed.
        """
        last_error = ""
        while not self._stopping.wait(self._flags.model_config_file_poll_wait_seconds):
            try:
                self._apply_config(self._read_config())
                last_error = ""
            except ModelServerError as error:
                if error.code is grpc.StatusCode.UNKNOWN:
                    log.error("config file applied, but %s", error)
                elif str(error) != last_error:
                    log.error("the current config stays in effect: %s", error)
                last_error = str(error)

    def _apply_config(self, config: ServerConfig | None) -> None:
        if config == self._manager.config:
            return
        if config is None:
            raise ModelServerError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "Cannot transition to requested config. It is only legal to transition from one ModelConfigList to "
                "another.",
            )
        self._manager.reload(config, self._stopping.is_set)
        log.info("config file reloaded, models: %s", ", ".join(config) or "none")
