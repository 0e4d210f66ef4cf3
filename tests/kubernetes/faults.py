"""No text of the SDK's users fails or differs, whatever happens to pods, nodes and the cluster's own services.

Streams with `resume=True` run during all tests; each text is compared with that of its seed before the first fault.
Not named as tests are, since it needs a cluster: `tests/kubernetes/run` runs it after `smoke.py`.
"""

import json
import os
import time

import pytest

from tests.kubernetes.deployment import GATEWAY, PATIENCE_S, SERVER
from tests.kubernetes.kubectl import NODE, on_node

pytestmark = pytest.mark.timeout(1200)
needs_node_command = pytest.mark.skipif(
    NODE not in os.environ, reason=f"{NODE} names no command that injects faults into nodes"
)
# Longer than CoreDNS keeps a name.
DNS_OUTAGE_S = 35
API_OUTAGE_S = 15
# Longer than callers wait for a lost host.
CUT_S = 20
# Ends the server, which is not process 1 of its pod.
KILL = "for p in /proc/[0-9]*; do grep -qs -- '[-]-rest_api_port=' $p/cmdline && kill -9 ${p#/proc/}; done; true"


def node_of(deployment, load, name):
    """Return a node with a pod of this workload, if possible not the load's."""
    deployment.spread()
    nodes = deployment.kubectl.ready_pods(name).values()
    return min(nodes, key=lambda node: node == load.node)


def until_lost(deployment, node):
    deployment.kubectl.until(lambda: not deployment.kubectl.nodes()[node], f"{node} is not ready", 180)


@needs_node_command
def test_a_killed_gateway_container_changes_no_text(deployment, inject):
    (pod, *_) = deployment.kubectl.pods(GATEWAY)
    (status,) = pod["status"]["containerStatuses"]
    node = pod["spec"]["nodeName"]
    with inject("a gateway's container is killed"):
        on_node(node, "kill-container", status["containerID"].rpartition("/")[2])
        name = pod["metadata"]["name"]
        count = ("get", "pod", name, "--output", "jsonpath={.status.containerStatuses[0].restartCount}")
        deployment.kubectl.until(
            lambda: int(deployment.kubectl.run(*count)) > status["restartCount"], "the container has restarted"
        )


def test_all_model_servers_killed_at_once_change_no_text(deployment, inject):
    pods = deployment.kubectl.ready_pods(SERVER)
    with inject("all model servers are killed at once"):
        for pod in pods:
            deployment.kubectl.run("exec", pod, "--container", SERVER, "--", "bash", "-c", KILL)
        deployment.kubectl.until(lambda: not deployment.kubectl.ready_pods(SERVER), "no server is ready", 60)


def test_a_dns_outage_changes_no_text(deployment, inject):
    dns = ("--namespace", "kube-system", "scale", "deployment/coredns", "--replicas")
    with inject(f"the cluster's DNS is gone for {DNS_OUTAGE_S} s"):
        deployment.kubectl.run(*dns, "0")
        try:
            time.sleep(DNS_OUTAGE_S)
        finally:
            deployment.kubectl.run(*dns, "2")
            deployment.kubectl.run("--namespace", "kube-system", "rollout", "status", "deployment/coredns")


@needs_node_command
def test_an_api_server_outage_changes_no_text(inject):
    with inject(f"the API server is gone for {API_OUTAGE_S} s"):
        on_node("control-plane", "stop-kube-apiserver")
        try:
            time.sleep(API_OUTAGE_S)
        finally:
            on_node("control-plane", "start-kube-apiserver")


@needs_node_command
def test_a_lost_kubelet_changes_no_text(deployment, load, inject):
    node = node_of(deployment, load, GATEWAY)
    with inject("a kubelet is gone until its node counts as lost", avoid=[node]):
        on_node(node, "stop-kubelet")
        try:
            until_lost(deployment, node)
        finally:
            on_node(node, "start-kubelet")


@needs_node_command
def test_a_gateways_node_without_network_changes_no_text(deployment, load, inject):
    """Callers notice within seconds, by TCP keepalive, and resume at the other gateway."""
    node = node_of(deployment, load, GATEWAY)
    with inject(f"a gateway's node has no network for {CUT_S} s", avoid=[node]):
        on_node(node, "cut")
        try:
            time.sleep(CUT_S)
        finally:
            on_node(node, "mend")


@needs_node_command
def test_a_power_cycled_node_changes_no_text(deployment, load, inject):
    node = node_of(deployment, load, GATEWAY)
    with inject("a gateway's node is power-cycled", avoid=[node]):
        on_node(node, "kill")
        time.sleep(10)
        on_node(node, "start")
        deployment.kubectl.until(lambda: deployment.kubectl.nodes()[node], f"{node} is ready")


@needs_node_command
def test_a_lost_node_is_replaced_and_changes_no_text(deployment, load, inject):
    node = node_of(deployment, load, SERVER)

    def has_moved():
        pods = [deployment.kubectl.ready_pods(name) for name in (GATEWAY, SERVER)]
        return all(len(each) == 2 and node not in each.values() for each in pods)

    with inject("a model server's node is off until its pods are replaced", avoid=[node]) as fault:
        on_node(node, "kill")
        try:
            until_lost(deployment, node)
            deployment.kubectl.until(has_moved, "the pods run on other nodes", PATIENCE_S)
            fault.note_recovery()
        finally:
            on_node(node, "start")


@pytest.mark.parametrize("name", [GATEWAY, SERVER])
def test_a_rolling_restart_changes_no_text(deployment, inject, name):
    """Gateways finish their texts first; calls to a server that ends are made again at another one."""
    with inject(f"rolling restart of {'gateways' if name == GATEWAY else 'model servers'}"):
        deployment.kubectl.run("rollout", "restart", f"deployment/{name}")
        deployment.kubectl.run("rollout", "status", f"deployment/{name}", timeout=PATIENCE_S)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_draining_a_node_changes_no_text(deployment, load, inject, number):
    nodes = sorted(deployment.kubectl.nodes(), key=lambda node: (node == load.node, node))
    if number >= len(nodes):
        pytest.skip(f"the cluster has {len(nodes)} nodes")
    node = nodes[number]
    drain = ("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=300s")
    with inject(f"node {number + 1} is drained", avoid=[node]):
        try:
            deployment.kubectl.run(*drain, timeout=PATIENCE_S)
        finally:
            deployment.kubectl.run("uncordon", node)


def test_the_pages_other_commands_run(deployment):
    """New keys, the workbench, another release, and the removal of old ConfigMaps."""
    deployment.run_block("kubectl create secret generic api-keys --from-file keys.json --dry-run=client")
    assert "demo" in deployment.run_block("kubectl scale deployment/workbench --replicas 1")
    content = (deployment.mine / "kustomization.yaml").read_text()
    generated = {"name": "gateway", "behavior": "merge", "literals": ["SOSTENUTO_LOG_LEVEL=warning"]}
    (deployment.mine / "kustomization.yaml").write_text(f"{content}\nconfigMapGenerator: {json.dumps([generated])}\n")
    deployment.run_block("kubectl delete job/exporter --ignore-not-found")
    maps = ("configmaps", "--selector", "app.kubernetes.io/part-of=sostenuto")
    before = {each["metadata"]["name"] for each in deployment.kubectl.get(*maps)}
    assert len(before) == 3
    deployment.run_block("kubectl apply -k ../my-sostenuto --prune ")
    after = {each["metadata"]["name"] for each in deployment.kubectl.get(*maps)}
    assert len(after) == 2
    assert after < before
    deployment.until_steady()
