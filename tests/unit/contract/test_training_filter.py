"""A training filter recognizes whole documents by text, or spans by token ids; its file is read as a whole."""

import hashlib
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import splitmix64
from contract.bloom_filter import BloomFilter
from contract.errors import ContractError
from contract.training_filter import DOCUMENTS, SPANS, TrainingFilter, concatenated, load_training_filter, polynomials
from tests.paths import ROOT

FACTOR, STRIDE_AT = 0xD1342543DE82EF95, 28


def of_documents(*documents):
    bloom = BloomFilter.sized(len(documents), 1e-5)
    for document in documents:
        symbols = np.frombuffer(document.encode(), np.uint8)
        bloom.add(splitmix64.mix(polynomials(symbols, np.array([0]), np.array([len(symbols)]))))
    return TrainingFilter(DOCUMENTS, bloom, len(documents), bloom.false_positive_rate())


def of_spans(token_ids, span_tokens, stride=1):
    ids = np.array(token_ids, np.uint16)
    starts = np.arange(0, len(ids) - span_tokens + 1, stride)
    bloom = BloomFilter.sized(len(starts), 1e-7)
    bloom.add(splitmix64.mix(polynomials(ids, starts, starts + span_tokens)))
    return TrainingFilter(SPANS, bloom, len(starts), bloom.false_positive_rate(), span_tokens, stride)


def reread(training_filter):
    """Read what a filter writes, in memory."""
    return TrainingFilter.from_buffer(np.frombuffer(training_filter.to_bytes(), np.uint8))


def loaded(folder, training_filter):
    (folder / "training.bloom").write_bytes(training_filter.to_bytes())
    return load_training_filter(folder / "training.bloom")


SYMBOLS = st.lists(st.integers(0, 2**16 - 1), min_size=1)


@given(symbols=SYMBOLS, data=st.data())
def test_a_polynomial_is_the_sum_of_its_terms(symbols, data):
    """Anywhere in the sequence, for parts that overlap and for empty ones."""
    places = st.integers(0, len(symbols))
    parts = [sorted(pair) for pair in data.draw(st.lists(st.tuples(places, places), min_size=1))]
    starts, stops = np.array(parts).T
    found = polynomials(np.array(symbols, np.uint16), starts, stops).tolist()
    for value, (start, stop) in zip(found, parts, strict=True):
        assert value == sum((symbols[i] + 1) * pow(FACTOR, i - start, 2**64) for i in range(start, stop)) % 2**64


@given(symbols=SYMBOLS, data=st.data())
def test_the_polynomial_of_a_part_follows_from_those_of_its_halves(symbols, data):
    cut = data.draw(st.integers(0, len(symbols)))
    starts, stops = np.array([(0, len(symbols)), (0, cut), (cut, len(symbols))]).T
    whole, head, tail = polynomials(np.array(symbols), starts, stops).tolist()
    assert concatenated(head, cut, tail) == whole


@given(documents=st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1))
def test_every_document_is_found_and_only_as_a_whole(documents):
    for training_filter in (own := of_documents(*documents), reread(own)):
        assert all(training_filter.contains([], document) for document in documents)
        others = {document + "x" for document in documents} | {document[1:] for document in documents}
        # By chance none of these few is found.
        assert not any(training_filter.contains([], other) for other in others - {*documents})


def test_an_empty_generation_is_no_copy():
    """A document whose words were all filtered out is empty, too."""
    training_filter = of_documents("", "a")
    assert (training_filter.contains([], ""), training_filter.contains([], "a")) == (False, True)
    assert len(training_filter.find_spans([1, 2, 3])) == 0


@given(
    training=st.lists(st.integers(0, 60), min_size=8, max_size=60),
    other=st.lists(st.integers(61, 99), max_size=20),
    stride=st.integers(1, 4),
    data=st.data(),
)
def test_every_copy_of_a_span_is_found_where_it_starts(training, other, stride, data):
    length = data.draw(st.integers(5, len(training) - stride + 1)) + stride - 1
    start = data.draw(st.integers(0, len(training) - length))
    generated = [*other, *training[start : start + length], *other]
    for training_filter in (own := of_spans(training, length - stride + 1, stride), reread(own)):
        found = training_filter.find_spans(generated)
        assert {*range(len(other), len(other) + stride)} & {*found.tolist()}
        assert training_filter.contains(generated, "")
        # The tokens on either side do not occur in the training text.
        assert all(len(other) <= at <= len(other) + stride - 1 for at in found)
        assert not training_filter.contains([*other, *training[start : start + length - stride], *other], "")


def test_fewer_tokens_than_a_span_are_no_copy():
    training_filter = of_spans(range(50), 10)
    for count in (0, 1, 9):
        assert not training_filter.contains([*range(count)], "")
    assert training_filter.contains([*range(10)], "")
    assert training_filter.find_spans([99, *range(12), 99]).tolist() == [1, 2, 3]


def test_a_span_counts_if_half_of_it_follows_the_prompt():
    """Who continues a known line wants a continuation, and has written that line."""
    training_filter = of_spans([*range(100)], 10)
    prompt_ids = np.arange(30)
    assert training_filter.contains([30, 31, 32, 33, 34, 99, 99], "", prompt_ids)
    assert training_filter.contains([30, 31, 32, 33, 34], "", prompt_ids)
    assert not training_filter.contains([30, 31, 32, 33, 99, 99], "", prompt_ids)
    assert not training_filter.contains([99] * 20, "", prompt_ids)
    assert not training_filter.contains([], "", prompt_ids)
    assert not of_spans([*range(100)], 1).contains([200], "", prompt_ids)


def test_the_file_has_every_attribute(tmp_path):
    for own in (of_documents("a", "b"), of_spans(range(50), 10, 3)):
        read = loaded(tmp_path, own)
        names = ("kind", "num_entries", "false_positive_rate", "span_tokens", "stride", "num_bytes")
        assert [getattr(read, name) for name in names] == [getattr(own, name) for name in names]
        assert (read.bloom.num_hashes, read.bloom.num_bits) == (own.bloom.num_hashes, own.bloom.num_bits)
        assert read.num_bytes == (tmp_path / "training.bloom").stat().st_size
        assert read.to_bytes() == own.to_bytes()


def test_truncating_the_file_does_not_end_a_process_that_has_loaded_it():
    """Memory-mapped pages beyond the end of a file are SIGBUS."""
    code = """
import os, sys, tempfile
from pathlib import Path
from tests.unit.contract.test_training_filter import loaded, of_spans
with tempfile.TemporaryDirectory() as folder:
    read = loaded(Path(folder), of_spans(range(50), 10))
    os.truncate(Path(folder) / "training.bloom", 0)
    sys.exit(0 if len(read.find_spans(range(50))) == 41 else 1)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0


def test_a_file_of_another_hash_than_the_card_s_is_refused(tmp_path):
    """Altered attributes of a header, such as the span length, are valid by themselves."""
    own, path = of_spans(range(50), 10), tmp_path / "training.bloom"
    path.write_bytes(own.to_bytes())
    assert load_training_filter(path, own.sha256()).to_bytes() == own.to_bytes()
    path.write_bytes(changed(own.to_bytes(), 24, 50))
    assert load_training_filter(path).span_tokens == 50
    with pytest.raises(ContractError, match=rf"training\.bloom: has the hash .*card says {own.sha256()[:12]}"):
        load_training_filter(path, own.sha256())


def test_a_file_larger_than_the_limit_is_refused_unread(tmp_path):
    """The header's size counts apart."""
    path = tmp_path / "training.bloom"
    with path.open("wb") as file:
        file.truncate(64 * 2**20 + 65)
    with pytest.raises(ContractError, match=r"training\.bloom: must have at most 67,108,928 bytes, got 67,108,929"):
        load_training_filter(path)


def test_a_version_without_the_file_has_no_filter(tmp_path):
    """An imported model has none."""
    assert load_training_filter(tmp_path / "training.bloom") is None
    with pytest.raises(ContractError, match="is not a regular file"):
        load_training_filter(tmp_path)


def changed(content, at, value):
    """Replace an unsigned integer of 32 bits."""
    return content[:at] + struct.pack("<I", value) + content[at + 4 :]


DAMAGED = {
    "empty": (lambda content: b"", "not a training filter: it must start with b'training-filter1'"),
    "other": (lambda content: b"x" + content[1:], "not a training filter"),
    "only a header": (lambda content: content[:64], r"the header says \d+ bits, but the file has 0"),
    "truncated": (lambda content: content[:-1], r"the header says \d+ bits, but the file has \d+"),
    "kind": (lambda content: changed(content, 16, 7), r"kind 7 \(0 documents, 1 spans\) with 10 tokens"),
    "spans of documents": (lambda content: changed(content, 16, 0), r"kind 0 .* with 10 tokens per span"),
    "no hashes": (lambda content: changed(content, 20, 0), "hashes per entry must be from 1 to 64, got 0"),
    "many hashes": (lambda content: changed(content, 20, 65), "hashes per entry must be from 1 to 64, got 65"),
    "no tokens": (lambda content: changed(content, 24, 0), "with 0 tokens per span and stride 1"),
    "stride": (lambda content: changed(content, STRIDE_AT, 0), "10 tokens per span and stride 0"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_refused(tmp_path, damage):
    change, message = DAMAGED[damage]
    path = tmp_path / "training.bloom"
    path.write_bytes(change(of_spans(range(50), 10).to_bytes()))
    with pytest.raises(ContractError, match=rf"training\.bloom: .*{message}"):
        load_training_filter(path)


def test_the_format_does_not_change():
    """Filters of published versions are read by later releases."""
    content = of_documents("a", "größe").to_bytes() + of_spans(range(50), 10).to_bytes()
    assert hashlib.sha256(content).hexdigest() == "c56bcc2851f6349f1c0ee13f72e1cbed2e977c009b77d6c5d3661b8da2aef8cb"
