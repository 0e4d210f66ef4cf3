"""Training settings come from a TOML file and the command line; errors name field, limit and value."""

from pathlib import Path

import pytest

from export import config as config_module
from export.config import DEFAULT_RECIPE, RECIPES, TrainConfig, load_config, recipe_for
from export.errors import ConfigError

NEEDED = {"name": "m", "corpus": "c.txt"}


@pytest.fixture(autouse=True)
def is_fast(monkeypatch):
    """The CPU has AMX."""
    monkeypatch.setattr(config_module, "has_amx", lambda: True)


@pytest.fixture
def toml(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('name = "m"\ncorpus = "c.txt"\nunits = 32\nepochs = 3\n')
    return path


def test_only_name_and_corpus_are_required():
    config = load_config(None, NEEDED)
    assert (config.name, config.corpus, config.token_unit, config.cell) == ("m", "c.txt", "character", "lstm")


@pytest.mark.parametrize(
    ("corpus", "name"),
    [("texts/book.txt", "book"), ("texts/songs/", "songs"), ("shakespeare", "shakespeare"), ("a.b.txt", "a.b")],
)
def test_the_model_is_named_after_its_corpus(corpus, name, toml):
    assert load_config(None, {"corpus": corpus}).name == name
    assert load_config(RECIPES["demo"], {"corpus": corpus}).name == name
    assert load_config(toml, {"corpus": corpus}).name == "m"


@pytest.mark.parametrize(
    ("corpus", "message"),
    [("-", r"name is required \(--name\)"), ("my book.txt", "got 'my book'; choose another with --name")],
)
def test_a_corpus_that_names_no_model_asks_for_a_name(corpus, message):
    """Standard input has none, and that of a file may have characters that a model's must not have."""
    with pytest.raises(ConfigError, match=message):
        load_config(None, {"corpus": corpus})


def test_the_command_line_overrides_the_file(toml):
    config = load_config(toml, {"units": 64})
    assert (config.units, config.epochs) == (64, 3)


def test_a_file_names_the_base_as_the_command_line_does(toml):
    """`from` is no name in Python, so the setting has another one in it; the architecture is not known yet."""
    toml.write_text('name = "m"\ncorpus = "c.txt"\nfrom = "book:2"\nconnections = "skip"\nnum_words = 9\n')
    config = load_config(toml, {})
    assert (config.base, config.connections) == ("book:2", "skip")
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
    assert load_config(toml, {"from": "book:3"}).base == "book:3"


@pytest.mark.parametrize("path", RECIPES.values(), ids=lambda path: path.name)
def test_every_recipe_is_valid_and_limits_its_minutes(path):
    assert load_config(path, {"name": "m", "corpus": "c"}).max_minutes


@pytest.mark.parametrize(
    ("given", "probability"),
    [
        ({}, 0.0),
        ({"documents": "none"}, 0.0),
        ({"documents": "lines"}, 0.05),
        ({"documents": "records", "label_column": ["style"]}, 0.05),
        ({"label_column": ["style"]}, 0.05),
        ({"corpus": "c.csv"}, 0.05),
        ({"documents": "lines", "state_reset_probability": 0.0}, 0.0),
    ],
)
def test_documents_are_trained_from_the_zero_state_too_whatever_a_recipe_says(given, probability):
    """Documents are generated from the zero state, and recipes that never reset it are for one running text."""
    config = load_config(RECIPES["characters-3-minutes"], {"name": "m", "corpus": "c", **given})
    assert config.state_reset_probability == probability


@pytest.mark.parametrize(
    ("corpus", "given", "documents"),
    [
        ("a.jsonl", {}, "records"),
        ("text/A.CSV", {}, "records"),
        ("a.csv", {"documents": "none"}, "none"),
        ("a.csv.txt", {}, "none"),
    ],
)
def test_records_are_documents_by_default(toml, corpus, given, documents):
    """A recipe or a file of settings without `documents` does not matter; one with it does."""
    for path in (None, RECIPES["characters"], toml):
        assert load_config(path, {"name": "m", "corpus": corpus, **given}).documents == documents
    toml.write_text(f'corpus = "{corpus}"\ndocuments = "lines"')
    assert load_config(toml, given).documents == given.get("documents", "lines")


@pytest.mark.parametrize(
    ("num_bytes", "given", "rates"),
    [
        (1_200_000, {}, (0.2, 0.06, 0.07, 0.01)),
        (600_000, {}, (0.4, 0.12, 0.14, 0.01)),
        (840_000, {}, (0.303, 0.091, 0.106, 0.01)),
        (50_000, {}, (0.65, 0.195, 0.228, 0.01)),
        (1_800_000, {}, (0.083, 0.025, 0.029, 0.01)),
        (2_400_000, {}, (0, 0, 0, 0.01)),
        (10**9, {}, (0, 0, 0, 0.01)),
        (10**9, {"dropout": 0.3}, (0.3, 0, 0, 0.01)),
        (600_000, {"learning_rate": 0.02}, (0.4, 0.12, 0.14, 0.02)),
        (1_200_000, {"max_minutes": 5.8}, (0.4, 0.12, 0.14, 0.01)),
        (600_000, {"max_minutes": 1.45}, (0.2, 0.06, 0.07, 0.01)),
        (50_000, {"epochs": 7}, (0.2, 0.06, 0.07, 0.01)),
        (10**9, {"epochs": 14}, (0.4, 0.12, 0.14, 0.01)),
        (50_000, {"epochs": 150}, (0.65, 0.195, 0.228, 0.01)),
        (50_000, {"epochs": 3}, (0, 0, 0, 0.01)),
        (50_000, {"epochs": 3, "max_minutes": 60}, (0, 0, 0, 0.01)),
        (1_200_000, {"epochs": 14, "max_minutes": 2.9}, (0.2, 0.06, 0.07, 0.01)),
    ],
)
@pytest.mark.parametrize("is_directory", [False, True])
def test_a_recipe_has_rates_by_how_often_the_text_is_read(tmp_path, num_bytes, given, rates, is_directory):
    """In the same minutes, a longer one is read less often; a number of epochs says how often."""
    book = tmp_path / "texts" / "book.txt"
    book.parent.mkdir()
    hidden = book.with_name(".git") / "pack"
    hidden.parent.mkdir()
    for path, size in ((book, num_bytes), (hidden, 10**9)):
        with path.open("wb") as file:
            file.truncate(size)
    corpus = book.parent if is_directory else book
    config = load_config(RECIPES["characters-3-minutes"], {"corpus": str(corpus), **given})
    assert (config.dropout, config.embedding_dropout, config.recurrent_dropout, config.learning_rate) == rates


@pytest.mark.parametrize(
    ("num_bytes", "given", "epochs"),
    [
        (50_000, {}, 120),
        (100_000, {}, None),
        (100_000, {"max_minutes": 20}, 120),
        (50_000, {"epochs": 150}, 150),
        (50_000, {"epochs": 150, "max_minutes": 20}, 150),
    ],
)
def test_a_text_is_read_at_most_120_times_unless_epochs_are_given(tmp_path, num_bytes, given, epochs):
    book = tmp_path / "book.txt"
    book.write_bytes(b"a" * num_bytes)
    config = load_config(RECIPES["characters-3-minutes"], {"corpus": str(book), **given})
    assert (config.epochs, config.max_minutes is None) == (epochs, given == {"epochs": 150})


@pytest.mark.parametrize(
    ("minutes", "num_bytes", "recipe"),
    [
        (3, 1_200_000, "characters-3-minutes"),
        (20, 1_200_000, "characters"),
        (20, 250_000, "characters"),
        (20, 249_999, "characters-3-minutes"),
        (600, 1_200_000, "characters-hour"),
        (600, 100_000, "characters-3-minutes"),
    ],
)
def test_a_short_text_has_the_default_recipe_whatever_the_minutes(tmp_path, minutes, num_bytes, recipe):
    book = tmp_path / "book.txt"
    book.write_bytes(b"a" * num_bytes)
    assert recipe_for(minutes, str(book)) == recipe


@pytest.mark.parametrize(
    ("num_bytes", "given", "units"),
    [
        (1_200_000, {}, 512),
        (1_200_000, {"max_minutes": 5.8}, 512),
        (1_200_000, {"max_minutes": 1}, 384),
        (10**9, {"max_minutes": 0.3}, 256),
        (10**9, {"max_minutes": 0.001}, 128),
        (300_000, {"max_minutes": 1}, 512),  # read ten times
        (1_200_000, {"epochs": 1}, 512),
        (1_200_000, {"max_minutes": 1, "units": 300}, 300),
        (1_200_000, {"max_minutes": 1, "base": "other:1"}, 512),
    ],
)
def test_a_short_run_trains_fewer_units(tmp_path, num_bytes, given, units):
    """Unless it reads a short text often."""
    book = tmp_path / "book.txt"
    with book.open("wb") as file:
        file.truncate(num_bytes)
    assert load_config(RECIPES["characters-3-minutes"], {"corpus": str(book), **given}).units == units


@pytest.mark.parametrize(
    ("given", "num_characters", "fraction"),
    [
        ({}, 1_000, 0.1),
        ({}, 5_000_000, 0.1),
        ({}, 50_000_000, 0.01),
        ({"validation": 0.2}, 50_000_000, 0.2),
        ({"validation": 0}, 1_000, 0),
        ({"bidirectional": True}, 1_000_000, 0.025),
        ({"bidirectional": True, "context_length": 50}, 1_000_000, 0.01),
        ({"bidirectional": True}, 1_000, 0.1),
    ],
)
def test_a_tenth_but_at_most_half_a_million_characters_are_held_out(given, num_characters, fraction):
    config = load_config(None, {"name": "m", "corpus": "c", **given})
    assert config.validation_fraction(num_characters) == fraction


@pytest.mark.parametrize("text", ["a" * 600_000, "ж" * 600_000, "中" * 600_000], ids=["ascii", "cyrillic", "chinese"])
def test_how_often_a_text_is_read_depends_on_its_characters(tmp_path, text):
    """Not on its bytes."""
    book = tmp_path / "book.txt"
    book.write_text(text)
    assert load_config(RECIPES["characters-3-minutes"], {"corpus": str(book)}).dropout == pytest.approx(0.4, abs=1e-3)


def test_the_reader_of_the_corpus_reports_a_file_that_cannot_be_read():
    """Reading the memory of a process from its start is an I/O error."""
    given = {"name": "m", "corpus": "/proc/self/mem"}
    assert load_config(RECIPES["characters-3-minutes"], given).dropout == 0.2


@pytest.mark.parametrize(
    ("has_bfloat16", "slower", "units", "dropout_with_gpu"), [(False, 4, 384, 0.6), (True, 2, 512, 0.4)]
)
def test_a_slow_cpu_reads_a_text_less_often(monkeypatch, has_bfloat16, slower, units, dropout_with_gpu):
    monkeypatch.setattr(config_module, "has_amx", lambda: False)
    monkeypatch.setattr(config_module, "multiplies_bfloat16", lambda: has_bfloat16)
    monkeypatch.setattr(config_module, "has_gpu", lambda: False)
    given = {"name": "m", "corpus": "-", "max_minutes": slower * 2.9}
    assert load_config(RECIPES["characters-3-minutes"], given).dropout == 0.2
    assert load_config(RECIPES["characters-3-minutes"], {**given, "max_minutes": 2.9}).units == units
    monkeypatch.setattr(config_module, "has_gpu", lambda: True)
    assert load_config(RECIPES["characters-3-minutes"], given).dropout == dropout_with_gpu


@pytest.mark.parametrize(
    ("corpus", "dropout"), [("shakespeare", 0), ("state-of-the-union", 0), ("pydoc-topics", 0.474), ("-", 0.2)]
)
def test_the_length_of_a_built_in_corpus_is_known(corpus, dropout):
    config = load_config(RECIPES["characters-3-minutes"], {"name": "m", "corpus": corpus})
    assert config.dropout == pytest.approx(dropout, abs=1e-3)


@pytest.mark.parametrize(("given", "dropout"), [({}, 0.2), ({"context_length": 40}, 0)])
def test_a_sliding_window_model_reads_a_text_less_often(tmp_path, given, dropout):
    """It computes 20 tokens in two directions for each one, by default."""
    book = tmp_path / "book.txt"
    book.write_text("a" * 30_000)
    config = load_config(RECIPES["characters-3-minutes"], {"corpus": str(book), "bidirectional": True, **given})
    assert config.dropout == dropout


def test_documents_do_not_change_what_a_file_of_settings_says(toml):
    toml.write_text("state_reset_probability = 0.2")
    assert load_config(toml, {"corpus": "c", "documents": "lines"}).state_reset_probability == 0.2


@pytest.mark.parametrize(
    ("recipe", "given", "rates"),
    [
        ("characters", {}, (0.6, 0.2, 0.1, 0.004)),
        ("characters", {"corpus": "book.txt"}, (0.6, 0.2, 0.1, 0.004)),
        ("characters", {"epochs": 7}, (0.246, 0.082, 0.041, 0.01)),
        ("characters-hour", {"epochs": 3}, (0, 0, 0, 0.01)),
        ("words", {}, (0.7, 0.3, 0.2, 0.004)),
        ("words", {"epochs": 2}, (0, 0, 0, 0.01)),
        ("words", {"epochs": 5}, (0.343, 0.147, 0.098, 0.01)),
        ("subwords", {"epochs": 17}, (0.7, 0.3, 0.2, 0.004)),
        ("english", {"epochs": 1}, (0.1, 0, 0, 0.004)),
    ],
)
def test_the_other_recipes_have_their_own_rates_at_most(tmp_path, monkeypatch, recipe, given, rates):
    """A short text gets no more; recipes for one text do not depend on the passes."""
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text("a")
    config = load_config(RECIPES[recipe], {"name": "m", "corpus": "-", **given})
    assert (config.dropout, config.embedding_dropout, config.recurrent_dropout, config.learning_rate) == rates


def test_every_setting_has_a_description():
    assert all(field.description for field in TrainConfig.model_fields.values())


WRONG = {
    "name": ("../up", r"name: must be 1 to 64 letters, .*got '\.\./up'"),
    "corpus": ("", "corpus: .*at least 1 character, got ''"),
    "documents": ("pages", "documents: .*'none', 'file', 'lines', 'blank-line' or 'records', got 'pages'"),
    "token_unit": ("byte", "token_unit: .*'character', 'word', 'exact_word', 'subword' or 'regex', got 'byte'"),
    "cell": ("rnn", "cell: .*'simple_rnn', 'lstm' or 'gru', got 'rnn'"),
    "layers": (9, "layers: .*less than or equal to 8, got 9"),
    "units": (0, "units: .*greater than or equal to 1, got 0"),
    "embedding": (2.5, "embedding: .*valid integer.*, got 2.5"),
    "dropout": (1.0, "dropout: .*less than 1, got 1.0"),
    "direction": ("up", "direction: .*'forward' or 'backward', got 'up'"),
    "connections": ("all", "connections: .*'none', 'residual' or 'skip', got 'all'"),
    "context_length": (0, "context_length: .*greater than or equal to 1, got 0"),
    "recurrent_dropout": (-0.1, "recurrent_dropout: .*greater than or equal to 0, got -0.1"),
    "activation_regularization": (-1, "activation_regularization: .*greater than or equal to 0, got -1"),
    "state_reset_probability": (1, "state_reset_probability: .*less than 1, got 1"),
    "batch_size": (10**6, "batch_size: .*less than or equal to 4096, got 1000000"),
    "patience": (True, "patience: must not be true or false, got True"),
    "epochs": (-1, "epochs: .*greater than or equal to 1, got -1"),
    "max_minutes": (float("inf"), "max_minutes: .*finite number, got inf"),
    "learning_rate": (float("nan"), "learning_rate: .*got nan"),
    "weight_decay": (float("inf"), "weight_decay: .*finite number, got inf"),
    "clip_norm": (float("inf"), "clip_norm: .*finite number, got inf"),
    "validation": (1, "validation: .*less than 1, got 1"),
    "seed": (2**31, "seed: .*less than 2147483648, got 2147483648"),
}


@pytest.mark.parametrize("field", WRONG)
def test_an_invalid_value_is_reported_with_field_limit_and_value(field):
    value, message = WRONG[field]
    with pytest.raises(ConfigError, match=message):
        load_config(None, {**NEEDED, field: value})


def test_an_unknown_setting_is_an_error_that_lists_the_known_ones(toml):
    toml.write_text('name = "m"\ncorpus = "c"\nunist = 3\n')
    with pytest.raises(ConfigError, match=r"unist is not a setting; settings are name, corpus, .*units"):
        load_config(toml, {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"connections": "residual"}, "connections = residual requires at least 2 layers"),
        ({"connections": "skip", "layers": 2, "bidirectional": True}, "connections must be none with bidirectional"),
        ({"freeze_embedding": True}, "freeze_embedding requires embedding_init"),
        ({"context_length": 9}, "context_length applies only to bidirectional models"),
        (
            {"num_words": 500},
            "num_words: applies only to token_unit = word, exact_word or regex, but token_unit is character",
        ),
        ({"num_words": 500, "token_unit": "subword"}, "word, exact_word or regex, but token_unit is subword, got 500"),
        ({"vocab_size": 500}, "token_unit = exact_word, subword or regex, but token_unit is character"),
        ({"vocab_size": 500, "token_unit": "word"}, "vocab_size: .*but token_unit is word, got 500"),
        (
            {"num_words": 500, "vocab_size": 600, "token_unit": "exact_word"},
            "vocab_size: cannot be combined with num_words, which limits the same vocabulary, got 600",
        ),
        ({"token_unit": "regex"}, "token_unit = regex requires token_regex, such as smiles, abc, fields"),
        ({"token_unit": "word", "token_regex": "smiles"}, "token_regex contradicts token_unit = word"),
        ({"token_regex": ["a", "b("]}, "token_regex: regular expression 'b\\(' does not compile: .*parenthesis"),
        ({"token_regex": ["x*"]}, "token_regex: regular expression 'x\\*' matches the empty string"),
        ({"token_regex": []}, "token_regex: .*at least 1 item"),
    ],
    ids=str,
)
def test_incompatible_settings_are_refused(settings, message):
    """A setting that would have no effect, or not the intended one, is an error."""
    with pytest.raises(ConfigError, match=message):
        load_config(None, {**NEEDED, **settings})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"c\.toml: No such file"),
        (b"units = \nepochs = 3\n", r"c\.toml: .*line 1"),
        (b"name = '\xe9'", r"c\.toml: .*0xe9"),
        (b"name = " + b"[" * 10_000, r"c\.toml: .*recursion"),
    ],
    ids=["missing", "not TOML", "not UTF-8", "too deep"],
)
def test_an_unreadable_file_is_named(tmp_path, content, message):
    path = tmp_path / "c.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(path, NEEDED)


@pytest.mark.parametrize("names", [("corpus", "mix"), ("corpus", "validation_corpus"), ("mix", "validation_corpus")])
def test_standard_input_is_read_for_one_text(names):
    with pytest.raises(ConfigError, match=rf"^{names[0]} and {names[1]} are both -: standard input"):
        load_config(None, {**NEEDED, **dict.fromkeys(names, "-")})


def test_a_validation_split_is_a_fraction_or_another_text(tmp_path):
    """Of what is given, which takes the place of either in a file of settings. With a mixed text both have a use."""
    both = {"validation": 0.2, "validation_corpus": "held.txt"}
    with pytest.raises(ConfigError, match=r"^validation and validation_corpus exclude each other"):
        load_config(None, {**NEEDED, **both})
    (tmp_path / "c.toml").write_text("validation = 0.2")
    assert load_config(tmp_path / "c.toml", {**NEEDED, "validation_corpus": "held.txt"}).validation == 0.2
    (tmp_path / "c.toml").write_text('validation_corpus = "held.txt"')
    assert load_config(tmp_path / "c.toml", {**NEEDED, "validation": 0.2}).validation_corpus is None
    assert load_config(None, {**NEEDED, **both, "mix": "old.txt"}).validation == 0.2


@pytest.mark.parametrize(
    ("given", "max_epochs"),
    [({}, 10), ({"max_minutes": 4}, None), ({"epochs": 3}, 3), ({"epochs": 3, "max_minutes": 4}, 3)],
    ids=["neither", "minutes", "epochs", "both"],
)
def test_ten_epochs_are_the_default_unless_epochs_or_minutes_are_given(given, max_epochs):
    assert load_config(None, {"name": "m", "corpus": "c", **given}).max_epochs == max_epochs


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        ({}, 1e-2),
        ({"cell": "gru"}, 1e-2),
        ({"cell": "simple_rnn"}, 4e-3),
        ({"bidirectional": True}, 4e-3),
        ({"cell": "simple_rnn", "learning_rate": 3e-2}, 3e-2),
    ],
)
def test_a_simple_rnn_or_a_bidirectional_model_is_trained_at_the_default_learning_rate(given, rate):
    """A SimpleRNN's loss is lowest with 4e-3 where that of an LSTM is with 1e-2."""
    assert load_config(RECIPES["characters-3-minutes"], {"corpus": "c", **given}).learning_rate == rate


def test_a_recipe_named_by_a_relative_path_is_the_recipe(monkeypatch):
    path = RECIPES["characters"]
    monkeypatch.chdir(path.parent)
    given = {"corpus": "c", "epochs": 3}
    assert load_config(Path(path.name), given) == load_config(path, given)


@pytest.mark.parametrize("recipe", RECIPES)
def test_epochs_replace_the_time_limit_of_a_recipe(toml, recipe):
    """A limit that was not asked for must not end the run before its last epoch; one in the user's own file was."""
    given = {"corpus": "c", "epochs": 50}
    assert load_config(RECIPES[recipe], given).max_minutes is None
    assert load_config(RECIPES[recipe], {**given, "max_minutes": 9}).max_minutes == 9
    toml.write_text("max_minutes = 4")
    assert load_config(toml, given).max_minutes == 4


def test_without_a_corpus_the_current_directory_is_not_searched(monkeypatch):
    monkeypatch.setattr(Path, "rglob", None)
    with pytest.raises(ConfigError, match="corpus is required"):
        load_config(RECIPES[DEFAULT_RECIPE], {})
