"""Pipes, devices and truncated files instead of those of a running service: it keeps serving and polling."""

import json
import os
import shutil

import pytest

from contract.card import TrainingFilterDescription
from service.__main__ import main
from tests.access import ask, keys
from tests.processes import status
from tests.unit.contract.test_training_filter import of_spans
from tests.waiting import until

BODY = {"model": "lstm", "prompt": "It was", "max_tokens": 5, "seed": 1}
# More than the limits of all files together, and far less than a device would fill in the time of the test.
MAX_GROWTH_BYTES = 300 * 2**20


def reported(gateway, path):
    """Return whether the log says why a file cannot be read."""
    return any(str(path) in line and "is not a regular file" in line for line in gateway.output.splitlines())


@pytest.fixture
def repository(two_models_dir, tmp_path):
    """A copy of the repository with labels, a traffic split and a training filter of `lstm`."""
    folder = tmp_path / "models"
    shutil.copytree(two_models_dir, folder)
    config = folder / "models.config"
    config.write_text(config.read_text().replace(str(two_models_dir), str(folder)))
    (folder / "labels.json").write_text('{"lstm": {"stable": 1}, "words": {"stable": 1}}')
    (folder / "routing.toml").write_text("[lstm]\nstable = 1\n")
    training_filter, assets = of_spans(range(50), 10), folder / "lstm" / "1" / "assets.extra"
    (assets / "training.bloom").write_bytes(training_filter.to_bytes())
    card = json.loads((assets / "generator.json").read_text())
    card["training_filter"] = TrainingFilterDescription.of(training_filter).model_dump()
    (assets / "generator.json").write_text(json.dumps(card))
    return folder


@pytest.mark.timeout(600)
@pytest.mark.parametrize("special", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_special_files_neither_stop_the_polls_nor_fill_the_memory(
    repository, own_model_server, start_gateway, special, tmp_path
):
    key_file, state_key = tmp_path / "keys.json", tmp_path / "state.key"
    key = keys(key_file, "add", "--tenant", "operator")
    state_key.write_text("k" * 40)
    server = own_model_server(repository)
    gateway = start_gateway(repository=repository, backend=server.port, keys_file=key_file, state_key_file=state_key)
    before = {pid: status(pid, "VmRSS") for pid in (gateway.worker_pid, server.process.pid)}
    files = [repository / "labels.json", repository / "routing.toml", key_file, state_key]
    files += [repository / "lstm" / "1" / "assets.extra" / "generator.json", repository / "models.config"]
    contents = {path: path.read_bytes() for path in files}
    for path in files:
        # In the end models.config: without it the gateway does not read the others.
        path.unlink()
        special(path)
        if path != state_key:
            # Keys are checked at requests.
            until(lambda path=path: ask(gateway, key, BODY)[0] == 200 and reported(gateway, path))
    assert all(status(pid, "VmRSS") - bytes_before < MAX_GROWTH_BYTES for pid, bytes_before in before.items())
    for path, content in contents.items():
        path.unlink()
        path.write_bytes(content)
    (repository / "labels.json").write_text('{"lstm": {"stable": 1, "fresh": 1}, "words": {"stable": 1}}')
    until(lambda: ask(gateway, key, {**BODY, "model": "lstm@fresh"})[0] == 200)
    assert main(["keys", "revoke", key.split("-")[1], "--file", str(key_file)]) == 0
    until(lambda: ask(gateway, key, BODY)[0] == 401)


@pytest.mark.timeout(600)
def test_a_training_filter_that_is_truncated_in_place_does_not_end_the_worker(
    repository, own_model_server, start_gateway
):
    """A loaded filter stays in use; one that is not loaded yet is an error of its own requests alone."""
    path = repository / "lstm" / "1" / "assets.extra" / "training.bloom"
    content, body = path.read_bytes(), {**BODY, "not_in_training": True}
    server = own_model_server(repository)
    first, second = (start_gateway(repository=repository, backend=server.port) for _ in range(2))
    workers = first.worker_pid, second.worker_pid
    assert ask(first, body=body)[0] == 200
    os.truncate(path, 100)
    for _ in range(20):
        assert ask(first, body=body)[0] == 200
        code, _, answer = ask(second, body=body)
        assert (code, answer["error"]["code"]) == (500, "training_filter_unusable")
    assert ask(second, body=BODY)[0] == 200
    path.write_bytes(content)
    assert ask(second, body=body)[0] == 200
    assert (first.worker_pid, second.worker_pid) == workers
