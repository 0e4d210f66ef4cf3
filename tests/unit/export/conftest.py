"""Models and what was published of them. A session's, as it takes seconds to publish one and no test changes it."""

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
    """Trace a step once and not four times, but for the tests of graphs: publishing takes a third of the time."""
    if request.path.parent.name != "graphs":
        monkeypatch.setattr(StatefulNetwork, "unroll", 1)


@pytest.fixture
def model():
    """One LSTM layer."""
    return make_model()


@pytest.fixture(scope="session", params=STACKS, ids=lambda stack: f"{stack[1]}x{stack[0]}")
def stack(request):
    """Every cell, single and stacked: the Keras model and what was published of it."""
    return _stack(*request.param)


@functools.cache
def _stack(cell, layers):
    """Load a stack once: pytest makes a parametrized fixture anew for each file."""
    model = make_model(cell, layers)
    return model, Published.kept(model, f"{layers}x{cell}")


@pytest.fixture(scope="session")
def published():
    """One GRU layer."""
    return Published.kept(make_model("gru", 1), "1xgru")


@pytest.fixture(scope="session")
def ending():
    """A model whose texts end with a mark."""
    return Published.kept(make_model("gru", 1), "ending", end=END)
