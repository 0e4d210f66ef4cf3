"""`python -m export verify`: versions checked one after another, a line for each check.

Knows how outcomes are told. What is checked is `export.repository.verification`'s.
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
    """Check versions. Returns the exit code: 1 if anything is wrong.

    Args:
        versions: In the order in which they are checked.
        problems: A line for each model whose versions are not known.
    """
    for problem in problems:
        say(f"{FAILED}  {visible(problem)}")
    # Of many window models TensorFlow says that it traces a function again and again, which is meant.
    tf.get_logger().setLevel("ERROR")
    failed = []
    # One version takes seconds; of many a bar tells how many are left.
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
    good = True
    for outcome in Verification(version).outcomes():
        say(f"  {outcome.verdict:<11}  {visible(outcome.told)}")
        good = good and outcome.verdict != FAILED
        interrupts.raise_if_interrupted()
    return good
