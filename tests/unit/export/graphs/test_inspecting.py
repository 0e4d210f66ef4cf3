"""`inspect` returns each token's activations, by the cells' own formulas, and the same log probabilities as `score`."""

import keras
import numpy as np
import pytest
from keras.layers import GRU, LSTM, Dense, Embedding, Input

from contract import signatures
from export.graphs.exportable import prepare
from tests.unit.export.models import VOCABULARY, make_model
from tests.unit.export.published import IDS, ROWS, Published, same_bits

LENGTH = IDS.shape[1] - 1


def full(length=LENGTH):
    """Return lengths that include every token."""
    return np.full(ROWS, length, np.int32)


def sigmoid(values):
    return 1 / (1 + np.exp(-values.astype(float)))


def lstm(before, layer, inputs):
    """Compute gates and states of an LSTM in float64, from the activations of the previous token."""
    h, c = (before[f"{kind}_{layer}"].astype(float) for kind in ("hidden", "cell"))
    i, f, g, o = np.split(inputs(h), 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return {
        "forget": sigmoid(f),
        "input": sigmoid(i),
        "candidate": np.tanh(g),
        "output": sigmoid(o),
        "cell": c,
        "hidden": sigmoid(o) * np.tanh(c),
    }


def gru(before, layer, inputs):
    """Compute gates and state of a GRU in float64; its reset gate applies after the recurrent kernel."""
    h = before[f"hidden_{layer}"].astype(float)
    from_input, from_state = inputs(h, parted=True)
    (xz, xr, xg), (hz, hr, hg) = (np.split(value, 3, axis=-1) for value in (from_input, from_state))
    z, r = sigmoid(xz + hz), sigmoid(xr + hr)
    g = np.tanh(xg + r * hg)
    return {"update": z, "reset": r, "candidate": g, "hidden": z * h + (1 - z) * g}


def simple_rnn(before, layer, inputs):
    """Compute the state of a SimpleRNN, which has no gates, in float64."""
    return {"hidden": np.tanh(inputs(before[f"hidden_{layer}"].astype(float)))}


FORMULAS = {keras.layers.LSTM: lstm, keras.layers.GRU: gru, keras.layers.SimpleRNN: simple_rnn}


def test_activations_equal_the_cells_formulas(stack):
    model, published = stack
    told = published.call(signatures.INSPECT, token_ids=IDS, lengths=full(), state=published.zeros())
    recurrent = [layer for layer in model.layers if type(layer) in FORMULAS]
    below = np.asarray(model.layers[0].embeddings)[IDS[:, :-1]].astype(float)
    for number, layer in enumerate(recurrent, 1):
        kernel, recurrent_kernel, bias = (np.asarray(weight, float) for weight in layer.cell.trainable_weights)
        here = {name: value for name, value in told.items() if name.endswith(f"_{number}")}
        # The states before each token: zero at the first one, then those of the previous token.
        before = {name: np.pad(value, ((0, 0), (1, 0), (0, 0)))[:, :-1] for name, value in here.items()}

        def inputs(h, parted=False, below=below, kernel=kernel, recurrent_kernel=recurrent_kernel, bias=bias):
            if parted:
                return below @ kernel + bias[0], h @ recurrent_kernel + bias[1]
            return below @ kernel + h @ recurrent_kernel + bias

        expected = FORMULAS[type(layer)](before, number, inputs)
        assert {f"{kind}_{number}" for kind in expected} == set(here)
        for kind, value in expected.items():
            np.testing.assert_allclose(here[f"{kind}_{number}"], value, atol=2e-5, err_msg=f"{kind}_{number}")
        below = here[f"hidden_{number}"].astype(float)


def test_inspect_is_bit_exact_to_score_in_one_call_or_in_slices(stack):
    _, published = stack
    scored = published.call("score", token_ids=IDS, lengths=full(), state=published.zeros())
    told = published.call(signatures.INSPECT, token_ids=IDS, lengths=full(), state=published.zeros())
    for name in ("logprobs", "top_token_ids", "top_logprobs", "state"):
        assert same_bits(told[name], scored[name])
    names = [f"{kind}_{number}" for number in range(1, len(told)) for kind in ("hidden", "cell")]
    ends = [told[name][:, -1] for name in names if name in told]
    assert same_bits(np.concatenate(ends, axis=1), told["state"])
    first = published.call(signatures.INSPECT, token_ids=IDS[:, :8], lengths=full(7), state=published.zeros())
    rest = published.call(signatures.INSPECT, token_ids=IDS[:, 7:], lengths=full(LENGTH - 7), state=first["state"])
    for name, value in told.items():
        if name != "state":
            assert same_bits(np.concatenate([first[name], rest[name]], axis=1), value)
    assert same_bits(rest["state"], told["state"])


def test_activations_are_zero_past_a_sequences_length(stack):
    _, published = stack
    lengths = np.array([0, 1, 2, 3, 5, 8, 13, LENGTH], np.int32)
    whole = published.call(signatures.INSPECT, token_ids=IDS, lengths=full(), state=published.zeros())
    told = published.call(signatures.INSPECT, token_ids=IDS, lengths=lengths, state=published.zeros())
    for row, length in enumerate(lengths):
        for name in told.keys() - {"state"}:
            assert same_bits(told[name][row, :length], whole[name][row, :length])
            assert not told[name][row, length:].any()
        assert same_bits(told["state"][row], published.read(IDS[:, :length])[row])


@pytest.mark.parametrize(
    ("cell", "kinds"),
    [
        ("simple_rnn", ["hidden"]),
        ("lstm", ["hidden", "cell", "forget", "input", "candidate", "output"]),
        ("gru", ["hidden", "update", "reset", "candidate"]),
    ],
)
def test_a_networks_activations_have_kind_layer_and_width_in_the_order_of_the_layers(cell, kinds):
    network = prepare(make_model(cell, 2)).network
    assert [tuple(each) for each in network.activations] == [(k, n, 11 + n) for n in (1, 2) for k in kinds]


def test_activations_number_the_recurrent_layers_only():
    """A Dense layer between two of them has no number."""
    keras.utils.set_random_seed(0)
    parts = [Embedding(VOCABULARY, 6), LSTM(5, return_sequences=True), Dense(4), GRU(3, return_sequences=True)]
    model = keras.Sequential([Input([None]), *parts, Dense(VOCABULARY)])
    network = prepare(model).network
    assert [(each.kind, each.layer) for each in network.activations if each.kind == "hidden"] == [
        ("hidden", 1),
        ("hidden", 2),
    ]
    assert {each.units for each in network.activations if each.layer == 2} == {3}


def test_inspect_of_a_sliding_window_model_returns_the_top_layer(tmp_path):
    model = make_model("lstm", 1)
    network = prepare(model, context=6).network
    assert [tuple(each) for each in network.activations] == [(signatures.TOP, 0, 12)]
    published = Published.of(network, tmp_path)
    told = published.call(signatures.INSPECT, token_ids=IDS, lengths=full(), state=published.zeros())
    embedded = published.call(
        signatures.EMBED, token_ids=IDS[:, :-1], lengths=full(), state=published.zeros(), sum=np.zeros((ROWS, 12), "f4")
    )
    assert same_bits(told["top_0"][:, -1], embedded["last"])
    assert same_bits(told["state"], embedded["state"])
