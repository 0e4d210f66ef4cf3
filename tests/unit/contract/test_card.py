"""The generator card: what it accepts, and that a version's files belong together."""

import pytest
from pydantic import ValidationError

from contract.card import GeneratorCard, load_assets
from contract.errors import CardError, ContractError
from contract.tokenizer import CharacterTokenizer, WordTokenizer

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
}


def write(folder, card, tokenizer):
    """Lay out a version's assets."""
    assets = folder / "assets.extra"
    assets.mkdir()
    (assets / "generator.json").write_text(card if isinstance(card, str) else card.model_dump_json())
    (assets / "tokenizer.json").write_text(tokenizer.to_json())
    return folder


def test_card_and_tokenizer_come_back(tmp_path):
    """What an exporter wrote is what the gateway reads."""
    card, tokenizer = GeneratorCard(**FIELDS), CharacterTokenizer.train("abc")
    assert load_assets(write(tmp_path, card, tokenizer)) == (card, tokenizer)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_sizes", (8, 8)),
        ("batch_sizes", (64, 128)),
        ("batch_sizes", ()),
        ("max_decode_steps", 0),
        ("name", "../up"),
        ("cell", "transformer"),
        ("state_size", 0),
        ("format", 1),
    ],
)
def test_a_wrong_field_is_named(field, value):
    """A value out of its bounds is refused, and the message names the field."""
    with pytest.raises(ValidationError, match=field):
        GeneratorCard(**{**FIELDS, field: value})


def test_a_field_of_a_later_minor_format_is_ignored():
    """A card with more than we know can be read."""
    assert GeneratorCard(**FIELDS, mood="cheerful").name == "demo"


def test_a_damaged_card_is_named(tmp_path):
    """A half-written card is an error that names the file."""
    with pytest.raises(CardError, match=r"generator\.json"):
        load_assets(write(tmp_path, '{"name": "demo"', CharacterTokenizer.train("abc")))


@pytest.mark.parametrize("found", [1, 4])
def test_a_version_of_another_format_says_how_to_export_it_again(found, tmp_path):
    """Both formats and the command, in one line, whatever else the card holds."""
    folder = tmp_path / "models" / "demo" / "7"
    folder.mkdir(parents=True)
    write(folder, f'{{"format": {found}, "name": "demo"}}', CharacterTokenizer.train("abc"))
    with pytest.raises(CardError) as error:
        load_assets(folder)
    assert str(error.value) == (
        f"{folder}: exported in format {found}, and this release reads 3; export it again with: "
        f"python -m export publish runs/demo --models-dir {tmp_path / 'models'}"
    )


@pytest.mark.parametrize("tokenizer", [CharacterTokenizer.train("abcdef"), WordTokenizer.train(["a"])])
def test_a_tokenizer_that_does_not_fit_its_card_is_refused(tokenizer, tmp_path):
    """A vocabulary larger than the model's output, or of another unit, is an error with both sizes."""
    with pytest.raises(ContractError, match="vocab_size 6 of unit 'character' does not fit"):
        load_assets(write(tmp_path, GeneratorCard(**FIELDS), tokenizer))
