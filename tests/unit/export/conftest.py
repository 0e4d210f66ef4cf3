"""Models and what was published of them. A session's, as it takes seconds to publish one and no test changes it."""

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
def stack(request, tmp_path_factory):
    """Every cell, single and stacked: the Keras model and what was published of it."""
    model = make_model(*request.param)
    return model, Published(model, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """One GRU layer."""
    return Published(make_model("gru", 1), tmp_path_factory.mktemp("gru"))


@pytest.fixture(scope="session")
def ending(tmp_path_factory):
    """A model whose texts end with a mark."""
    return Published(make_model("gru", 1), tmp_path_factory.mktemp("ending"), end=END)
