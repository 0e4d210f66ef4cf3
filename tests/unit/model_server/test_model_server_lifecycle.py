"""State transitions of one model's versions."""

from pathlib import Path

import grpc
import pytest
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from contract.models_config import VersionPolicy
from model_server.config import ModelConfig
from model_server.lifecycle import Model, State
from model_server.versions import Step

BASE = Path("/m")


def model(policy: VersionPolicy = VersionPolicy(latest=1)) -> Model[str]:  # noqa: B008 - frozen
    """Return a model without versions."""
    return Model("a", ModelConfig("a", BASE, policy, {}))


def paths(*versions: int) -> dict[int, Path]:
    """Return the version directories that a scan finds."""
    return {version: BASE / str(version) for version in versions}


def serve(a: Model[str], version: int) -> None:
    """Load a version and make it available."""
    a.versions[version].loading()
    a.versions[version].available(f"servable {version}")


def test_a_version_passes_through_every_state_from_start_to_end():
    """It is served only while it is AVAILABLE."""
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


def test_a_failed_load_is_retried_when_it_is_due_and_not_before():
    """Until the retry it is LOADING, with the error of the last attempt."""
    a = model()
    a.update_versions(paths(1))
    a.versions[1].loading()
    a.versions[1].failed(grpc.StatusCode.DATA_LOSS, "torn", retry_at=100.0)
    assert a.next_step(now=99.9) is None
    assert a.next_due() == 100.0
    assert a.next_step(now=100.0) == Step("load", 1)
    assert (a.versions[1].state, a.versions[1].message, a.is_settled) == (State.LOADING, "torn", False)


def test_a_version_without_retries_left_ends_with_its_error():
    """It is not loaded again, however often the base path is scanned."""
    a = model()
    a.update_versions(paths(1))
    a.versions[1].failed(grpc.StatusCode.DATA_LOSS, "torn", retry_at=None)
    a.update_versions(paths(1))
    assert a.next_step(now=1e9) is None
    assert (a.versions[1].state, a.versions[1].code, a.is_settled) == (State.END, grpc.StatusCode.DATA_LOSS, True)


def test_a_failed_version_that_is_republished_is_loaded_again():
    """Removed and back it counts as a new version, without the old error."""
    a = model()
    a.update_versions(paths(1))
    a.versions[1].failed(grpc.StatusCode.DATA_LOSS, "torn", retry_at=None)
    a.update_versions(paths())
    a.update_versions(paths(1))
    assert a.next_step(now=0.0) == Step("load", 1)
    assert (a.versions[1].state, a.versions[1].message) == (State.START, "")


def test_an_unloading_version_is_loaded_again_when_aspired_again():
    """Deleting the newest directory rolls back to the previous version."""
    a = model()
    a.update_versions(paths(1))
    serve(a, 1)
    a.update_versions(paths(1, 2))
    serve(a, 2)
    assert a.next_step(now=0.0) == Step("unload", 1)
    a.versions[1].unloading()
    a.update_versions(paths(1))
    assert a.next_step(now=0.0) == Step("load", 1)


def test_a_version_aspired_again_before_its_unload_stays_available():
    """It is not loaded again, and there is no gap."""
    a = model()
    a.update_versions(paths(1))
    serve(a, 1)
    a.update_versions(paths(1, 2))
    a.update_versions(paths(1))
    assert a.next_step(now=0.0) is None
    assert a.served() == {1: "servable 1"}


def test_the_retry_of_a_removed_version_is_cancelled():
    """A broken version whose directory is deleted ends as CANCELLED."""
    a = model()
    a.update_versions(paths(1))
    a.versions[1].failed(grpc.StatusCode.DATA_LOSS, "torn", retry_at=100.0)
    a.update_versions(paths())
    assert a.next_step(now=1e9) is None
    assert (a.versions[1].state, a.versions[1].code) == (State.END, grpc.StatusCode.CANCELLED)


def test_a_model_removed_from_the_config_is_unloaded_and_keeps_its_history():
    """GetModelStatus can still report its versions."""
    a = model(VersionPolicy())
    a.update_versions(paths(1, 2, 3))
    serve(a, 1)
    serve(a, 2)
    a.configure(None)
    assert a.next_step(now=0.0) == Step("unload", 1)
    a.versions[1].unloading()
    assert a.next_step(now=0.0) == Step("unload", 2)
    assert sorted(a.versions) == [1, 2, 3]
    assert a.versions[3].state is State.END


def test_a_model_is_settled_once_it_has_a_version_and_none_left_to_load():
    """Start and reload wait for this. Versions under an earlier config do not count."""
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


def test_a_model_whose_only_version_is_removed_before_its_load_is_settled():
    """The version has failed, as in TensorFlow Serving, so start and reload wait no longer."""
    a = model()
    a.update_versions(paths(1))
    a.update_versions(paths())
    assert a.is_settled


@pytest.mark.parametrize("state", list(State))
def test_states_have_the_numbers_of_the_proto(state: State):
    """They are sent unconverted."""
    assert ModelVersionStatus.State.Value(state.name) == state
