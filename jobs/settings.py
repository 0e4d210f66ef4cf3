"""The exporter's settings that a job may set, and their options on its command line."""

import tomllib
from collections.abc import Mapping
from typing import Any

from contract.card import GeneratorCard
from contract.tokenizers.regexes import PRESETS
from export.config import FINE_TUNING_RECIPE, TrainConfig, load_config, require_architecture
from export.config import RECIPES as ALL_RECIPES
from export.errors import ConfigError

__all__ = ["ALLOWED", "RECIPES", "ConfigError", "check_settings", "model_option"]

# The others name files of the machine, or are the trainer's.
_WITHHELD = {
    *("name", "corpus", "validation_corpus", "base", "mix", "mix_share"),
    *("embedding_init", "freeze_embedding", "tensorboard", "job"),
}
# Of new models; `demo` and `english` have corpora of their own.
RECIPES = tuple(name for name in ALL_RECIPES if name not in {FINE_TUNING_RECIPE, "demo", "english"})
ALLOWED = tuple(name for name in TrainConfig.model_fields if name not in _WITHHELD)


def check_settings(
    model: str, settings: Mapping[str, Any], base: GeneratorCard | None = None, corpus: str = "-"
) -> TrainConfig:
    """Return the configuration of a job with a recipe, or with a base model, whose card may be unknown.

    Without its corpus, a recipe has the rates and units for a text of the usual length.

    Raises:
        ConfigError: a setting is invalid, and the message names it, its limit and its value; or it contradicts the
            architecture of the base.
    """
    unknown = next((name for name in settings if name not in ALLOWED), None)
    if unknown is not None:
        raise ConfigError(f"{unknown} is not a setting of a job; settings are {', '.join(ALLOWED)}")
    _require_presets(settings.get("token_regex"))
    origin = {} if model in RECIPES else {"from": model}
    recipe = ALL_RECIPES[model if model in RECIPES else FINE_TUNING_RECIPE]
    _require_values(settings, tomllib.loads(recipe.read_text()))
    config = load_config(recipe, {**settings, **origin, "corpus": corpus, "name": "text"})
    if base is not None:
        require_architecture(config, base, model)
    return config


def model_option(model: str) -> str:
    """Return the option of `python -m export train` for a recipe or a base model."""
    return f"--config={model}" if model in RECIPES else f"--from={model}"


def _require_values(settings: Mapping[str, Any], of_recipe: Mapping[str, Any]) -> None:
    """Refuse null for a setting of the recipe: the exporter's command line has no option for it.

    Instead of a recipe's `max_minutes`, that of the server applies.
    """
    for name, value in settings.items():
        if value is None and name != "max_minutes" and name in of_recipe:
            raise ConfigError(
                f"{name} must not be null, as the recipe has {of_recipe[name]}: omit it, or choose a value"
            )


def _require_presets(regexes: Any) -> None:
    """Refuse a regular expression, which may take exponential time; every prompt of the model would be matched with it.

    It is not even compiled here, as that may need gigabytes.
    """
    values = regexes if isinstance(regexes, list | tuple) else [] if regexes is None else [regexes]
    other = next((value for value in values if not isinstance(value, str) or value not in PRESETS), None)
    if other is not None:
        raise ConfigError(
            f"token_regex must be {', '.join(PRESETS)} in a job, got {other!r}: regular expressions of your own may "
            "take exponential time, and are only for training without a server"
        )
