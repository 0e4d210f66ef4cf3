"""The Kubernetes manifests: their objects as `kubectl kustomize` renders them, and queries on these."""

import functools
import re
import subprocess

import yaml

from service.backends.replicas import MAX_PROBE_CALLS
from tests.paths import ROOT
from tests.programs import program

KUBERNETES = ROOT / "deploy/kubernetes"
OVERLAYS = ["cpu", "gpu"]
# Calls that run on after a gateway gave them up, for each call in flight: they time out and are made again, at another
# server first.
ABANDONED_PER_CALL = 3


@functools.cache
def render(folder):
    """Return the objects of a kustomization, each a dict; they are cached and shared, so do not change them."""
    command = [program("kubectl"), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def overlay(name):
    return render(KUBERNETES / "overlays" / name)


def of_kind(objects, kind):
    """Return the objects of a kind by name, without the hash that kustomize appends to a generated name."""
    return {re.sub(r"-[a-z0-9]{10}$", "", each["metadata"]["name"]): each for each in objects if each["kind"] == kind}


def templates(objects):
    makers = of_kind(objects, "Deployment") | of_kind(objects, "Job")
    return {name: maker["spec"]["template"] for name, maker in makers.items()}


def containers(template):
    """Return every container of a pod, init containers included."""
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


def main_container(objects, name):
    """Return the only container of a workload, init containers excluded."""
    (container,) = templates(objects)[name]["spec"]["containers"]
    return container


def arguments(container):
    pairs = (argument.removeprefix("--").partition("=") for argument in container["args"] if argument.startswith("--"))
    return {name: value for name, _, value in pairs}


def settings(objects, name):
    """Return the environment of a workload's container, from ConfigMaps and its own variables."""
    container, maps = main_container(objects, name), {each["metadata"]["name"]: each for each in objects}
    found = {}
    for source in container.get("envFrom", []):
        found |= maps[source["configMapRef"]["name"]]["data"]
    return found | {each["name"]: each["value"] for each in container.get("env", [])}


def ports_of(template):
    return {port["name"]: port["containerPort"] for each in containers(template) for port in each.get("ports", [])}


def quantity(text):
    """Parse a quantity of cores or bytes."""
    number, unit = re.fullmatch(r"(\d+)(m|Mi|Gi)?", str(text)).groups()
    return float(number) * {None: 1, "m": 0.001, "Mi": 2**20, "Gi": 2**30}[unit]


def selects(selector, labels):
    """Return whether a label selector, or a Service's plain mapping, matches some labels."""
    if "matchLabels" not in selector and "matchExpressions" not in selector:
        return selector.items() <= labels.items()
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        {"In": labels.get(each["key"]) in each["values"]}[each["operator"]]
        for each in selector.get("matchExpressions", [])
    )


def calls_in_flight(num_gateways, max_calls):
    """Return how many calls a model server may have at once: each gateway's own, its probes', and a status request."""
    return num_gateways * (max_calls + MAX_PROBE_CALLS + 1)


def may_reach(objects, port, *, target, source, namespace=None):
    """Return whether the NetworkPolicies allow a call to a pod.

    Args:
        objects: The rendered objects.
        port: Number of the called port.
        target: Name of the called workload.
        source: Labels of the calling pod.
        namespace: Namespace of the calling pod; None: that of the objects.
    """
    labels = templates(objects)[target]["metadata"]["labels"]
    policies = [
        policy["spec"]
        for policy in of_kind(objects, "NetworkPolicy").values()
        if selects(policy["spec"]["podSelector"], labels) and "Ingress" in policy["spec"]["policyTypes"]
    ]
    rules = [rule for policy in policies for rule in policy.get("ingress", [])]
    return not policies or any(
        port in [each["port"] for each in rule["ports"]]
        and ("from" not in rule or any(_is_from(peer, source, namespace) for peer in rule["from"]))
        for rule in rules
    )


def _is_from(peer, labels, namespace):
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": namespace}):
            return False
    elif namespace is not None:
        return False
    return selects(peer.get("podSelector", {"matchLabels": {}}), labels)
