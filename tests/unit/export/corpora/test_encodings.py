"""Text that is not UTF-8 is rejected with the name of its most likely encoding."""

import random
import re
import shutil
import subprocess
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.corpora import encodings
from export.corpora.encodings import decode
from export.errors import NotText

GERMAN = "Die Größe der Häuser überraschte mich; „süße Äpfel“, sagte er, während die Vögel sangen.\n"
FRENCH = "Le garçon a mangé une pêche très sucrée à la fête de l'été, où il était allé avec sa mère.\n"
POLISH = "Zażółć gęślą jaźń. Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.\n"
RUSSIAN = "Съешь ещё этих мягких французских булок, да выпей же чаю. Все счастливые семьи похожи друг на друга.\n"
GREEK = "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.\n"
ARABIC = "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.\n"
THAI = "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์\n"
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n"
CHINESE = "道可道,非常道。名可名,非常名。无名天地之始;有名万物之母。故常无欲以观其妙。\n"
TAIWANESE = "道可道,非常道。名可名,非常名。無名天地之始;有名萬物之母。故常無欲以觀其妙。\n"
KOREAN = "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.\n"
NOISE = bytes(random.Random(0).choices(range(1, 256), k=3000))
# Python's name of the encoding, a text in it, and the name in the message.
SAMPLES = [
    ("cp1252", GERMAN, "CP1252"),
    ("latin-1", FRENCH, "CP1252"),
    ("iso8859-2", POLISH, "ISO8859-2"),
    ("mac-roman", GERMAN, "MACINTOSH"),
    ("cp1251", RUSSIAN, "CP1251"),
    ("koi8-r", RUSSIAN, "KOI8-R"),
    ("cp866", RUSSIAN, "CP866"),
    ("cp1253", GREEK, "CP1253"),
    ("cp1256", ARABIC, "CP1256"),
    ("cp874", THAI, "CP874"),
    ("shift-jis", JAPANESE, "CP932"),
    ("euc-jp", JAPANESE, "EUC-JP"),
    ("gb18030", CHINESE, "GB18030"),
    ("big5", TAIWANESE, "BIG5"),
    ("euc-kr", KOREAN, "CP949"),
    ("utf-16", GERMAN, "UTF-16"),
    ("utf-32", GERMAN, "UTF-32"),
]


def message(content, path=None):
    """Return the error message for bytes that are rejected."""
    with pytest.raises(NotText) as error:
        decode(content, path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("repeat", [1, 3000], ids=["short", "long"])
@pytest.mark.parametrize(("encoding", "text", "name"), SAMPLES, ids=lambda value: value[:12])
def test_the_likely_encoding_is_named(encoding, text, name, repeat):
    told = message((text * repeat).encode(encoding))
    assert f"this is {name}, " in told or f"most likely {name}" in told
    assert f"iconv -f {name} -t UTF-8" in told


@pytest.mark.parametrize("before", [20_000, 87_380])
@pytest.mark.parametrize(("encoding", "text", "name"), [SAMPLES[0], SAMPLES[11]], ids=["cp1252", "euc-jp"])
def test_the_encoding_of_a_late_line_is_named(encoding, text, name, before):
    told = message((b"plain lines\n" * before) + (text * 9).encode(encoding))
    assert f"most likely {name}" in told


@pytest.mark.skipif(not shutil.which("iconv"), reason="iconv is not installed")
@pytest.mark.parametrize(("encoding", "text"), [sample[:2] for sample in SAMPLES], ids=lambda value: value[:12])
def test_the_suggested_iconv_command_converts_the_file(encoding, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my book.txt").write_bytes(text.encode(encoding))
    command = message(text.encode(encoding), "my book.txt").partition("with: ")[2]
    subprocess.run(command, shell=True, check=True)
    assert decode((tmp_path / "my book.utf-8.txt").read_bytes()) == text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"GIF89a\0\1", "byte 0 at offset 6: this is binary"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\2", "byte 0 at offset 8: this is binary"),
        ("Größe".encode()[:3], "byte 0xc3 at offset 2 starts a character whose other bytes are missing"),
        ("ä".encode() + b" and \xe4 \n", "not UTF-8 from byte 0xe4 at offset 7 on; the file is damaged"),
        (b"\xef\xbb\xbfab\xffcd", "not UTF-8 but most likely"),
        (NOISE, "byte 0xd8 at offset 0, and no other known encoding fits"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_undecodable_content_is_reported_by_its_first_bad_byte(content, expected):
    """No encoding is guessed for a file that is binary, truncated or in two encodings."""
    assert expected in message(content)


def outcome(content):
    """Return the decoded text, or the error message."""
    try:
        return decode(content, "a b.txt")
    except NotText as error:
        return f"refused: {error}"


PARTS = [b"\xef\xbb\xbf", b"a\n", "ä語😀".encode(), b"\0", b"\xff", b"\xfe", b"\xc3", b"\xe8\xaa", b"b c "]


@settings(deadline=None)
@given(content=st.lists(st.sampled_from(PARTS), max_size=8).map(b"".join), block_bytes=st.integers(1, 9))
def test_the_result_does_not_depend_on_the_block_size(content, block_bytes):
    whole = outcome(content)
    with patch.object(encodings, "BLOCK_BYTES", block_bytes):
        in_blocks = outcome(content)
    if whole.startswith("refused") and b"\0" in content:
        assert in_blocks.startswith("refused")
    elif whole.startswith("refused"):
        assert re.search(r"offset \d+|$", in_blocks)[0] == re.search(r"offset \d+|$", whole)[0]
    else:
        assert in_blocks == whole
