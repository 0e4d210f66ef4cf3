"""Measure how many small faults in the code the tests catch: `python -m tests.mutants --number 100`.

Mutation testing (DeMillo, Lipton and Sayward, "Hints on test data selection", 1978): a mutant is one change of one
expression or statement of `service/`, `contract/` or `export/graphs/`, sampled by seed. It is caught when a test fails
or hangs. Each is made in a copy of the checkout and run against the tests of its package, the nearest first. Those
that survive are printed.
"""

import argparse
import ast
import contextlib
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests import guard
from tests.paths import ROOT

# By package: its share of the mutants, and its tests.
PACKAGES = {
    "service": (0.6, ["tests/unit/service", "tests/unit/client"]),
    "contract": (0.2, ["tests/unit/contract", "tests/unit/service", "tests/unit/export/corpora"]),
    "export/graphs": (0.2, ["tests/unit/export/graphs", "tests/unit/export/repository"]),
}
TIMEOUT_S = 1200.0

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.Mult,
}


@dataclass(frozen=True)
class Mutant:
    """A module with one change.

    Attributes:
        path: The module, relative to the checkout.
        line: The line of the change.
        before: The source that was replaced.
        after: Its replacement.
        source: The changed module.
    """

    path: str
    line: int
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        before, after = (" ".join(source.split())[:60] for source in (self.before, self.after))
        return f"{self.path}:{self.line}: {before} -> {after}"


def mutants_of(path: Path, root: Path = ROOT) -> Iterator[Mutant]:
    """Yield every mutant of a module of a checkout."""
    source = path.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    tree = ast.parse(source)
    skipped = {id(part) for node in ast.walk(tree) for part in _unchecked(node)}
    for node in ast.walk(tree):
        if id(node) in skipped or (after := _replacement(node)) is None:
            continue
        assert isinstance(node, (ast.expr, ast.stmt))
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        begin, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        changed = (source[:begin] + after.encode() + source[end:]).decode()
        yield Mutant(str(path.relative_to(root)), node.lineno, source[begin:end].decode(), after, changed)


def _unchecked(node: ast.AST) -> Iterator[ast.AST]:
    """Yield nodes that no test checks: annotations, type aliases and the parts of f-strings."""
    match node:
        case ast.arg(annotation=ast.expr() as annotation) | ast.AnnAssign(annotation=annotation):
            yield from ast.walk(annotation)
        case ast.FunctionDef(returns=ast.expr() as returns):
            yield from ast.walk(returns)
        case ast.JoinedStr():
            yield from ast.walk(node)


def _replacement(node: ast.AST) -> str | None:  # noqa: PLR0911 - one for each kind of node
    """Return source that can replace a node and means something else; None: there is none."""
    match node:
        case ast.Compare(left=left, ops=[op], comparators=comparators) if type(op) in _COMPARISONS:
            return f"({ast.unparse(ast.Compare(left, [_COMPARISONS[type(op)]()], comparators))})"
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC and not _is_text(left, right):
            return f"({ast.unparse(ast.BinOp(left, _ARITHMETIC[type(op)](), right))})"
        case ast.BoolOp(op=op, values=values):
            return f"({ast.unparse(ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values))})"
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return f"({ast.unparse(operand)})"
        case ast.Constant(value=bool(value)):
            return str(not value)
        case ast.Constant(value=int(value)):
            return str(value + 1)
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            return "return None"
        case ast.Raise() | ast.Expr(value=ast.Call()):
            return "pass"
        case ast.AugAssign(target=target, op=op, value=value) if type(op) in _ARITHMETIC:
            return f"{ast.unparse(target)} = {ast.unparse(value)}"
    return None


def _is_text(*operands: ast.expr) -> bool:
    """Whether an operand is a string: `+` joins it, `%` formats it."""
    return any(
        isinstance(operand, ast.JoinedStr) or (isinstance(operand, ast.Constant) and isinstance(operand.value, str))
        for operand in operands
    )


def sample(number: int, seed: int) -> list[Mutant]:
    chosen, rng = [], random.Random(seed)
    for package, (share, _) in PACKAGES.items():
        every = [mutant for path in sorted((ROOT / package).rglob("*.py")) for mutant in mutants_of(path)]
        chosen += rng.sample(every, round(number * share))
    return chosen


def is_caught(mutant: Mutant, checkout: Path, tests: list[str]) -> bool:
    """Run tests on a mutant in a copy of the checkout, until one fails.

    Raises:
        RuntimeError: the tests did not run.
    """
    path = checkout / mutant.path
    original = path.read_bytes()
    path.write_text(mutant.source, encoding="utf-8")
    options = ["--exitfirst", "--quiet", "-p", "no:cacheprovider", f"--basetemp={checkout}.pytest"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=checkout,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    finally:
        path.write_bytes(original)
    # 2: interrupted, as by an error while tests are collected; 1: a test failed; negative: a mutant killed the process.
    if process.returncode > 2:
        raise RuntimeError(f"pytest ended with {process.returncode}:\n{output.decode(errors='replace')}")
    return process.returncode != 0


def tests_of(mutant: Mutant) -> list[list[str]]:
    """Return the groups of tests that a mutant is run against, in order."""
    tests = next(tests for package, (_, tests) in PACKAGES.items() if mutant.path.startswith(package))
    folder = Path(mutant.path).parent
    nearest = Path("tests/unit") / folder
    return [[str(nearest)], tests] if (ROOT / nearest).is_dir() and str(nearest) not in tests else [tests]


def _copy_checkout(directory: Path) -> Path:
    """Copy the checkout without history, environment and build outputs."""
    return Path(
        shutil.copytree(
            ROOT, directory, ignore=shutil.ignore_patterns(".venv", ".git", "build", "__pycache__", ".*_cache")
        )
    )


def main() -> int:
    """Print each mutant with whether it was caught, and the counts."""
    parser = argparse.ArgumentParser(prog="tests.mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("--number", type=int, default=100, help="mutants (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: %(default)s)")
    parser.add_argument(
        "--also", nargs="*", default=[], metavar="TEST", help="tests that survivors meet, too, slow ones included"
    )
    parser.add_argument("--only", metavar="TEXT", help="only mutants whose line of output contains it")
    parser.add_argument("--processes", type=int, default=2, help="mutants tested at a time (default: %(default)s)")
    arguments = parser.parse_args()
    mutants = [mutant for mutant in sample(arguments.number, arguments.seed) if (arguments.only or "") in str(mutant)]
    also = [["-m", "", *arguments.also]] if arguments.also else []
    running = guard.start()
    caught, began = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.processes) as pool:
        checkouts: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(arguments.processes):
            checkouts.put(_copy_checkout(Path(folder) / str(number)))

        def judge(mutant: Mutant) -> bool:
            checkout = checkouts.get()
            try:
                return any(is_caught(mutant, checkout, tests) for tests in [*tests_of(mutant), *also])
            finally:
                checkouts.put(checkout)

        for number, (mutant, found) in enumerate(zip(mutants, pool.map(judge, mutants), strict=True), start=1):
            caught += found
            left_min = (time.monotonic() - began) / number * (len(mutants) - number) / 60
            print(f"{'caught' if found else 'SURVIVED':8} {mutant}  [{number}/{len(mutants)}, {left_min:.0f} min left]")
            sys.stdout.flush()
    guard.stop(running)
    print(f"{caught} of {len(mutants)} mutants caught")
    return 0


if __name__ == "__main__":
    sys.exit(main())
