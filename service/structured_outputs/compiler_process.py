"""The compiler's process: reads jobs from standard input, writes automata or errors to standard output.

A regular expression of twenty characters can occupy a core for minutes, and the library holds the interpreter's lock
meanwhile. So each is compiled in a fork, with limits of time and memory: the kernel kills it, and nothing else is
disturbed. `python -m service.structured_outputs.compiler_process` is for `service.structured_outputs.compiler` alone.
"""

import contextlib
import os
import pickle
import resource
import select
import signal
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from service.structured_outputs.automata import (
    CompilationInterrupted,
    CompilationLimits,
    CompilerCrashed,
    LimitExceeded,
    PatternError,
    TokenTexts,
    compile_automaton,
)
from service.structured_outputs.json_schema import SchemaError
from service.structured_outputs.patterns import Constraint

LENGTH = struct.Struct("<Q")
_OUT_OF_MEMORY = 3
# After this CPU time a compilation gets only what nothing else needs: most patterns take a few milliseconds, and beside
# one that takes seconds the gaps between the chunks of other streams were 1.6 times as long (measured).
_URGENT_S = 0.1
_POLL_S = 0.02
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Job:
    """A constraint to compile.

    Attributes:
        timeout_s: Limit of its CPU time in seconds.
        wall_timeout_s: Limit of its time in seconds, as others wait.
        max_memory_bytes: Limit of its address space, beside what the process has at its start.
    """

    constraint: Constraint
    texts: TokenTexts
    limits: CompilationLimits
    timeout_s: float
    wall_timeout_s: float
    max_memory_bytes: int


def write_message(stream: IO[bytes], message: object) -> None:
    """Write a message with its length before it; both ends are processes of one gateway."""
    content = pickle.dumps(message, protocol=5)
    stream.write(LENGTH.pack(len(content)) + content)
    stream.flush()


def main() -> None:
    """Compile one job after another until standard input ends."""
    # Warm-up: forks inherit what the libraries initialize on first use.
    compile_automaton([r"\w"], TokenTexts((b"a",), (b"a",), None, 1), CompilationLimits(100, 2**20))
    while header := sys.stdin.buffer.read(LENGTH.size):
        job: Job = pickle.loads(sys.stdin.buffer.read(LENGTH.unpack(header)[0]))
        status, message = _run_in_fork(job)
        if status:
            write_message(sys.stdout.buffer, _explain(status, job))
        else:
            sys.stdout.buffer.write(message)
            sys.stdout.buffer.flush()


def _explain(status: int, job: Job) -> Exception:
    """Return why a fork has ended without a result, by its wait status."""
    code = os.waitstatus_to_exitcode(status)
    # Rust's allocator aborts.
    if code in (_OUT_OF_MEMORY, -signal.SIGABRT):
        return LimitExceeded(f"{job.max_memory_bytes >> 20} MiB of memory")
    reasons = {
        -signal.SIGPROF: LimitExceeded(f"{job.timeout_s:g} seconds"),
        -signal.SIGALRM: CompilationInterrupted("the machine is too busy"),
        -signal.SIGKILL: CompilationInterrupted("the kernel killed its process"),
    }
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return reasons.get(code, CompilerCrashed(f"its process ended with {name}"))


def _run_in_fork(job: Job) -> tuple[int, bytes]:
    """Compile a job in a fork; return its wait status and what it wrote, whole if the status is 0."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        _drop_standard_streams()
        with os.fdopen(writer, "wb") as stream:
            _compile(job, stream)
        os._exit(0)
    os.close(writer)
    message, is_urgent = bytearray(), True
    with os.fdopen(reader, "rb", buffering=0) as stream:
        while True:
            if not select.select([stream], [], [], _POLL_S if is_urgent else None)[0]:
                if _cpu_s(child) > _URGENT_S:
                    is_urgent = False
                    # Not permitted in every container.
                    with contextlib.suppress(OSError):
                        os.sched_setscheduler(child, os.SCHED_IDLE, os.sched_param(0))
            elif part := stream.read(1 << 20):
                message += part
            else:
                return os.waitpid(child, 0)[1], bytes(message)


def _drop_standard_streams() -> None:
    """Close this fork's copies: the gateway notices at once if the process ends, and Rust's messages are in no log."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)


def _compile(job: Job, stream: IO[bytes]) -> None:
    """Compile a job in this process and write the result."""
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + job.max_memory_bytes,) * 2)
    # By default both signals kill, also while the library runs.
    signal.setitimer(signal.ITIMER_PROF, job.timeout_s)
    signal.setitimer(signal.ITIMER_REAL, job.wall_timeout_s)
    try:
        regexes = [pattern.to_regex() for pattern in job.constraint]
        result: object = compile_automaton(regexes, job.texts, job.limits)
    except (PatternError, SchemaError) as error:
        result = error
    except MemoryError:
        os._exit(_OUT_OF_MEMORY)
    # A panic of Rust is not an Exception.
    except BaseException as error:
        result = CompilerCrashed(f"{type(error).__name__}: {str(error)[:200]}")
    for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
        signal.setitimer(timer, 0)
    write_message(stream, result)


def _cpu_s(pid: int) -> float:
    """Return the CPU time of a process in seconds (proc_pid_stat(5): fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


if __name__ == "__main__":
    main()
