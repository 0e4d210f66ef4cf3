"""The compiler's process, which receives jobs and sends automata or errors, and the gateway's end of it.

A regular expression of twenty characters can occupy a core for minutes, and the library holds the interpreter's lock
meanwhile. So each is compiled in a fork with limits of time and memory, at which the kernel kills it.
"""

import contextlib
import logging
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from service.errors import GatewayError, InternalError, Overloaded
from service.scheduling.sampling_inputs import Automaton
from service.structured_outputs.automata import CompilationLimits, TokenTexts, compile_automaton
from service.structured_outputs.patterns import Constraint
from service.structured_outputs.regex_syntax import PatternError

log = logging.getLogger(__name__)

# For the process to start and to respond, beside the wall-clock limit; then it is killed.
RESPONSE_S = 30.0
_OUT_OF_MEMORY = 3
# After this CPU time a compilation gets only idle CPU time: most patterns take a few milliseconds, and beside one that
# takes seconds the gaps between the chunks of other streams were 1.6 times as long (measured).
_URGENT_S = 0.1
_POLL_S = 0.02
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Job:
    """A constraint to compile."""

    constraint: Constraint
    texts: TokenTexts
    limits: CompilationLimits
    timeout_s: float  # limit of its CPU time in seconds
    wall_timeout_s: float  # limit of its wall-clock time in seconds, as others wait
    max_memory_bytes: int  # limit of its address space, in addition to the process's at its start


class LimitExceeded(PatternError):
    """A compilation has used its CPU time or its memory."""


# Outcomes unrelated to the pattern are `Overloaded` after an interruption and `InternalError` after a crash.
Outcome = Automaton | PatternError | GatewayError


class CompilerProcess:
    """The gateway's end of a compiler process, which is started when it is needed; one thread at a time."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def run(self, job: Job) -> Outcome:
        """Compile a job in the process; start the process if it is not running."""
        if self.process is not None and self.process.poll() is not None:
            self.kill()
        process, connection = self._start()
        limit_s, began = job.wall_timeout_s + RESPONSE_S, time.monotonic()
        watchdog = threading.Timer(limit_s, _kill, [process])
        watchdog.daemon = True
        watchdog.start()
        try:
            connection.send(job)
            outcome: Outcome = connection.recv()
        except (EOFError, OSError):
            self.kill()
            is_late = time.monotonic() - began >= limit_s
            what = "did not respond" if is_late else "exited unexpectedly"
            outcome = (Overloaded if is_late else InternalError)(f"the compiler {what}")
        finally:
            watchdog.cancel()
        if isinstance(outcome, GatewayError):
            log.warning("a pattern was not compiled: %s", outcome)
        return outcome

    def kill(self) -> None:
        """End the process, if there is one, with the fork that compiles."""
        process, connection = self.process, self._connection
        self.process = self._connection = None
        if process is not None:
            _kill(process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=RESPONSE_S)
        if connection is not None:
            connection.close()

    def _start(self) -> tuple["subprocess.Popen[bytes]", Connection]:
        if self.process is None or self._connection is None:
            self._connection, end = Pipe()
            with end:
                self.process = subprocess.Popen(
                    [sys.executable, "-c", f"from {__name__} import main; main({end.fileno()})"],
                    pass_fds=[end.fileno()],
                    cwd=_ROOT,
                    # A process group, so that the compiling fork ends with it, and Ctrl-C in a terminal does not reach
                    # it.
                    start_new_session=True,
                )
        return self.process, self._connection


def _kill(process: "subprocess.Popen[bytes]") -> None:
    # Not reaped yet, so the number of its process group is still its own.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def main(fd: int) -> None:
    """Compile one job after another until the gateway closes the other end of a connection."""
    # Warm-up: forks inherit the libraries' initialization on first use.
    compile_automaton([r"\w"], TokenTexts((b"a",), (b"a",), None, 1), CompilationLimits(100, 2**20))
    connection = Connection(fd)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            connection.send_bytes(_compile_in_fork(connection.recv(), connection))


def _compile_in_fork(job: Job, connection: Connection) -> bytes:
    """Compile a job in a fork; return the serialized outcome."""
    reader, writer = Pipe(duplex=False)
    child = os.fork()
    if not child:
        # The gateway notices at once if the process ends, and Rust's messages are in no log.
        connection.close()
        os.dup2(os.open(os.devnull, os.O_RDWR), 2)
        writer.send(_compile(job))
        os._exit(0)
    writer.close()
    message = b""
    # A fork that has ended has no clock, and a killed one sends no complete message.
    with reader, contextlib.suppress(EOFError, OSError):
        if _takes_long(child, reader):
            # Not permitted in every container.
            with contextlib.suppress(PermissionError):
                os.sched_setscheduler(child, os.SCHED_IDLE, os.sched_param(0))
        message = reader.recv_bytes()
    status = os.waitpid(child, 0)[1]
    return pickle.dumps(_explain(status, job)) if status else message


def _takes_long(child: int, reader: Connection) -> bool:
    """Wait for a fork's outcome, or until it has used the CPU for `_URGENT_S`, and return whether it has."""
    while not reader.poll(_POLL_S):
        # The clock of its CPU time, see clock_getcpuclockid(3).
        if time.clock_gettime(~child << 3 | 2) > _URGENT_S:
            return True
    return False


def _compile(job: Job) -> Outcome:
    """Compile a job in this process, within its limits."""
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + job.max_memory_bytes,) * 2)
    # By default both signals kill, also while the library runs.
    signal.setitimer(signal.ITIMER_PROF, job.timeout_s)
    signal.setitimer(signal.ITIMER_REAL, job.wall_timeout_s)
    try:
        regexes = [pattern.to_regex() for pattern in job.constraint]
        return compile_automaton(regexes, job.texts, job.limits)
    except PatternError as error:
        return error
    except MemoryError:
        os._exit(_OUT_OF_MEMORY)
    # A panic of Rust is not an Exception.
    except BaseException as error:
        return InternalError(f"{type(error).__name__}: {str(error)[:200]}")
    finally:
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)


def _explain(status: int, job: Job) -> Outcome:
    """Return why a fork has ended without a result, by its wait status."""
    code = os.waitstatus_to_exitcode(status)
    # Rust's allocator aborts.
    if code in (_OUT_OF_MEMORY, -signal.SIGABRT):
        return LimitExceeded(f"takes more than {job.max_memory_bytes >> 20} MiB of memory to compile; simplify it")
    if code == -signal.SIGPROF:
        return LimitExceeded(f"takes more than {job.timeout_s:g} seconds to compile; simplify it")
    if code == -signal.SIGALRM:
        return Overloaded("the machine is too busy")
    if code == -signal.SIGKILL:
        return Overloaded("the kernel killed its process")
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return InternalError(f"its process ended with {name}")
