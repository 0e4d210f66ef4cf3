"""`make run` with and without a corpus of one's own."""

import subprocess

import pytest

from tests.paths import ROOT


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ([], "--config demo --if-empty"),
        (["CORPUS=texts/book.txt"], '"texts/book.txt" --if-new --name "book" --documents none'),
        (["CORPUS=book.txt", "NAME=mine"], '"book.txt" --if-new --name "mine" --documents none'),
        (["CORPUS=table.csv"], '"table.csv" --if-new --name "table" --documents records'),
        (["CORPUS=state-of-the-union"], '"state-of-the-union" --if-new --name "state-of-the-union" --documents file'),
        (["CORPUS=docs"], '"docs" --if-new --name "docs" --documents file'),
        (["CORPUS=pydoc-topics"], '"pydoc-topics" --if-new --name "pydoc-topics" --documents file'),
    ],
)
def test_make_run_trains_on_the_given_corpus(given, options):
    done = subprocess.run(["make", "-n", "run", *given], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"-m export train {options}\n" in done.stdout
