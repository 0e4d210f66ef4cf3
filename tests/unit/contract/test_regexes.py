"""Tokens by regular expressions: decoding is lossless, presets split as their formats do, and in linear time."""

import json
import subprocess
import sys
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.errors import TokenizerError
from contract.tokenizers import RegexTokenizer, huggingface, load_tokenizer
from contract.tokenizers.regexes import PRESETS, join_regexes
from tests.paths import ROOT
from tests.unit.contract.test_chunking import PLACES, cut

# Characters that the presets know, and any others.
KNOWN = st.sampled_from("aCl[]%12Br\":|,;\t\r\n (K^'/!")
TEXTS = st.text(KNOWN | st.characters(exclude_categories=["Cs"]), max_size=80)
presets = pytest.mark.parametrize("preset", PRESETS)


def matches(text, *regexes):
    tokenizer = RegexTokenizer.train([text, text], regexes=regexes)
    return [tokenizer.tokens[i] for i in tokenizer.encode(text)]


@presets
@settings(max_examples=200)
@given(text=TEXTS)
def test_the_training_text_is_decoded_exactly(preset, text):
    for texts in ([text], [text, text]):
        tokenizer = RegexTokenizer.train(texts, regexes=[preset])
        ids = tokenizer.encode(text)
        tokens = [tokenizer.tokens[i] for i in ids]
        assert tokenizer.special.unknown not in ids
        assert tokenizer.decode(ids) == "".join(tokens) == text
        assert [text[a:b] for a, b in pairwise([*tokenizer.offsets(text), len(text)])] == tokens
        assert all(len(token) == 1 or not {"\r", "\n"} & set(token) for token in tokens)


@pytest.mark.parametrize(
    ("preset", "text", "expected"),
    [
        ("smiles", "C[C@@H](Br)c1c(Cl)%12\nO=[N+]([O-])B", "C [C@@H] ( Br ) c 1 c ( Cl ) %12 \n O = [N+] ( [O-] ) B"),
        (
            "abc",
            'X:1\nT:Bob\nK:D dor\n|:"Am7"A,2^c\'3/2 (3def|1!trill!g>a/:|2[K:G]z4||::[1_B//|]',
            'X: 1 \n T: B o b \n K:D\u2423dor \n |: "Am7" A, 2 ^c\' 3/2 \u2423 (3 d e f |1 !trill! g > a / :|2 [K:G] '
            "z 4 || :: [1 _B // |]",
        ),
        (
            "fields",
            'city,note\r\nNew York,"say ""hi"", now";3.5\t,x\n,"open',
            'city , note \r \n New\u2423York , "say\u2423""hi"",\u2423now" ; 3.5 \t , x \n , " open',
        ),
    ],
)
def test_a_preset_splits_as_its_format_does(preset, text, expected):
    """What stands for a space here is U+2423."""
    assert matches(text, preset) == [token.replace("\u2423", " ") for token in expected.split(" ")]


def test_the_first_expression_that_matches_wins_and_what_none_matches_is_a_character():
    assert matches("abcab x", "ab", "abc|b") == ["ab", "c", "ab", " ", "x"]
    assert matches("abcab x", "abc|b", "ab") == ["abc", "ab", " ", "x"]


def test_no_expression_looks_across_a_line_break():
    assert matches("ab\nab", r"(?<=\n)ab", r"a(?=b\n)", r"b\s+a") == [*"ab\nab"]
    assert matches("a b\na b", "^a b$") == ["a b", "\n", "a b"]


def test_a_rare_match_is_spelled_in_characters():
    tokenizer = RegexTokenizer.train(["[Na+]C[Na+].[K+]"], regexes=["smiles"])
    tokens = ("<pad>", "<unk>", "[Na+]", *sorted("NaK[]+C."), "<start>")
    assert tokenizer.tokens == tokens
    assert [tokenizer.tokens[i] for i in tokenizer.encode("[K+][Na+]")] == [*"[K+]", "[Na+]"]


def test_a_match_with_the_name_of_a_special_token_is_spelled():
    """Some texts have `<unk>` in place of rare words; and no prompt has the end token in it."""
    text = "<unk> <pad> <end> <start> <b> " * 2
    tokenizer = RegexTokenizer.train([text], regexes=[r"<\w+>"], end_token=True)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not tokenizer.special.ids & set(ids)
    assert {token for token in tokenizer.tokens if len(token) > 1} == {"<pad>", "<unk>", "<end>", "<b>"}


def test_the_vocabulary_is_limited_as_that_of_exact_words():
    for limits, num_matches in (({}, 2), ({"num_words": 3}, 1), ({"vocab_size": 11}, 1), ({"vocab_size": 10}, 0)):
        tokenizer = RegexTokenizer.train(["[Na+][Na+][Na+][K+][K+]C"], regexes=["smiles"], **limits)
        assert sum(token.startswith("[") and len(token) > 1 for token in tokenizer.tokens) == num_matches, limits


@pytest.mark.parametrize(
    ("regexes", "message"),
    [
        (["ok", "a("], r"regular expression 'a\(' does not compile: .*parenthesis"),
        (["a)|(b"], r"'a\)\|\(b' does not compile"),
        (["(?x)a # no"], r"'\(\?x\)a # no' does not compile"),
        *(([regex], "matches the empty string") for regex in ("x*", "a|", "^", "$", "[^x]*", "")),
        ([r"(a)\1"], r"'\(a\)\\\\1' refers to a group"),
        ([r"(?<q>a)\k<q>"], "refers to a group"),
    ],
    ids=str,
)
def test_an_unusable_expression_is_refused_by_name(regexes, message):
    with pytest.raises(TokenizerError, match=message):
        join_regexes(regexes)


def test_a_backslash_before_a_digit_is_no_reference():
    assert matches(r"a\1", r"\\1") == ["a", r"\1"]


def test_a_file_with_an_expression_that_does_not_compile_is_refused(tmp_path):
    document = json.loads(RegexTokenizer.train(["abab"], regexes=["ab"]).to_json())
    document["pre_tokenizer"]["pretokenizers"][1]["pattern"]["Regex"] = r"(a|[\s\S]"
    (tmp_path / "t.json").write_text(json.dumps(document))
    with pytest.raises(TokenizerError, match=r"t\.json: Hugging Face's library cannot read it: .*parenthesis"):
        load_tokenizer(tmp_path / "t.json")


def test_an_extended_tokenizer_keeps_its_expressions_and_gets_new_characters():
    tokenizer = RegexTokenizer.train(["[Na+]C[Na+]"], regexes=["smiles"])
    extended = tokenizer.extended(["[Na+]OBr"], end_token=True)
    assert extended.tokens == (*(t.replace("<start>", "<end>") for t in tokenizer.tokens), "B", "O", "r")
    assert extended.regexes == tokenizer.regexes
    assert extended.encode("[Na+]C") == tokenizer.encode("[Na+]C")
    assert extended.decode(extended.encode("OBr")) == "OBr"


@settings(max_examples=150)
@given(lines=st.lists(st.text(st.sampled_from('ab ,"\t\x85'), max_size=7), max_size=12), places=PLACES)
def test_chunks_of_lines_encode_and_train_as_the_whole_text(lines, places):
    text = "".join(f"{line};\n" for line in lines)
    tokenizer = RegexTokenizer.train([text], regexes=["fields"])
    found = cut(text, places, size=10)
    assert "".join(found) == text
    assert [i for piece in found for i in tokenizer.encode(piece)] == tokenizer.encode(text)
    assert RegexTokenizer.train(iter(found), regexes=["fields"]).to_json() == tokenizer.to_json()


def test_a_long_text_is_encoded_in_chunks_that_no_cell_crosses(monkeypatch):
    text = "New York,3\n" * 50 + "a b c d e f g," * 50
    tokenizer = RegexTokenizer.train([text], regexes=["fields"])
    whole = tokenizer.encode(text[: 11 * 50])
    monkeypatch.setattr(huggingface, "CHUNK_CHARACTERS", 12)
    assert tokenizer.encode(text[: 11 * 50]) == whole
    # A line that is longer than a chunk is split anywhere, and decoded exactly nevertheless.
    assert max(map(len, huggingface.chunks(text))) <= 24
    assert tokenizer.decode(tokenizer.encode(text)) == text


@presets
def test_encoding_takes_at_most_encoding_bytes(preset):
    code = (
        "from pathlib import Path; from contract.tokenizers import RegexTokenizer\n"
        f"tokenizer = RegexTokenizer.train(['abCl,\\n'], regexes=[{preset!r}]); tokenizer.encode('ab' * 99)\n"
        "peak = lambda: int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) * 1024\n"
        "text, before = 'a,\\n' * 40_000, peak(); tokenizer.encode(text); used = peak() - before\n"
        "print(used, tokenizer.encoding_bytes(len(text)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    used, limit = map(int, result.stdout.split())
    assert 1 << 20 < used <= limit


UNITS = """[ [a % Br " "a "a" ""a "a"" : :| ! ![ [K: K: ( / ^ B,"""


@pytest.mark.parametrize("unit", [*UNITS.split(), "a "])
@presets
def test_a_preset_takes_linear_time(preset, unit):
    tokenizer = RegexTokenizer.train(["ab"], regexes=[preset])

    def seconds(length):
        text, times = unit * (length // len(unit)), []
        for _ in range(3):
            began = time.process_time()
            tokenizer.encode(text)
            times.append(time.process_time() - began)
        return min(times)

    assert seconds(32_000) < 12 * seconds(8_000) + 0.3
