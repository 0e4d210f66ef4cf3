"""The component `training`: its objects fit the trainer, the launcher and each other."""

import kubernetes_validate
import pytest
import yaml

from jobs.cli import trainer as command
from jobs.launchers.launcher import GONE_S, STOP_S
from sostenuto import __version__
from tests.manifests import KUBERNETES, containers, of_kind, overlay, quantity, render, templates
from tests.unit.deploy.kubernetes.test_objects import VERSIONS

NAMES = {"trainer", "training"}


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kustomization")
    (folder / "sostenuto").symlink_to(KUBERNETES)
    mine = folder / "mine"
    mine.mkdir()
    content = {"resources": ["../sostenuto/overlays/cpu"], "components": ["../sostenuto/components/training"]}
    (mine / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return render(mine)


@pytest.fixture(scope="module")
def pods(objects):
    (template,) = of_kind(objects, "PodTemplate").values()
    found = templates(objects)
    return {"training": template["template"], "trainer": found["trainer"], "gateway": found["gateway"]}


def environment(pod):
    (container,) = containers(pod)
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def mounts(pod):
    (container,) = containers(pod)
    claims = {each["name"]: each.get("persistentVolumeClaim", {}).get("claimName") for each in pod["spec"]["volumes"]}
    return {mount["mountPath"]: claims[mount["name"]] for mount in container["volumeMounts"]}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_under_the_strict_schema_of_kubernetes(objects, version):
    added = [each for each in objects if each["metadata"]["name"] in NAMES]
    assert len(added) == 8
    for each in added:
        kubernetes_validate.validate(each, version, strict=True)


def test_pods_have_the_privileges_of_all_others(pods):
    """Read-only file systems, no capabilities, no root; a token for the trainer alone."""
    for name in NAMES:
        assert pods[name]["spec"]["securityContext"] == pods["gateway"]["spec"]["securityContext"]
        for container in containers(pods[name]):
            assert container["securityContext"] == containers(pods["gateway"])[0]["securityContext"]
            assert quantity(container["resources"]["limits"]["memory"]) >= 2**30
        assert pods[name]["spec"]["automountServiceAccountToken"] == (name == "trainer")
        assert pods[name]["spec"]["enableServiceLinks"] is False
    assert "serviceAccountName" not in pods["training"]["spec"]


def test_the_trainers_role_has_what_the_launcher_asks_for_and_no_more(objects):
    (role,) = of_kind(objects, "Role").values()
    allowed = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert allowed == {
        *(("jobs", verb) for verb in ("create", "get", "list", "delete")),
        *(("pods", "list"), ("podtemplates", "get")),
    }
    (binding,) = of_kind(objects, "RoleBinding").values()
    assert binding["roleRef"]["name"] == role["metadata"]["name"]


def test_gateway_trainer_and_training_share_volumes_database_and_image(pods):
    assert mounts(pods["training"])["/training"] == mounts(pods["trainer"])["/training"] == "training"
    assert mounts(pods["gateway"])["/training"] == "training"
    assert mounts(pods["training"])["/models"] == mounts(pods["trainer"])["/models"] == "models"
    variable = "SOSTENUTO_TRAINING_DATABASE"
    assert environment(pods["gateway"])[variable] == environment(pods["trainer"])[variable]
    assert environment(pods["gateway"])["SOSTENUTO_TRAINING_DIR"] == "/training"
    images = {containers(pods[name])[0]["image"] for name in NAMES}
    assert images == {f"sostenuto-exporter:{__version__}"}


def test_the_trainers_variables_are_those_of_its_options(objects, pods):
    options = {parameter.envvar: parameter for parameter in command.params}
    variables = environment(pods["trainer"])
    assert variables.keys() - {"HOME"} <= options.keys()
    assert variables["SOSTENUTO_LAUNCHER"] == "kubernetes"
    (template,) = of_kind(objects, "PodTemplate")
    assert options["SOSTENUTO_POD_TEMPLATE"].default == template
    assert variables["SOSTENUTO_TRAINING_DIR"] == "/training"


def test_grace_periods_cover_what_the_launcher_waits_for(pods):
    assert pods["training"]["spec"]["terminationGracePeriodSeconds"] == STOP_S
    assert pods["trainer"]["spec"]["terminationGracePeriodSeconds"] > GONE_S


def test_a_training_has_no_network_and_the_trainer_no_more_than_it_needs(objects, pods):
    policies = of_kind(objects, "NetworkPolicy")
    for name in NAMES:
        assert policies[name]["spec"]["podSelector"]["matchLabels"].items() <= pods[name]["metadata"]["labels"].items()
        assert policies[name]["spec"]["policyTypes"] == ["Ingress", "Egress"]
        assert "ingress" not in policies[name]["spec"]
    assert "egress" not in policies["training"]["spec"]
    (rule,) = policies["trainer"]["spec"]["egress"]
    assert {each["port"] for each in rule["ports"]} == {53, 443, 6443, 5432}


def test_the_component_adds_its_objects_and_changes_the_gateway_alone(objects):
    before, after = (
        {(each["kind"], each["metadata"]["name"]): each for each in found} for found in (overlay("cpu"), objects)
    )
    assert {name for _, name in after.keys() - before.keys()} == NAMES
    assert [key for key, each in before.items() if after[key] != each] == [("Deployment", "gateway")]
