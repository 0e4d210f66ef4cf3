"""The Kubernetes objects are valid and fit each other: names, ports, volumes, privileges, networks.

Nothing here was seen in a cluster.
"""

import re

import kubernetes_validate
import pytest

from tests.manifests import (
    OVERLAYS,
    containers,
    leaves,
    may_reach,
    of_kind,
    overlay,
    ports_of,
    quantity,
    selects,
    templates,
)

# The oldest one in which what is used is there unasked (preStop.sleep), and the newest that the schemas know.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]
GATEWAY = {"app.kubernetes.io/name": "gateway"}
PROMETHEUS = {"app.kubernetes.io/name": "prometheus"}


def probes(container):
    """Return the probes of a container."""
    return [container[f"{name}Probe"] for name in ("startup", "readiness", "liveness") if f"{name}Probe" in container]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_fits_the_schema_of_kubernetes(objects, version):
    """Each object has the fields of its kind and no other."""
    assert len(objects) > 10
    for each in objects:
        try:
            kubernetes_validate.validate(each, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = f"{each['kind']} {each['metadata']['name']}: {'.'.join(map(str, error.path))}"
            raise AssertionError(f"{where}: {error.message}") from None


def test_no_object_names_its_namespace(objects):
    """Whoever applies them says where they go."""
    assert [each["metadata"]["name"] for each in objects if "namespace" in each["metadata"]] == []


@pytest.mark.parametrize("name", ["gateway", "tensorflow-serving", "workbench"])
def test_what_selects_pods_finds_those_of_its_name(objects, name):
    """Deployments, Services, budgets, policies and spreads select the labels that the pods have, and no others."""
    every = {name: template["metadata"]["labels"] for name, template in templates(objects).items()}
    selectors = [of_kind(objects, "Deployment")[name]["spec"]["selector"]]
    selectors += [
        each["labelSelector"] for each in templates(objects)[name]["spec"].get("topologySpreadConstraints", [])
    ]
    if name != "workbench":
        selectors += [of_kind(objects, kind)[name]["spec"]["selector"] for kind in ("Service", "PodDisruptionBudget")]
        selectors += [of_kind(objects, "NetworkPolicy")[name]["spec"]["podSelector"]]
        assert len(selectors) == 5
    for selector in selectors:
        assert [other for other, labels in every.items() if selects(selector, labels)] == [name]


def test_every_port_that_is_named_exists(objects):
    """Probes, Services, policies and annotations lead to ports that the containers declare."""
    for template in templates(objects).values():
        ports, notes = ports_of(template), template["metadata"].get("annotations", {})
        known = {*ports, *ports.values()}
        for container in containers(template):
            for probe in probes(container):
                (action,) = (probe[kind] for kind in ("httpGet", "tcpSocket", "grpc") if kind in probe)
                assert action["port"] in known
        assert {int(notes["prometheus.io/port"])} <= known if ports else not notes
        for service in of_kind(objects, "Service").values():
            if selects(service["spec"]["selector"], template["metadata"]["labels"]):
                assert {port["targetPort"] for port in service["spec"]["ports"]} <= known
        for policy in of_kind(objects, "NetworkPolicy").values():
            if selects(policy["spec"]["podSelector"], template["metadata"]["labels"]):
                assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} <= known


def test_every_volume_is_there(objects):
    """Mounts name volumes of their pod; volumes name claims and ConfigMaps that are made; Secrets are a person's."""
    names = {(each["kind"], each["metadata"]["name"]) for each in objects}
    for template in templates(objects).values():
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        mounted = {mount["name"] for container in containers(template) for mount in container["volumeMounts"]}
        assert mounted == set(volumes)
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in names
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in names


def test_a_changed_file_of_settings_rolls_its_pods_out(objects):
    """ConfigMaps have the hash of their content in the name."""
    assert all(
        re.search(r"-[a-z0-9]{10}$", each["metadata"]["name"]) for each in objects if each["kind"] == "ConfigMap"
    )


def test_only_what_writes_the_repository_may_write_it(objects):
    """Exporter and workbench write /models; gateways and model servers see it read-only, where they look for it."""
    for name, template in templates(objects).items():
        for container in containers(template):
            mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
            assert mounts["models"]["mountPath"] == "/models"
            assert mounts["models"].get("readOnly", False) == (name not in {"exporter", "workbench"})


def test_every_pod_keeps_the_restricted_standard_and_writes_to_nothing_but_its_volumes(objects):
    """No root, no privileges, no capabilities, the runtime's seccomp profile, a read-only root, no token."""
    for template in templates(objects).values():
        pod = template["spec"]["securityContext"]
        assert pod["runAsNonRoot"] is True
        assert pod["runAsUser"] == pod["runAsGroup"] == pod["fsGroup"] == 10001
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert template["spec"]["automountServiceAccountToken"] is template["spec"]["enableServiceLinks"] is False
        for container in containers(template):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_who_runs_long_has_a_tmp_to_write_to(objects):
    """Each container that stays has an emptyDir of bounded size at /tmp."""
    for template in templates(objects).values():
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        for container in template["spec"]["containers"]:
            (mount,) = (mount for mount in container["volumeMounts"] if mount["mountPath"] == "/tmp")
            assert "sizeLimit" in volumes[mount["name"]]["emptyDir"]


def test_every_container_says_what_it_needs(objects):
    """Requests of cores and memory, no larger than the limits, and a limit of memory."""
    for template in templates(objects).values():
        for container in containers(template):
            needs = container["resources"]
            assert needs["requests"].keys() == {"cpu", "memory"}
            assert "memory" in needs["limits"]
            for what, needed in needs["requests"].items():
                assert quantity(needed) <= quantity(needs["limits"].get(what, needed))


def test_only_the_gateway_reaches_a_model_server_and_only_prometheus_its_metrics(objects):
    """Whoever reaches port 8500 can have other models loaded, and port 8501 answers predictions."""
    other = {"app.kubernetes.io/name": "other"}
    callers = [(GATEWAY, None), (PROMETHEUS, "monitoring"), (GATEWAY, "elsewhere"), (PROMETHEUS, None), (other, None)]
    callers += [(other, "monitoring"), (PROMETHEUS, "elsewhere")]

    def who_reaches(target, port):
        return [
            (labels, namespace)
            for labels, namespace in callers
            if may_reach(objects, port, target=target, source=labels, namespace=namespace)
        ]

    assert who_reaches("tensorflow-serving", 8500) == [(GATEWAY, None)]
    assert who_reaches("tensorflow-serving", 8501) == [(PROMETHEUS, "monitoring")]
    assert who_reaches("gateway", 8001) == [(PROMETHEUS, "monitoring")]
    assert who_reaches("gateway", 8000) == callers
    assert who_reaches("exporter", 8000) == who_reaches("workbench", 8000) == []


@pytest.mark.parametrize("name", ["tensorflow-serving", "exporter", "workbench"])
def test_who_needs_no_network_calls_nobody(objects, name):
    """Their policies forbid all egress."""
    labels = templates(objects)[name]["metadata"]["labels"]
    policies = [each["spec"] for each in of_kind(objects, "NetworkPolicy").values()]
    (policy,) = (policy for policy in policies if selects(policy["podSelector"], labels))
    assert "Egress" in policy["policyTypes"]
    assert policy["egress"] == []


def test_the_gpu_overlay_differs_in_what_a_gpu_needs():
    """Image, GPU, tolerance of its nodes, memory, the order of a rollout, and nothing else."""
    by_name = [
        leaves({f"{each['kind']}/{each['metadata']['name']}": each for each in overlay(name)}) for name in OVERLAYS
    ]
    cpu, gpu = by_name
    changed = {path for path in {*cpu, *gpu} if cpu.get(path) != gpu.get(path)}
    assert {path[0] for path in changed} == {"Deployment/tensorflow-serving"}
    pod = ("spec", "template", "spec")
    server = (*pod, "containers", "tensorflow-serving")
    assert {path[1:] for path in changed} == {
        ("spec", "strategy", "rollingUpdate", "maxSurge"),
        ("spec", "strategy", "rollingUpdate", "maxUnavailable"),
        (*pod, "initContainers", "wait-for-models", "image"),
        *((*pod, "tolerations", "0", field) for field in ("key", "operator", "effect")),
        (*server, "image"),
        (*server, "env", "TF_FORCE_GPU_ALLOW_GROWTH", "name"),
        (*server, "env", "TF_FORCE_GPU_ALLOW_GROWTH", "value"),
        (*server, "resources", "limits", "nvidia.com/gpu"),
        (*server, "resources", "limits", "memory"),
        (*server, "resources", "requests", "memory"),
    }
