"""Plots show the losses of training runs, and need no display."""

import io
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from export.errors import PublishError
from export.repository.plots import Run, comparison_png, history_png
from tests.unit.export.repository.stored import make_progress

THREE = make_progress((3.0, 2.5), (2.0, 1.5), (1.0, 2.0))


@pytest.fixture
def axes(monkeypatch):
    """The axes of the saved figure."""
    panels, save = [], Figure.savefig

    def kept(figure, *arguments, **options):
        panels.extend(figure.axes)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", kept)
    return panels


def points(line):
    return list(line.get_xdata()), list(line.get_ydata())


def test_losses_and_perplexities_of_a_run_are_plotted_with_the_best_epoch_marked(axes):
    assert history_png(THREE, "m").startswith(b"\x89PNG")
    left, right = axes
    assert [points(line) for line in left.lines] == [([1, 2, 3], [3, 2, 1]), ([1, 2, 3], [2.5, 1.5, 2]), ([2], [1.5])]
    assert points(right.lines[1])[1] == pytest.approx(np.exp([2.5, 1.5, 2.0]))
    assert points(right.lines[2]) == ([2], [pytest.approx(np.exp(1.5))])
    assert [panel.get_ylabel() for panel in axes] == ["loss, nats per token", "perplexity"]
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["validation", "training", "best epoch"]
    assert left.figure.get_suptitle() == "m: validation loss 1.500 nats per token in epoch 2 of 3"


def test_without_validation_the_best_training_loss_is_marked(axes):
    history_png(make_progress((3.0, None), (2.0, None)), "m")
    assert points(axes[0].lines[2]) == ([2], [2.0])
    assert np.isnan(points(axes[0].lines[1])[1]).all()


def test_losses_of_several_runs_are_plotted_by_epoch_and_by_minutes(axes):
    comparison_png([Run("a:1", THREE), Run("b:1", make_progress((4.0, 3.0)), scale=0.5)], "bits per character")
    left, right = axes
    assert [line.get_linestyle() for line in left.lines] == ["--", "-", "None"] * 2
    colors = [line.get_color() for line in left.lines]
    assert colors[0] == colors[1] == colors[2] != colors[3] == colors[4] == colors[5]
    assert [points(line) for line in left.lines[3:]] == [([1], [2.0]), ([1], [1.5]), ([1], [1.5])]
    assert points(right.lines[1]) == ([1, 2, 3], [2.5, 1.5, 2])
    assert left.get_ylabel() == "loss, bits per character"
    assert left.get_ylim() == right.get_ylim()
    assert [text.get_text() for text in left.figure.legends[0].get_texts()] == ["a:1", "b:1"]


@pytest.mark.parametrize("losses", [[(3.0, 2.0)], [(900.0, None)], [(5.0, 4.0)] * 300], ids=["one", "huge", "many"])
def test_every_history_can_be_plotted(losses):
    picture = imread(io.BytesIO(history_png(make_progress(*losses), "m")))
    assert picture.shape == (504, 1200, 4)
    assert len(np.unique(picture.reshape(-1, 4), axis=0)) > 10


def test_a_bad_first_epoch_does_not_hide_the_others(axes):
    history_png(make_progress((7.0, 7.0), (1.0, 1.0)), "m")
    assert axes[1].get_ylim() == (0, pytest.approx(6 * np.exp(1)))
    assert axes[0].get_ylim()[1] > 7


def test_the_plot_does_not_depend_on_the_users_matplotlibrc(monkeypatch):
    picture = history_png(THREE, "m")
    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)
    monkeypatch.setitem(matplotlib.rcParams, "savefig.dpi", 30)
    assert history_png(THREE, "m") == picture
    assert matplotlib.rcParams["text.usetex"]


def test_pyplot_is_not_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    assert history_png(THREE, "m").startswith(b"\x89PNG")


def test_a_missing_matplotlib_is_a_one_line_error(monkeypatch):
    """An installation may lack packages of requirements.txt."""
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    with pytest.raises(PublishError, match=r"^history\.png cannot be drawn \(ModuleNotFoundError: .*matplotlib"):
        history_png(THREE, "m")
