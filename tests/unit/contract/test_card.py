"""The generator card: validation, and consistency of the files of a version."""

import json

import pytest
from pydantic import ValidationError

from contract.card import GeneratorCard, load_assets
from contract.errors import ContractError
from contract.signatures import REVISION
from contract.tokenizers import CharacterTokenizer, WordTokenizer

FIELDS = {
    "name": "demo",
    "cell": "gru",
    "layers": 1,
    "units": 8,
    "embedding": 4,
    "state_size": 8,
    "vocab_size": 6,
    "unit": "character",
    "weights_sha256": "0" * 64,
    "code_sha256": "0" * 64,
    "tensorflow": "2.21.0",
    "created": 1,
    "activations": (("hidden", 1, 8),),
    "revision": REVISION,
}


def write(folder, card, tokenizer):
    assets = folder / "assets.extra"
    assets.mkdir()
    (assets / "generator.json").write_text(card if isinstance(card, str) else card.model_dump_json())
    (assets / "tokenizer.json").write_text(tokenizer.to_json())
    return folder


def test_assets_are_loaded_as_they_were_written_without_unknown_fields(tmp_path):
    card, tokenizer = GeneratorCard(**FIELDS), CharacterTokenizer.train("abc")
    text = json.dumps({**json.loads(card.model_dump_json()), "mood": "cheerful"})
    loaded, loaded_tokenizer = load_assets(write(tmp_path, text, tokenizer))
    assert (loaded, type(loaded_tokenizer), loaded_tokenizer.to_json()) == (card, type(tokenizer), tokenizer.to_json())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("batch_sizes", sizes) for sizes in ((8, 8), (64, 128), ())),
        *(("max_decode_steps", 0), ("name", "../up"), ("cell", "transformer")),
        *(("state_size", 0), ("activations", ()), ("format", 1)),
    ],
)
def test_an_invalid_field_is_rejected_by_name(field, value):
    with pytest.raises(ValidationError, match=field):
        GeneratorCard(**{**FIELDS, field: value})


def test_the_activations_of_a_file_are_its_traces():
    """The name in the files of earlier releases, and the one that these releases read."""
    card = GeneratorCard(**FIELDS)
    written = json.loads(card.model_dump_json())
    assert (written["traces"], "activations" in written) == ([["hidden", 1, 8]], False)
    assert GeneratorCard.model_validate(written) == card


def test_a_truncated_card_raises_an_error_with_its_file(tmp_path):
    with pytest.raises(ContractError, match=r"generator\.json"):
        load_assets(write(tmp_path, '{"name": "demo"', CharacterTokenizer.train("abc")))


@pytest.mark.parametrize(
    ("field", "found"), [("format", 1), ("format", 5), ("revision", 1), ("revision", 2), ("revision", 4)]
)
def test_a_version_of_another_format_is_rejected_with_the_export_command(field, found, tmp_path):
    folder = tmp_path / "models" / "demo" / "7"
    folder.mkdir(parents=True)
    card = {**GeneratorCard(**FIELDS).model_dump(mode="json"), field: found}
    if card["revision"] == 1:
        del card["revision"]
    write(folder, json.dumps(card), CharacterTokenizer.train("abc"))
    with pytest.raises(ContractError) as error:
        load_assets(folder)
    assert str(error.value) == (
        f"{folder}: exported in {field} {found}, but this release reads format 4, revision 3; export it again with: "
        f"sostenuto publish runs/demo --models-dir {tmp_path / 'models'}"
    )


@pytest.mark.parametrize("tokenizer", [CharacterTokenizer.train("abcdef"), WordTokenizer.train(["a"])])
def test_a_tokenizer_that_does_not_match_its_card_is_rejected(tokenizer, tmp_path):
    """A vocabulary larger than the model's output, or of another unit."""
    with pytest.raises(ContractError, match="vocab_size 6 of unit 'character' does not fit"):
        load_assets(write(tmp_path, GeneratorCard(**FIELDS), tokenizer))
