"""The search space: ranges around the settings of a recipe."""

from collections.abc import Mapping
from typing import Any, Protocol

from export.config import ARCHITECTURE, RECIPES, TrainConfig, load_config

# The first recipe whose minutes are at least a trial's; the last one for longer trials.
_RECIPES = ("characters-3-minutes", "characters", "characters-hour")
# A matrix product is fast at multiples of these.
_UNITS_STEP, _BATCH_STEP = 32, 8
_MAX_DROPOUT = 0.8
Settings = dict[str, Any]


class Sampler(Protocol):
    """What samples a setting: a trial of Optuna."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Sample a number, with `log` uniformly in its logarithm."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """Sample an integer."""

    def suggest_categorical(self, name: str, choices: tuple[str, ...]) -> Any:
        """Sample one of some values."""


def recipe_for(minutes: float) -> str:
    """Return the name of the recipe for trials of this length: one that is made for half of it at least."""
    return next((name for name in _RECIPES if minutes <= 2 * (_read(name).max_minutes or 0)), _RECIPES[-1])


def other_recipes(name: str, given: Mapping[str, Any]) -> tuple[Settings, ...]:
    """Return what the recipes next to one have otherwise, without what is given; none for another token unit."""
    if given.get("token_unit", "character") != "character" or "token_regex" in given:
        return ()
    position, own = _RECIPES.index(name), _read(name).model_dump()
    neighbors = [_read(other).model_dump() for other in _RECIPES if abs(_RECIPES.index(other) - position) == 1]
    kept = {"max_minutes", *given}
    return tuple({key: each[key] for key in own if each[key] != own[key] and key not in kept} for each in neighbors)


def _read(recipe: str) -> TrainConfig:
    return load_config(RECIPES[recipe], {"corpus": "-", "name": "m"})


def searched(config: TrainConfig, given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the settings to search: those that are not given, nor those of a base."""
    names = ("cell", "layers", "units", "dropout", "learning_rate", "batch_size", "sequence_length")
    return tuple(name for name in names if name not in given and not (config.base and name in ARCHITECTURE))


def sample(trial: Sampler, config: TrainConfig, names: tuple[str, ...]) -> Settings:
    """Sample settings around those of a recipe: half to twice its sizes, a third to twice its learning rate."""
    rate, dropout = config.learning_rate, config.dropout
    samplers = {
        "cell": lambda: trial.suggest_categorical("cell", ("lstm", "gru")),
        "layers": lambda: trial.suggest_int("layers", 1, 2),
        "units": lambda: _sample_size(trial, "units", config.units, _UNITS_STEP),
        "dropout": lambda: trial.suggest_float("dropout", max(0, dropout - 0.3), min(_MAX_DROPOUT, dropout + 0.3)),
        "learning_rate": lambda: trial.suggest_float("learning_rate", rate / 3, min(1, rate * 2), log=True),
        "batch_size": lambda: _sample_size(trial, "batch_size", config.batch_size, _BATCH_STEP),
        "sequence_length": lambda: _sample_size(trial, "sequence_length", config.sequence_length, 1),
    }
    return {name: _rounded(samplers[name]()) for name in names}


def _sample_size(trial: Sampler, name: str, size: int, step: int) -> int:
    """Sample a size, and round it to a multiple of a step."""
    sampled = trial.suggest_int(name, max(1, size // 2), 2 * size, log=True)
    return max(step, round(sampled / step) * step)


def _rounded(value: Any) -> Any:
    """Return a number with two digits, which can be read and given on a command line."""
    return float(f"{value:.2g}") if isinstance(value, float) else value
