"""`python -m export verify`: verifies versions one by one and prints a line per check.

Knows how outcomes are printed. `export.repository.verification` runs the checks.
"""

import sys
from collections.abc import Sequence

import tensorflow as tf
from tqdm import tqdm

from export.interrupts import Interrupts
from export.layout import say
from export.repository.verification import FAILED, Verification
from export.repository.versions import Version
from export.table import visible


def verify(versions: Sequence[Version], problems: Sequence[str]) -> int:
    """Verify versions. Returns the exit code: 1 if a check failed.

    Args:
        versions: The versions, in the order of verification.
        problems: One line per model whose versions cannot be listed.
    """
    for problem in problems:
        say(f"{FAILED}  {visible(problem)}")
    # With many sliding-window models TensorFlow warns about repeated retracing, which is intended here.
    tf.get_logger().setLevel("ERROR")
    failed = []
    # A version takes seconds; for several ones, a progress bar shows how many are left.
    bar = tqdm(versions, disable=len(versions) < 2 or not sys.stderr.isatty(), leave=False, dynamic_ncols=True)
    with Interrupts() as interrupts, bar:
        for version in bar:
            bar.set_description_str(version.label)
            say(version.label)
            if not _verify(version, interrupts):
                failed.append(version.label)
    if len(versions) + len(problems) > 1:
        say(f"{len(versions):,} versions: {len(versions) - len(failed):,} good, {len(failed):,} damaged")
        for label in failed:
            say(f"damaged: {label}")
    return 1 if failed or problems else 0


def _verify(version: Version, interrupts: Interrupts) -> bool:
    is_good = True
    for outcome in Verification(version).outcomes():
        say(f"  {outcome.verdict:<11}  {visible(outcome.told)}")
        is_good = is_good and outcome.verdict != FAILED
        interrupts.raise_if_interrupted()
    return is_good
