"""The compiler's process: reads jobs from standard input, writes automata or errors to standard output.

A regular expression of twenty characters can occupy a core for minutes, and the library holds the interpreter's lock
meanwhile. So each is compiled in a fork, with limits of time and memory: the kernel kills it, and nothing else is
disturbed. `python -m service.constraints.compiler` is for `service.constraints.compilation` alone.
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

from service.constraints.automata import CompilationLimits, PatternError, TokenTexts, compile_automaton
from service.constraints.json_schema import SchemaError
from service.constraints.patterns import Constraint

LENGTH = struct.Struct("<Q")
# Address space beside what the process has at its start.
_MAX_MEMORY_BYTES = 2**30
# A client waits for its own pattern, all others for their tokens.
_NICENESS = 10
# After this time a compilation gets only CPU time that nothing else needs: most patterns take a few milliseconds, and
# beside one that takes seconds the gaps between the chunks of other streams were 1.6 times as long (measured).
_URGENT_S = 0.1


@dataclass(frozen=True)
class Job:
    """A constraint to compile, and the seconds that it may take."""

    constraint: Constraint
    texts: TokenTexts
    limits: CompilationLimits
    timeout_s: float


def write_message(stream: IO[bytes], message: object) -> None:
    """Write a message with its length before it; both ends are processes of one gateway."""
    content = pickle.dumps(message, protocol=5)
    stream.write(LENGTH.pack(len(content)) + content)
    stream.flush()


def main() -> None:
    """Compile one job after another until standard input ends."""
    os.nice(_NICENESS)
    # The gateway's group gets Ctrl-C; it ends this process by closing its standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while header := sys.stdin.buffer.read(LENGTH.size):
        job: Job = pickle.loads(sys.stdin.buffer.read(LENGTH.unpack(header)[0]))
        child = os.fork()
        if not child:
            _compile(job)
            os._exit(0)
        if not _ends_well(child):
            reason = f"takes more than {job.timeout_s:g} seconds or 1 GiB of memory to compile; simplify it"
            write_message(sys.stdout.buffer, PatternError(reason))


def _compile(job: Job) -> None:
    """Compile a job in this process and write the result."""
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + _MAX_MEMORY_BYTES,) * 2)
    # By default SIGALRM kills, also while the library runs.
    signal.setitimer(signal.ITIMER_REAL, job.timeout_s)
    try:
        regexes = [pattern.to_regex() for pattern in job.constraint]
        result: object = compile_automaton(regexes, job.texts, job.limits)
    except (PatternError, SchemaError) as error:
        result = error
    except MemoryError:
        os._exit(1)
    signal.setitimer(signal.ITIMER_REAL, 0)
    write_message(sys.stdout.buffer, result)


def _ends_well(child: int) -> bool:
    """Wait for a child, and return whether it has written a result."""
    with os.fdopen(os.pidfd_open(child)) as process:
        if not select.select([process], [], [], _URGENT_S)[0]:
            # Not permitted in every container.
            with contextlib.suppress(OSError):
                os.sched_setscheduler(child, os.SCHED_IDLE, os.sched_param(0))
    return os.waitpid(child, 0)[1] == 0


if __name__ == "__main__":
    main()
