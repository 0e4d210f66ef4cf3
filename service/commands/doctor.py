"""`sostenuto doctor`: checks the requirements of serving and training, with a hint for each problem."""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from contract.card import load_assets
from contract.errors import ContractError
from contract.machine import has_fast_bfloat16, num_cores, read_cpuinfo
from contract.signatures import MODELS_CONFIG
from service.access.keys import read_keys
from service.backends.health_checks import RepeatedErrors
from service.commands.health import is_ready
from service.errors import ConfigurationError
from service.http_server.addresses import listen
from service.models.repository import RepositoryConfig
from service.settings import Settings, SettingsError, load_settings, unknown_settings

TENSORFLOW = "2.21."
PACKAGES = ("sostenuto-server", "sostenuto", "tensorflow", "keras", "numpy", "grpcio", "protobuf", "flask", "gunicorn")
OPTIONAL = {"sostenuto-server", "sostenuto"}  # a checkout need not be installed
REINSTALL = "pip install --force-reinstall sostenuto-server"
# Training the demo takes 1.1 GB at its peak, serving it less (docs/requirements.md).
MIN_MEMORY_BYTES = 1.5 * 2**30
MODEL_SERVER_PORT = 8500
SETTINGS_HINT = "correct or unset it; `sostenuto serve --help` lists the settings"
SAVED_MODEL = "saved_model.pb"


@dataclass(frozen=True)
class Finding:
    """A line of the report; `hint` says what to do if something is wrong."""

    subject: str
    value: str
    hint: str | None = None


def run() -> int:
    """Print the report. Return 0, or 1 if something is wrong."""
    problems = 0
    for finding in _examine():
        print(f"{'ok' if finding.hint is None else 'WRONG':<6} {finding.subject:<18} {finding.value}")
        if finding.hint is not None:
            problems += 1
            print(f"{'':<25} {finding.hint}")
    print(f"\n{problems or 'no'} {'problem' if problems == 1 else 'problems'} found")
    return 1 if problems else 0


def _examine() -> Iterator[Finding]:
    yield from _machine()
    yield from _packages()
    try:
        settings = load_settings()
    except SettingsError as error:
        yield Finding("settings", str(error), SETTINGS_HINT)
        settings = Settings.model_construct()
    for line in unknown_settings():
        yield Finding("settings", line, SETTINGS_HINT)
    yield from _ports(settings)
    if settings.keys_file is not None:
        yield _keys(settings.keys_file)
    yield from _models(settings.models_dir)


def _machine() -> Iterator[Finding]:
    cpuinfo = read_cpuinfo()
    flags = cpuinfo.get("flags", "").split()
    amx, avx512 = ("yes" if flag in flags else "no" for flag in ("amx_bf16", "avx512_bf16"))
    fast = "fast" if has_fast_bfloat16() else "no fast"
    name = cpuinfo.get("model name") or platform.processor() or platform.machine()
    yield Finding(
        "CPU",
        f"{cpuinfo.get('vendor_id', 'unknown maker')}, {name}; AMX {amx}, AVX512-BF16 {avx512}: {fast} bfloat16",
        "TensorFlow's packages need a CPU with AVX" if flags and "avx" not in flags else None,
    )
    yield Finding("cores", str(num_cores()))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    hint = f"training and serving need {MIN_MEMORY_BYTES / 2**30:.1f} GiB" if memory < MIN_MEMORY_BYTES else None
    yield Finding("memory", f"{memory / 2**30:.1f} GiB", hint)
    is_supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    hint = None if is_supported else "TensorFlow has packages for Python 3.11 to 3.13"
    yield Finding("Python", platform.python_version(), hint)


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "not installed", None if name in OPTIONAL else REINSTALL)
            continue
        is_wrong = name == "tensorflow" and not version.startswith(TENSORFLOW)
        yield Finding(name, version, f"it must be {TENSORFLOW}*: {REINSTALL}" if is_wrong else None)


def _ports(settings: Settings) -> Iterator[Finding]:
    try:
        listen(settings.host, settings.port).close()
        yield Finding(f"port {settings.port}", "free")
        yield _metrics_port(settings)
    except OSError as error:
        if is_ready(settings.host, settings.port):
            yield Finding(f"port {settings.port}", "in use by a gateway that is ready")
        else:
            hint = "choose another: SOSTENUTO_HOST and SOSTENUTO_PORT, or options of `sostenuto serve`"
            yield Finding(f"port {settings.port}", str(error), hint)
    try:
        listen("127.0.0.1", MODEL_SERVER_PORT).close()
        yield Finding(f"port {MODEL_SERVER_PORT}", "free")
    except OSError:
        yield Finding(f"port {MODEL_SERVER_PORT}", "in use, as by TensorFlow Serving; `serve` picks another one")


def _metrics_port(settings: Settings) -> Finding:
    port = settings.metrics_port_beside(settings.port)
    try:
        listen(settings.metrics_host, port).close()
    except OSError as error:
        return Finding(f"port {port}", str(error), "choose another for /metrics: SOSTENUTO_METRICS_PORT")
    return Finding(f"port {port}", "free, for /metrics")


def _keys(path: Path) -> Finding:
    try:
        return Finding("API keys", f"{len(read_keys(path))} in {path}")
    except ConfigurationError as error:
        return Finding("API keys", str(error), "correct the file, or create it: `sostenuto keys add --tenant NAME`")


class _Errors(RepeatedErrors):
    """Collects the errors of the repository's configuration files instead of logging them."""

    def add(self, subject: str, message: str) -> None:
        self.current[subject] = message


def _models(models_dir: Path) -> Iterator[Finding]:
    if not (models_dir / MODELS_CONFIG).exists():
        where = f"none yet in {models_dir.absolute()}"
        return (yield Finding("models", f"{where}: `sostenuto train FILE` or `sostenuto demo` trains one"))
    config = RepositoryConfig(models_dir, errors := _Errors())
    config.read()
    for path, message in errors.current.items():
        yield Finding("models", f"{path}: {message}", "restore the file from a backup, or publish a model again")
    for name, model in config.models.items():
        if not model.wanted:
            yield Finding(f"model {name}", "no version", f"publish it again, or remove its entry in {MODELS_CONFIG}")
        for version in sorted(model.wanted or ()):
            yield _version(models_dir / name / str(version), f"model {name}:{version}")
    return None


def _version(path: Path, subject: str) -> Finding:
    try:
        card, _ = load_assets(path)
        (path / SAVED_MODEL).stat()
    except (ContractError, OSError) as error:
        return Finding(subject, " ".join(str(error).split()), "publish it again, or `sostenuto remove` it")
    return Finding(subject, f"{card.unit} tokens, vocabulary of {card.vocab_size}, {card.units} units")
