"""docs/kubernetes.md deploys a service that works, and a lost model server changes no text.

Not named as tests are, since it needs a cluster: `tests/kubernetes/run` runs it.
"""

import json

import pytest

from tests.kubernetes.deployment import GATEWAY, SERVER

pytestmark = pytest.mark.timeout(1200)


def test_the_pages_commands_deploy_a_service_that_streams(deployment):
    events = [line.removeprefix("data: ") for line in deployment.ask().splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    text = "".join(choice["text"] for event in events[:-1] for choice in json.loads(event)["choices"])
    assert 0 < len(text) <= 300
    pods = [*deployment.kubectl.pods(GATEWAY), *deployment.kubectl.pods(SERVER)]
    assert [status["restartCount"] for pod in pods for status in pod["status"]["containerStatuses"]] == [0] * 4
    assert set(deployment.kubectl.ready_pods(GATEWAY).values()) != set()


def test_what_is_applied_has_no_diff(deployment):
    """`kubectl diff` is empty, so that a diff shows a change."""
    done = deployment.kubectl.start("diff", "-k", str(deployment.mine))
    assert (done.returncode, done.stdout) == (0, "")


def test_a_deleted_model_server_changes_no_text(deployment, inject):
    (pod, *_) = deployment.kubectl.ready_pods(SERVER)
    with inject("a model server's pod is deleted"):
        deployment.kubectl.run("delete", "pod", pod)
