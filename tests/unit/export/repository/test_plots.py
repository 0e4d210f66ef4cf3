"""The plot of a training run shows its losses, and needs no display."""

import io
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from export.errors import PublishError
from export.repository.history import Epoch, Progress
from export.repository.plots import history_png, perplexity


def history(*losses):
    """Return the progress of a training run with these (training, validation) losses."""
    epochs = [
        Epoch(train_loss=a, validation_loss=b, accuracy=None, tokens=i, seconds=i) for i, (a, b) in enumerate(losses, 1)
    ]
    return Progress(history=tuple(epochs))


THREE = history((3.0, 2.5), (2.0, 1.5), (1.0, 2.0))


@pytest.fixture
def axes(monkeypatch):
    """The axes of the saved figure."""
    panels, save = [], Figure.savefig

    def kept(figure, *arguments, **options):
        panels.extend(figure.axes)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", kept)
    return panels


def curves(panel):
    """Return the x and y values of each curve of an axes by its legend label."""
    names = [text.get_text() for text in panel.get_legend().get_texts()]
    lines = {line.get_label(): line for line in panel.lines}
    return {name: (list(lines[name].get_xdata()), list(lines[name].get_ydata())) for name in names}


def test_losses_and_perplexities_are_plotted_with_the_best_epoch_marked(axes):
    """Each of the two axes has the training and the validation curve, by epoch."""
    assert history_png(THREE, "m").startswith(b"\x89PNG")
    left, right = map(curves, axes)
    assert left["training"] == ([1, 2, 3], [3.0, 2.0, 1.0])
    assert left["validation"] == ([1, 2, 3], [2.5, 1.5, 2.0])
    assert left["best epoch: 2, 1.500"] == ([2], [1.5])
    assert right["validation"][1] == pytest.approx(np.exp([2.5, 1.5, 2.0]))
    assert right["best epoch: 2, 4.482"][0] == [2]
    assert [panel.get_ylabel() for panel in axes] == ["loss, nats per token", "perplexity"]


def test_without_validation_only_the_training_curve_is_plotted(axes):
    """The best epoch is that of the lowest training loss."""
    history_png(history((3.0, None), (2.0, None)), "m")
    assert set(curves(axes[0])) == {"training", "best epoch: 2, 2.000"}


@pytest.mark.parametrize("losses", [[(3.0, 2.0)], [(900.0, None)], [(5.0, 4.0)] * 300], ids=["one", "huge", "many"])
def test_every_history_can_be_plotted(losses):
    """It may have one epoch, a perplexity that overflows or hundreds of epochs. The image is 1200 pixels wide."""
    picture = imread(io.BytesIO(history_png(history(*losses), "m")))
    assert picture.shape == (504, 1200, 4)
    assert len(np.unique(picture.reshape(-1, 4), axis=0)) > 10


def test_a_bad_first_epoch_does_not_hide_the_others(axes):
    """The perplexity axis ends at six times the best value."""
    history_png(history((7.0, 7.0), (1.0, 1.0)), "m")
    assert axes[1].get_ylim() == (0, pytest.approx(6 * np.exp(1)))
    assert axes[0].get_ylim()[1] > 7


def test_the_plot_does_not_depend_on_the_users_matplotlibrc(monkeypatch):
    """It may enable LaTeX, which is not installed. The user's settings are kept."""
    picture = history_png(THREE, "m")
    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)
    monkeypatch.setitem(matplotlib.rcParams, "savefig.dpi", 30)
    assert history_png(THREE, "m") == picture
    assert matplotlib.rcParams["text.usetex"]


def test_pyplot_is_not_needed(monkeypatch):
    """It would look for a display, and change a notebook's current figure."""
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    assert history_png(THREE, "m").startswith(b"\x89PNG")


def test_a_plot_that_fails_is_a_one_line_error(monkeypatch):
    """The line has matplotlib's own reason."""

    def fail(*_, **__):
        raise RuntimeError("no font\nat all")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(PublishError, match=r"^history\.png cannot be drawn \(RuntimeError: no font at all\)$"):
        history_png(THREE, "m")


def test_a_missing_matplotlib_is_a_one_line_error(monkeypatch):
    """An installation may lack packages of requirements.txt."""
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    with pytest.raises(PublishError, match=r"^history\.png cannot be drawn \(ModuleNotFoundError: .*matplotlib"):
        history_png(THREE, "m")


@pytest.mark.parametrize(("loss", "expected"), [(0.0, 1.0), (None, None), (1000.0, None)])
def test_a_perplexity_that_overflows_is_none(loss, expected):
    """JSON has no infinity."""
    assert perplexity(loss) == expected
