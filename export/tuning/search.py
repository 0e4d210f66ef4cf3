"""The search: Optuna samples the settings of trials and stops the worse ones; the best run is published."""

import contextlib
import importlib.util
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contract.files import try_lock
from export.child_process import EXPORT
from export.command import locked_directory
from export.config import (
    ARCHITECTURE,
    FINE_TUNING_RECIPE,
    MODELS,
    RECIPES,
    RECIPES_BY_MINUTES,
    TrainConfig,
    load_config,
    recipe_for,
    recipe_path,
)
from export.errors import ConfigError, ExportError, RunError, TrainingFailed
from export.terminal import echo
from export.tuning.display import SearchDisplay, results_table
from export.tuning.trials import Trial, run, run_command, start, stop

# The worse two thirds of the trials at a rung are stopped there.
REDUCTION = 3
# Share of the minutes for a whole trial. Two fit, the recipe's and a better one. The rest is for trials that are
# stopped early, for starts and for publishing.
_TRIAL_SHARE = 0.35
# A trial that begins late has less time; with less than this share of a whole one it is not comparable.
_MIN_SHARE = 0.5
# Minutes to the first rung; in less time, differences between settings are chance.
_MIN_RUNG_MINUTES = 0.75
_MAX_FAILURES = 3
# A matrix product is fast at multiples of these.
_UNITS_STEP, _BATCH_STEP = 32, 8
_MAX_DROPOUT = 0.8
EXTRA = "pip install 'sostenuto-server[tune]'"


@dataclass
class Budget:
    """The minutes of a search."""

    minutes: float
    started: float = field(default_factory=time.monotonic)
    startup: float = 0.2  # minutes from the start of a trial's process to its first update: the most so far

    @property
    def publishing(self) -> float:
        """Minutes reserved for publishing, which takes about as long as five starts."""
        return min(5 * self.startup, 0.3 * self.minutes)

    @property
    def left(self) -> float:
        """Minutes left for trials."""
        return self.minutes - self.publishing - (time.monotonic() - self.started) / 60

    @property
    def deadline(self) -> float:
        """The time of `time.monotonic` at which a late trial is stopped."""
        return self.started + 60 * (self.minutes - self.publishing / 2)

    @property
    def trial(self) -> float:
        """Minutes of a whole trial, without its start."""
        return self.minutes * _TRIAL_SHARE

    @property
    def rung(self) -> float:
        """Minutes to the first rung: a ninth of a trial, or a third of a short one."""
        shortest = self.trial / REDUCTION**2
        return shortest if shortest >= _MIN_RUNG_MINUTES else self.trial / REDUCTION


def tune(given: dict[str, Any], config_name: str | None, minutes: float, runs_dir: Path, models_dir: Path) -> int:
    """Search, print a table of the trials, and publish the best run. Returns the exit code."""
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError(f"tune needs Optuna: {EXTRA}")
    budget = Budget(minutes)
    # Recipes adapt themselves to the minutes of a run.
    given = {**given, "max_minutes": budget.trial}
    config = _base_config(given, config_name, budget)
    home = runs_dir / f"{config.name}-tune"
    with locked_directory(home, "search"):
        # No model name ends in ~, so this is not the directory of another search.
        aside = home.with_name(f"{home.name}~")
        for path in (*home.glob("*"), *aside.glob("*")):
            if not path.name.isdigit():
                raise RunError(f"{path} was not written by a search; choose another --name or --runs-dir")
        for lock in (*home.glob("*/.*.lock"), *aside.glob("*/.*.lock")):
            with try_lock(lock) as is_free:
                if not is_free:
                    raise RunError(f"{lock.parent}: a training run uses this directory; wait until it ends")
        if home.exists():
            shutil.rmtree(aside, ignore_errors=True)
            home.rename(aside)
            echo(f"the previous search in {home} is now in {aside}")
        default = recipe_for(budget.trial, given.get("corpus"))
        others = () if config_name or config.base else other_recipes(default, given)
        search = Search(config, searched(config, given), home, models_dir, budget, others)
        try:
            try:
                search.run()
            finally:
                for line in results_table(search.trials):
                    echo(line)
            if search.best is None:
                raise TrainingFailed(f"no trial has a complete epoch after {minutes:g} minutes; give it more --minutes")
            echo(f"publishing the best, trial {search.best.number}")
            return _run_to_end([*EXPORT, *_publish_command(search.best, config, models_dir)])
        except (KeyboardInterrupt, ExportError, OSError):
            if search.best is not None:
                command = _publish_command(search.best, config, models_dir)
                echo(f"publish the best, trial {search.best.number}, with:  {shlex.join(['sostenuto', *command])}")
            raise


class Search:
    """Trials of settings, one after the other.

    The first ones have the settings of recipes; the others vary those of the first, sampled by the seed. At a rung,
    after a ninth and a third of its minutes, a trial is stopped unless it is among the best third.
    """

    def __init__(
        self,
        config: TrainConfig,
        names: tuple[str, ...],
        home: Path,
        models_dir: Path,
        budget: Budget,
        others: Sequence[Mapping[str, Any]],
    ) -> None:
        import optuna  # noqa: PLC0415 - optional

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._config, self._names, self._home, self._budget = optuna, config, names, home, budget
        self._models_dir, self._fixed = models_dir, ({}, *others)
        self._study = optuna.create_study(
            sampler=optuna.samplers.RandomSampler(seed=config.seed),
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION),
        )
        self.trials: list[Trial] = []

    @property
    def best(self) -> Trial | None:
        """The trial with the best complete epoch; None without one."""
        complete = [trial for trial in self.trials if trial.epoch_loss is not None]
        return min(complete, key=lambda trial: trial.epoch_loss or 0.0, default=None)

    def run(self) -> None:
        """Run trials as long as there is time for one.

        Raises:
            TrainingFailed: the first trial failed, or several in a row.
        """
        with SearchDisplay(self._budget.minutes) as display:
            while (minutes := self._next_minutes()) is not None:
                self._run_next(minutes, display)
                last = self.trials[-_MAX_FAILURES:]
                is_failed = all(trial.state == "failed" for trial in last)
                if is_failed and (len(self.trials) == 1 or len(last) == _MAX_FAILURES):
                    raise TrainingFailed(f"trial {last[-1].number}: {last[-1].error}; its log is {last[-1].log}")

    def _next_minutes(self) -> float | None:
        """Return the minutes of the next trial; None if too few are left."""
        minutes = min(self._budget.trial, self._budget.left - self._budget.startup)
        if not self.trials:
            return max(minutes, 0.01)
        return minutes if minutes >= _MIN_SHARE * self._budget.trial else None

    def _run_next(self, minutes: float, display: SearchDisplay) -> None:
        asked, number = self._study.ask(), len(self.trials) + 1
        is_fixed = number <= len(self._fixed)
        settings = self._fixed[number - 1] if is_fixed else sample(asked, self._config, self._names)
        trial = Trial(number, settings, self._home / str(number), minutes)
        self.trials.append(trial)
        is_pruned = self._follow(trial, asked, display)
        states = self._optuna.trial.TrialState
        if is_pruned or trial.state != "complete":
            self._study.tell(asked, state=states.PRUNED if is_pruned else states.FAIL)
        else:
            self._study.tell(asked, trial.epoch_loss)
        display.ended(trial, self.best)

    def _follow(self, trial: Trial, asked: Any, display: SearchDisplay) -> bool:
        """Run a trial to its end, or until Optuna prunes it; return whether it does."""
        # A shorter trial has fewer, at the same minutes.
        num_rungs = max(1, round(trial.minutes / self._budget.rung))
        command, step, began = run_command(trial, self._config, self._models_dir, num_rungs), 0, time.monotonic()
        with contextlib.closing(run(trial, command, self._budget.deadline)) as looks:
            for _ in looks:
                display.update(trial, self.best)
                if trial.train_loss is None:
                    self._budget.startup = max(self._budget.startup, (time.monotonic() - began) / 60)
                if (reached := int(trial.evaluated * num_rungs)) > step:
                    step = reached
                    asked.report(trial.loss, step)
                    if asked.should_prune():
                        return True
        return False


def _base_config(given: dict[str, Any], config_name: str | None, budget: Budget) -> TrainConfig:
    default = FINE_TUNING_RECIPE if "from" in given else recipe_for(budget.trial, given.get("corpus"))
    config = load_config(recipe_path(config_name) if config_name else RECIPES[default], given)
    for name in ("corpus", "mix", "validation_corpus"):
        if getattr(config, name) == "-":
            raise ConfigError(f"{name} = -: a search reads the text for each trial; save it in a file")
    if config.validation == 0 and config.validation_corpus is None:
        raise ConfigError("validation = 0: trials are compared by their validation loss, so some text must be held out")
    return config


def _publish_command(trial: Trial, config: TrainConfig, models: Path) -> list[str]:
    run_dir = str(trial.directory / config.name)
    return ["publish", run_dir] if models == MODELS else ["publish", run_dir, "--models-dir", str(models)]


def _run_to_end(command: Sequence[str]) -> int:
    """Run an exporter and return its exit code; an interrupt is raised, unless it has published nevertheless."""
    child = start(command)
    try:
        return child.wait()
    except KeyboardInterrupt:
        stop(child)
        if child.returncode == 0:
            return 0
        raise


def other_recipes(name: str, given: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return the differing settings of the neighbors of a recipe, without given ones; none for another token unit."""
    if given.get("token_unit", "character") != "character" or "token_regex" in given:
        return ()
    position = RECIPES_BY_MINUTES.index(name)
    # Their dropout depends on the text.
    own, *neighbors = (
        load_config(RECIPES[recipe], given).model_dump(exclude={"max_minutes"})
        for recipe in (name, *(other for i, other in enumerate(RECIPES_BY_MINUTES) if abs(i - position) == 1))
    )
    return tuple({key: each[key] for key in own if each[key] != own[key]} for each in neighbors)


def searched(config: TrainConfig, given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the settings to search: those neither given nor determined by a base."""
    names = ("cell", "layers", "units", "dropout", "learning_rate", "batch_size", "sequence_length")
    return tuple(name for name in names if name not in given and not (config.base and name in ARCHITECTURE))


def sample(asked: Any, config: TrainConfig, names: tuple[str, ...]) -> dict[str, Any]:
    """Sample settings around those of a recipe: half to twice its sizes, a third to twice its learning rate.

    `asked` is a trial of Optuna.
    """
    rate, dropout = config.learning_rate, config.dropout
    samplers = {
        "cell": lambda: asked.suggest_categorical("cell", ("lstm", "gru")),
        "layers": lambda: asked.suggest_int("layers", 1 if config.connections == "none" else 2, 2),
        "units": lambda: _sample_size(asked, "units", config.units, _UNITS_STEP),
        "dropout": lambda: asked.suggest_float("dropout", max(0, dropout - 0.3), min(_MAX_DROPOUT, dropout + 0.3)),
        "learning_rate": lambda: asked.suggest_float("learning_rate", rate / 3, min(1, rate * 2), log=True),
        "batch_size": lambda: _sample_size(asked, "batch_size", config.batch_size, _BATCH_STEP),
        "sequence_length": lambda: _sample_size(asked, "sequence_length", config.sequence_length, 1),
    }
    return {name: _rounded(samplers[name]()) for name in names}


def _sample_size(asked: Any, name: str, size: int, step: int) -> int:
    _, maximum = TrainConfig.model_fields[name].metadata
    sampled = asked.suggest_int(name, max(1, size // 2), min(2 * size, maximum.le), log=True)
    return max(step, round(sampled / step) * step)


def _rounded(value: Any) -> Any:
    """Return a number with two digits, readable and usable on a command line."""
    return float(f"{value:.2g}") if isinstance(value, float) else value
