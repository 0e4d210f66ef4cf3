"""Small models and their SavedModels. Session-scoped: publishing one takes seconds, and no test changes it."""

import functools

import pytest

from export.graphs.cells import StatefulNetwork
from tests.unit.export.models import make_model
from tests.unit.export.published import END, Published

STACKS = [
    *(("lstm", 2), ("gru", 3)),
    *(
        pytest.param(stack, marks=pytest.mark.slow)
        for stack in (("simple_rnn", 1), ("simple_rnn", 3), ("lstm", 1), ("gru", 1))
    ),
]


@pytest.fixture(autouse=True)
def _small_graphs(request, monkeypatch):
    """Trace a step once and not four times, except in tests of graphs: publishing takes a third of the time."""
    if request.path.parent.name != "graphs":
        monkeypatch.setattr(StatefulNetwork, "unroll", 1)


@pytest.fixture
def model():
    return make_model()


@pytest.fixture(scope="session", params=STACKS, ids=lambda stack: f"{stack[1]}x{stack[0]}")
def stack(request):
    """A Keras model and its SavedModel, for each cell, with one layer and with several."""
    return _stack(*request.param)


@functools.cache
def _stack(cell, layers):
    """Load a stack once: pytest builds a parametrized fixture again for each file."""
    model = make_model(cell, layers)
    return model, Published.kept(model, f"{layers}x{cell}")


@pytest.fixture(scope="session")
def published():
    """The SavedModel of one GRU layer."""
    return Published.kept(make_model("gru", 1), "1xgru")


@pytest.fixture(scope="session")
def ending():
    """The SavedModel of one GRU layer with an EOS token."""
    return Published.kept(make_model("gru", 1), "ending", end=END)
