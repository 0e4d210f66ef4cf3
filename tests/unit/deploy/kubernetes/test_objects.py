"""The Kubernetes objects are valid and consistent: names, ports, volumes, privileges and network policies.

`make test-kubernetes` tests them in a cluster.
"""

import kubernetes_validate
import pytest

from tests.manifests import containers, may_reach, of_kind, ports_of, quantity, selects, templates

# The oldest that has preStop.sleep enabled by default, and the newest that there are schemas for.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]
GATEWAY = {"app.kubernetes.io/name": "gateway"}
PROMETHEUS = {"app.kubernetes.io/name": "prometheus"}


def probes(container):
    return [container[f"{name}Probe"] for name in ("startup", "readiness", "liveness") if f"{name}Probe" in container]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_under_the_strict_schema_of_kubernetes(objects, version):
    assert len(objects) > 10
    for each in objects:
        try:
            kubernetes_validate.validate(each, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = f"{each['kind']} {each['metadata']['name']}: {'.'.join(map(str, error.path))}"
            raise AssertionError(f"{where}: {error.message}") from None


def test_no_object_has_a_namespace(objects):
    assert [each["metadata"]["name"] for each in objects if "namespace" in each["metadata"]] == []


@pytest.mark.parametrize("name", ["gateway", "tensorflow-serving", "workbench"])
def test_every_selector_matches_the_pods_of_its_name_and_no_others(objects, name):
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


def test_every_referenced_port_is_declared_by_a_container(objects):
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
                rules = policy["spec"].get("ingress", [])
                assert {port["port"] for rule in rules for port in rule["ports"]} <= known


def test_every_mounted_volume_its_claim_and_its_configmap_exist(objects):
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


def test_only_exporter_and_workbench_mount_the_repository_writable(objects):
    for name, template in templates(objects).items():
        for container in containers(template):
            mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
            assert mounts["models"]["mountPath"] == "/models"
            assert mounts["models"].get("readOnly", False) == (name not in {"exporter", "workbench"})


def test_every_pod_meets_the_restricted_pod_security_standard(objects):
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


def test_every_container_requests_cpu_and_memory_and_limits_memory(objects):
    for template in templates(objects).values():
        for container in containers(template):
            needs = container["resources"]
            assert needs["requests"].keys() == {"cpu", "memory"}
            assert "memory" in needs["limits"]
            for what, needed in needs["requests"].items():
                assert quantity(needed) <= quantity(needs["limits"].get(what, needed))


def test_network_policies_admit_the_gateway_to_8500_and_prometheus_to_metrics(objects):
    """A client of port 8500 can load other models, and port 8501 serves predictions too."""
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
def test_pods_that_need_no_network_have_no_egress(objects, name):
    labels = templates(objects)[name]["metadata"]["labels"]
    policies = [each["spec"] for each in of_kind(objects, "NetworkPolicy").values()]
    (policy,) = (policy for policy in policies if selects(policy["podSelector"], labels))
    assert "Egress" in policy["policyTypes"]
    assert "egress" not in policy
