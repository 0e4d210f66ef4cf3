"""What may become of one model's versions."""

from pathlib import Path

import grpc
import pytest
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from model_server.config import ModelConfig
from model_server.lifecycle import Model, State
from model_server.versions import All, Latest, Load, Policy, Unload

BASE = Path("/m")


def model(policy: Policy = Latest(1)) -> Model[str]:  # noqa: B008 - frozen
    """Return a model without versions."""
    return Model("a", ModelConfig("a", BASE, policy, {}))


def paths(*versions: int) -> dict[int, Path]:
    """Return what a look at the folder finds."""
    return {version: BASE / str(version) for version in versions}


def serve(a: Model[str], version: int) -> None:
    """Load a version."""
    a.versions[version].loading()
    a.versions[version].available(f"servable {version}")


def test_a_version_goes_from_start_to_end():
    """Each state follows from what was noted, and only an available version is served."""
    a = model()
    a.update_versions(paths(1))
    version = a.versions[1]
    seen = [(version.state, a.served())]
    for note in (version.loading, lambda: version.available("s"), version.unloading, version.ended):
        note()
        seen.append((version.state, a.served()))
    assert seen == [
        (State.START, {}),
        (State.LOADING, {}),
        (State.AVAILABLE, {1: "s"}),
        (State.UNLOADING, {}),
        (State.END, {}),
    ]


def test_a_failed_version_is_tried_again_when_it_is_due_and_not_before():
    """Between two attempts it stays in LOADING, with the error that it had."""
    a = model()
    a.update_versions(paths(1))
    a.versions[1].loading()
    a.versions[1].failed(grpc.StatusCode.DATA_LOSS, "torn", retry_at=100.0)
    assert a.next_step(now=99.9) is None
    assert a.next_due() == 100.0
    assert a.next_step(now=100.0) == Load(1)
    assert (a.versions[1].state, a.versions[1].message, a.is_settled) == (State.LOADING, "torn", False)


def test_a_version_that_is_given_up_ends_with_its_error_and_is_not_tried_again():
    """However often the folder is looked at."""
    a = model()
    a.update_versions(paths(1))
    a.versions[1].failed(grpc.StatusCode.DATA_LOSS, "torn", retry_at=None)
    a.update_versions(paths(1))
    assert a.next_step(now=1e9) is None
    assert (a.versions[1].state, a.versions[1].code, a.is_settled) == (State.END, grpc.StatusCode.DATA_LOSS, True)


def test_a_version_that_was_given_up_gets_another_chance_when_it_is_published_anew():
    """Gone from the folder and back is a new version, without the old error."""
    a = model()
    a.update_versions(paths(1))
    a.versions[1].failed(grpc.StatusCode.DATA_LOSS, "torn", retry_at=None)
    a.update_versions(paths())
    a.update_versions(paths(1))
    assert a.next_step(now=0.0) == Load(1)
    assert (a.versions[1].state, a.versions[1].message) == (State.START, "")


def test_a_version_that_was_unloaded_is_loaded_again_when_it_is_wanted_again():
    """A rollback by deleting the newest folder brings back the one before."""
    a = model()
    a.update_versions(paths(1))
    serve(a, 1)
    a.update_versions(paths(1, 2))
    serve(a, 2)
    assert a.next_step(now=0.0) == Unload(1)
    a.versions[1].unloading()
    a.update_versions(paths(1))
    assert a.next_step(now=0.0) == Load(1)


def test_a_version_that_is_wanted_again_before_it_went_just_stays():
    """No load, no gap."""
    a = model()
    a.update_versions(paths(1))
    serve(a, 1)
    a.update_versions(paths(1, 2))
    a.update_versions(paths(1))
    assert a.next_step(now=0.0) is None
    assert a.served() == {1: "servable 1"}


def test_a_retry_that_nobody_wants_any_more_is_called_off():
    """A broken version whose folder goes away stops being tried, and ends as cancelled."""
    a = model()
    a.update_versions(paths(1))
    a.versions[1].failed(grpc.StatusCode.DATA_LOSS, "torn", retry_at=100.0)
    a.update_versions(paths())
    assert a.next_step(now=1e9) is None
    assert (a.versions[1].state, a.versions[1].code) == (State.END, grpc.StatusCode.CANCELLED)


def test_a_model_without_a_config_is_unloaded_and_its_history_stays():
    """Status can still tell what was."""
    a = model(All())
    a.update_versions(paths(1, 2, 3))
    serve(a, 1)
    serve(a, 2)
    a.configure(None)
    assert a.next_step(now=0.0) == Unload(1)
    a.versions[1].unloading()
    assert a.next_step(now=0.0) == Unload(2)
    assert sorted(a.versions) == [1, 2, 3]
    assert a.versions[3].state is State.END


def test_a_model_is_settled_once_it_has_a_version_and_nothing_is_left_to_load():
    """A start waits for this, and so does a reload; of versions under a config before, none counts."""
    a = model()
    for _ in range(2):
        a.update_versions(paths())
        assert not a.is_settled
        a.update_versions(paths(1))
        assert not a.is_settled
        serve(a, 1)
        assert a.is_settled
        a.configure(None)
        a.versions[1].ended()
        a.configure(model().config)


def test_a_model_whose_only_version_vanishes_before_it_is_loaded_is_settled():
    """It has failed: in TensorFlow Serving it ends as well, and nobody waits any longer."""
    a = model()
    a.update_versions(paths(1))
    a.update_versions(paths())
    assert a.is_settled


@pytest.mark.parametrize("state", list(State))
def test_states_have_the_numbers_of_the_proto(state: State):
    """They are sent as they are."""
    assert ModelVersionStatus.State.Value(state.name) == state
