"""The compiler's process: reads jobs from standard input, writes automata or errors to standard output.

A regular expression of twenty characters can occupy a core for minutes, and the library holds the interpreter's lock
meanwhile. So it runs in a process with limits of time and memory: the kernel kills it, and nothing else is disturbed.
`python -m service.constraints.compiler` is for `service.constraints.compilation` alone.
"""

import os
import pickle
import resource
import signal
import struct
import sys
from dataclasses import dataclass
from typing import IO

from service.constraints.automata import CompilationLimits, PatternError, TokenTexts, compile_automaton
from service.constraints.json_schema import SchemaError
from service.constraints.patterns import Constraint

LENGTH = struct.Struct("<Q")
# Address space beside what the process has at its start.
_MAX_MEMORY_BYTES = 2**30
# Other processes go first: a client waits for its own pattern, all others for their tokens.
_NICENESS = 10


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
    in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_AS, (in_use + _MAX_MEMORY_BYTES,) * 2)
    while header := sys.stdin.buffer.read(LENGTH.size):
        job: Job = pickle.loads(sys.stdin.buffer.read(LENGTH.unpack(header)[0]))
        # By default SIGALRM kills, also while the library runs.
        signal.setitimer(signal.ITIMER_REAL, job.timeout_s)
        try:
            result: object = compile_automaton(
                [pattern.to_regex() for pattern in job.constraint], job.texts, job.limits
            )
        except (PatternError, SchemaError) as error:
            result = error
        except MemoryError:
            result = PatternError(f"needs more than {_MAX_MEMORY_BYTES} bytes of memory to be compiled")
        signal.setitimer(signal.ITIMER_REAL, 0)
        write_message(sys.stdout.buffer, result)


if __name__ == "__main__":
    main()
