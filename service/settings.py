"""The gateway's settings with defaults, units and limits; read once, at the start."""

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

from dotenv import dotenv_values
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import ConfigurationError

Precision = Literal["auto", "float32", "bfloat16"]


def _addresses(value: str) -> str:
    for address in value.split(","):
        host, _, port = address.strip().rpartition(":")
        bare = ":" in host and not (host.startswith("[") and host.endswith("]"))
        # The limits of names, beyond which Python's resolver raises UnicodeError.
        is_name = all(0 < len(part) < 64 for part in host.removesuffix(".").split("."))
        if not is_name or bare or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError("must be host:port, or several separated by commas")
    return value


def _host_names(value: str | None) -> str | None:
    for name in (value or "").split(",") if value is not None else ():
        if not re.fullmatch(r"\*|[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?", name.strip()):
            raise ValueError("must be host names without ports, separated by commas, or *")
    return value


def _precisions(value: str) -> str:
    _parse_precisions(value)
    return value


def _parse_precisions(value: str) -> dict[str, Precision]:
    """Return the precision of each named model, and that of the others under ""."""
    by_model: dict[str, Precision] = {"": "auto"}
    for entry in value.split(","):
        name, _, precision = entry.strip().rpartition("=")
        if precision not in get_args(Precision):
            allowed = ", ".join(get_args(Precision))
            raise ValueError(f"must be {allowed} or NAME=PRECISION, or several separated by commas")
        by_model[name] = cast("Precision", precision)
    return by_model


def _path(value: Any) -> Any:
    # It would be the working directory.
    if value == "":
        raise ValueError("must not be empty")
    return value


_RequiredPath = Annotated[Path, BeforeValidator(_path)]
_OptionalPath = Annotated[Path | None, BeforeValidator(_path)]
_UnsetIfEmpty = Annotated[Path | None, BeforeValidator(lambda value: value or None)]


def _link(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"(https?:/)?/\S+", value):
        raise ValueError("must begin with http://, https:// or /")
    return value


class Settings(BaseSettings):
    """Settings from `SOSTENUTO_<NAME>` in the environment, then from the file that `SOSTENUTO_ENV_FILE` names."""

    model_config = SettingsConfigDict(env_prefix="SOSTENUTO_", frozen=True, extra="ignore", allow_inf_nan=False)

    max_running: int = Field(128, ge=1, le=4096, description="maximum number of running sequences")
    max_queued: int = Field(
        256, ge=0, le=65536, description="maximum number of waiting sequences; beyond it requests get 429"
    )
    max_queued_tokens: int = Field(
        4_000_000,
        ge=1,
        description="maximum number of tokens of running and waiting sequences: prompt tokens and max_tokens, "
        "counted until a sequence ends; beyond it requests get 429",
    )
    prefix_cache_bytes: int = Field(64 * 2**20, ge=0, description="size of the prefix cache, in bytes; 0 disables it")
    max_calls: int = Field(
        2,
        ge=1,
        le=256,
        description="maximum number of concurrent calls per model server; set it to the number of cores of a "
        "model server",
    )
    max_tokens: int = Field(100_000, ge=1, description="maximum of max_tokens in a request")
    max_request_tokens: int = Field(
        1_000_000,
        ge=1,
        description="maximum of prompts × n × max_tokens in a request, of the tokens that echo repeats, and of "
        "the tokens of /tokenize and /detokenize",
    )
    max_prompts: int = Field(128, ge=1, le=4096, description="maximum number of prompts per request")
    max_logprobs_tokens: int = Field(
        262_144, ge=1, description="maximum number of tokens per request that are returned with log probabilities"
    )
    max_inspect_values: int = Field(2**24, ge=1, description="maximum number of values in a response of /v1/inspect")
    max_search_tokens: int = Field(
        20_000,
        ge=1,
        description="maximum number of tokens that a search (`top_texts`, `use_beam_search`, /v1/next) computes for a "
        "prompt",
    )
    max_prompt_tokens: int = Field(131_072, ge=1, description="maximum length of a prompt, in tokens")
    max_timeout_s: float = Field(
        600.0, gt=0, le=86_400, description="maximum and default of timeout_s in a request, in seconds"
    )
    max_pattern_s: float = Field(
        2.0, gt=0, le=60, description="maximum CPU time to compile the patterns of a request, in seconds"
    )
    max_pattern_states: int = Field(
        20_000, ge=1, le=65_000, description="maximum number of states of the automaton of a request's patterns"
    )
    max_pattern_bytes: int = Field(
        32 * 2**20,
        ge=1024,
        description="maximum size of the automaton of a request's patterns, in bytes: 4 × its states × the tokens of "
        "the vocabulary",
    )
    pattern_cache_bytes: int = Field(64 * 2**20, ge=0, description="size of the cache of compiled patterns, in bytes")
    max_report_records: int = Field(
        100_000, ge=1, description="maximum number of records of each list or file of a report"
    )
    backend_grace_s: float = Field(
        30.0,
        ge=0,
        description="how long sequences wait for a version that has no backend in service before they fail, in seconds "
        "from its first failed call; unset: 30, and 120 with the model server of `sostenuto serve`",
    )
    backends: Annotated[str, AfterValidator(_addresses)] = Field(
        "127.0.0.1:8500",
        description="addresses of the model servers, HOST:PORT, separated by commas; a host name may resolve to "
        "several addresses",
    )
    backend_tls_ca_file: _OptionalPath = Field(
        None,
        description="CA certificates (PEM) of the model servers; unset: calls to them are neither encrypted nor "
        "authenticated",
    )
    backend_tls_cert_file: _OptionalPath = Field(
        None, description="client certificate (PEM) of the gateway, for mutual TLS"
    )
    backend_tls_key_file: _OptionalPath = Field(None, description="private key (PEM) of the client certificate")
    backend_tls_name: str | None = Field(
        None, description="server name in the certificates of the model servers; unset: the host in SOSTENUTO_BACKENDS"
    )
    models_dir: _RequiredPath = Field(
        Path("models"),
        description="directory of the model repository; it must have the same content as that of the model servers",
    )
    default_model: str | None = Field(
        None, description="model of requests that name none, and the first of the list; unset: the only served model"
    )
    precision: Annotated[str, AfterValidator(_precisions)] = Field(
        "auto",
        description="precision of the matrix products: float32, bfloat16, or auto: bfloat16 for models of at least "
        "512 units that lose at most 0.002 nats per token, if the CPU of the gateway has fast instructions for it; "
        "NAME=PRECISION sets it for one model; separated by commas",
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    published_host: str | None = Field(
        None,
        description="address on which something else publishes the port, such as Docker; a loopback address means that "
        "only this machine reaches the gateway; unset: SOSTENUTO_HOST",
    )
    num_proxies: int = Field(
        0,
        ge=0,
        le=10,
        description="number of trusted reverse proxies, each of which appends its client's address to "
        "X-Forwarded-For; 0: the header is ignored",
    )
    allowed_hosts: Annotated[str | None, AfterValidator(_host_names)] = Field(
        None,
        description="names allowed in the Host header besides localhost and IP addresses, separated by commas; *: "
        "any name; unset: no others if SOSTENUTO_PUBLISHED_HOST is a loopback address and "
        "SOSTENUTO_NUM_PROXIES is 0, otherwise any name",
    )
    max_client_connections: int | None = Field(
        None,
        ge=1,
        description="maximum number of connections per client address; beyond it connections get 429; unset: no "
        "limit. Ignored behind proxies (SOSTENUTO_NUM_PROXIES), where all clients share one address",
    )
    metrics_host: str = Field("127.0.0.1", description="address to listen on for /metrics")
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="port of /metrics; 0 picks a free one; unset: SOSTENUTO_PORT + 1"
    )
    docs_url: Annotated[str | None, AfterValidator(_link)] = Field(
        None,
        description="URL of the documentation site, or a path on this host, which playground, inspector and API "
        "reference link to; unset: no link",
    )
    keys_file: _OptionalPath = Field(
        None, description="file of API keys, written by `sostenuto keys add`; unset: no authentication"
    )
    state_key_file: _OptionalPath = Field(
        None,
        description="file of the keys that sign resume tokens, one secret of at least 32 characters per line "
        "(openssl rand -hex 32): the first one signs, all are accepted; unset: a random key, so that "
        "resume tokens become invalid when the process ends",
    )
    state_max_age_s: float = Field(604_800.0, gt=0, description="maximum age of a resume token, in seconds")
    redis_url: SecretStr | None = Field(
        None,
        description="Redis server that counts the rate limits for all gateways together, redis://…; unset: each "
        "gateway counts in memory",
    )
    requests_per_minute: int | None = Field(
        None,
        ge=1,
        description="requests per minute of each key without its own limit (without keys: of all clients "
        "together); unset: no limit",
    )
    tokens_per_minute: int | None = Field(
        None,
        ge=1,
        description="tokens per minute of each key without its own limit (without keys: of all clients together): "
        "prompt tokens, and max_tokens of each choice; unset: no limit",
    )
    max_key_sequences: int | None = Field(
        None,
        ge=1,
        description="running and waiting sequences of each key without its own limit (without keys: of all "
        "clients together); unset: only the server's limit",
    )
    max_key_tokens: int | None = Field(
        None,
        ge=1,
        description="tokens of the running and waiting sequences of each key without its own limit, counted as "
        "for SOSTENUTO_MAX_QUEUED_TOKENS; unset: only the server's limit",
    )
    audit_file: _UnsetIfEmpty = Field(
        None,
        description="append-only audit log, JSON Lines: who published, promoted, removed, trained, uploaded, and added "
        "and revoked keys; empty or unset: none. The exporter's commands use it, too",
    )
    training_dir: _UnsetIfEmpty = Field(
        None,
        description="directory of uploaded files and runs, shared by gateways and trainers; empty or unset: no "
        "training, except that `sostenuto serve` uses ./training",
    )
    training_database: str | None = Field(
        None, description="SQLAlchemy URL of the job database; unset: jobs.sqlite in SOSTENUTO_TRAINING_DIR"
    )
    max_upload_bytes: int = Field(32 * 2**20, ge=1024, description="maximum size of an uploaded file, in bytes")
    max_tenant_bytes: int = Field(2**30, ge=1024, description="maximum size of a tenant's files together, in bytes")
    max_tenant_jobs: int = Field(
        8, ge=1, description="maximum number of jobs of a tenant that are queued, running or paused"
    )
    max_tenant_versions: int = Field(
        100, ge=1, description="maximum number of versions that jobs of a tenant have published, until they are removed"
    )
    max_tenant_minutes: float = Field(
        1440.0,
        gt=0,
        description="maximum number of minutes that jobs of a tenant train in 24 hours: what they have trained until "
        "24 hours after their end, and max_minutes of unfinished ones",
    )
    max_training_minutes: float = Field(60.0, gt=0, description="maximum of max_minutes of a job")
    max_training_units: int = Field(1536, ge=1, le=8192, description="maximum of units of a job")
    max_training_bytes: int = Field(
        4 * 2**30, ge=2**30, description="maximum memory of a job's training, in bytes; a job that takes more fails"
    )
    max_file_age_s: float = Field(
        2_592_000.0, gt=0, description="age at which a trainer deletes an uploaded file, in seconds"
    )
    max_job_age_s: float = Field(
        7_776_000.0,
        ge=86_400,
        description="time after its end at which a trainer deletes a job and its events, in seconds; its published "
        "version stays",
    )
    max_reports: int = Field(
        1, ge=1, le=64, description="maximum number of reports that are computed at once; beyond it requests get 429"
    )
    max_report_s: float = Field(
        240.0, gt=0, le=3600, description="time limit of a report, in seconds; beyond it the request gets 504"
    )
    portable: bool = Field(
        False,
        description="whether the model server of `sostenuto serve` is bit-exact across types of CPU, which is slower; "
        "SOSTENUTO_PRECISION=auto is then float32",
    )
    max_chunk: int = Field(128, ge=1, le=128, description="maximum number of decode steps per call")
    max_body_bytes: int = Field(4 * 2**20, ge=1024, description="maximum size of a request body, in bytes")
    request_memory_bytes: int = Field(
        384 * 2**20,
        ge=2**20,
        description="memory for bodies, prompts and responses of all requests in flight, in bytes; beyond it "
        "requests get 429, or 400 if one request alone needs more",
    )
    call_timeout_s: float = Field(30.0, gt=0, description="deadline of a call to a model server, in seconds")
    poll_s: float = Field(
        1.0, gt=0, description="polling interval of model servers, versions, labels and traffic splits, in seconds"
    )
    drain_s: float = Field(
        30.0, ge=1, description="time that running requests have to finish after SIGTERM, in seconds"
    )
    log_format: Literal["json", "text"] = Field("json", description="JSON for programs, text for people")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="minimum severity of log lines")
    log_prompts: bool = Field(False, description="whether prompts are logged; otherwise only their token counts")
    traces_endpoint: str | None = Field(
        None, description="OTLP/HTTP endpoint of OpenTelemetry traces, http://…/v1/traces; unset: no tracing"
    )
    traces_ratio: float = Field(
        0.05, ge=0, le=1, description="fraction of the requests without a trace context that are traced"
    )

    @property
    def max_sequences(self) -> int:
        """Sequences that may run and wait at once, and thus of one request."""
        return self.max_running + self.max_queued

    @property
    def precisions(self) -> dict[str, Precision]:
        """`precision` by model, see `service.models.precision`; without `auto` if `portable`."""
        by_model = _parse_precisions(self.precision)
        if self.portable:
            return {name: "float32" if each == "auto" else each for name, each in by_model.items()}
        return by_model

    @property
    def client_host(self) -> str:
        return (self.published_host or self.host).strip("[]")

    def metrics_port_beside(self, port: int) -> int:
        """Return the port of /metrics: as configured, else the gateway's `port` + 1, or any free one if 0 is set."""
        if self.metrics_port is not None:
            return self.metrics_port
        return 0 if self.port == 0 or port == 65535 else port + 1

    @property
    def addresses(self) -> list[str]:
        return list(dict.fromkeys(address.strip() for address in self.backends.split(",")))


# Variables of other programs of the project.
_OTHER_VARIABLES = {"ENV_FILE", "BASE_URL", "API_KEY", "MODEL"}
_OTHER_VARIABLES |= {"LAUNCHER", "POD_TEMPLATE", "KUEUE_QUEUE", "RAY_URL", "RAY_CPUS"}


def unknown_settings() -> list[str]:
    """Return a warning for each SOSTENUTO_ variable that is not a setting, also in the file, with the closest match.

    Not an error: Kubernetes sets such variables for a service with this name.
    """
    known = [name.upper() for name in Settings.model_fields]
    file = os.environ.get("SOSTENUTO_ENV_FILE")
    variables = {*os.environ, *(name.upper() for name in (dotenv_values(file) if file else ()))}
    names = [name.removeprefix("SOSTENUTO_") for name in sorted(variables) if name.startswith("SOSTENUTO_")]
    lines = []
    for name in names:
        if name not in known and name not in _OTHER_VARIABLES:
            matches = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
            lines.append(
                f"SOSTENUTO_{name} is not a setting" + (f"; did you mean SOSTENUTO_{matches[0]}?" if matches else "")
            )
    return lines


class SettingsError(ConfigurationError):
    """A setting is invalid; the message names it."""

    exit_code = 2


def load_settings() -> Settings:
    """Read the settings; raise SettingsError if one has the wrong type or is outside its limits."""
    file = os.environ.get("SOSTENUTO_ENV_FILE")
    if file is not None and not Path(file).is_file():
        raise SettingsError(f"SOSTENUTO_ENV_FILE: there is no file {file}")
    values: dict[str, Any] = {"_env_file": file}
    try:
        settings = Settings(**values)
        if "port" in settings.model_fields_set or "PORT" not in os.environ:
            return settings
        # Container platforms set PORT.
        return Settings(**values, port=os.environ["PORT"])
    except ValidationError as error:
        problems = (
            f"SOSTENUTO_{'_'.join(map(str, problem['loc'])).upper()}: "
            f"{problem['msg'].removeprefix('Value error, ')}, got {problem['input']!r}"
            for problem in error.errors()
        )
        raise SettingsError("; ".join(problems)) from error
