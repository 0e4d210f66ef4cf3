"""The manifests and commands of the page about Kubernetes match the rendered objects."""

import re
import textwrap

import kubernetes_validate
import pytest
import yaml

from tests.documents import page_with
from tests.manifests import main_container, of_kind, overlay, render, settings, templates
from tests.paths import ROOT

PAGE = page_with("kubectl create secret generic")
# Blocks within lists are indented.
BLOCKS = [textwrap.dedent(block) for block in re.findall(r"^ *```yaml\n(.*?)^ *```", PAGE, re.MULTILINE | re.DOTALL)]
TRAINING, KUEUE = BLOCKS[3:]
KINDS = {"deployment": "Deployment", "job": "Job", "service": "Service", "hpa": "HorizontalPodAutoscaler"}


@pytest.fixture
def mine(tmp_path):
    """Render a user's own kustomization, made of blocks of the page, and validate its objects."""
    (tmp_path / "sostenuto").symlink_to(ROOT)
    folder = tmp_path / "my-sostenuto"
    folder.mkdir()

    def rendered(*blocks):
        content = {}
        for block in map(yaml.safe_load, blocks):
            for key, value in block.items():
                content[key] = [*content.get(key, []), *value] if isinstance(value, list) else value
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
        objects = render(folder)
        for each in objects:
            kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)
        return objects

    return rendered


def test_the_pages_kustomization_sets_namespace_registry_and_storage_class(mine):
    objects = mine(BLOCKS[0])
    assert len(objects) == len(overlay("cpu"))
    assert {each["metadata"]["namespace"] for each in objects} == {"sostenuto"}
    images = {main_container(objects, name)["image"] for name in templates(objects)}
    assert {image.rpartition("/")[0] for image in images} == {"registry.example", "tensorflow"}
    assert of_kind(objects, "PersistentVolumeClaim")["models"]["spec"]["storageClassName"] == "nfs"


def test_the_pages_literals_are_merged_into_the_gateways_settings(mine):
    before, after = settings(overlay("cpu"), "gateway"), settings(mine(*BLOCKS[:2]), "gateway")
    assert after == {**before, "SOSTENUTO_DEFAULT_MODEL": "demo", "SOSTENUTO_LOG_LEVEL": "warning"}


def test_the_pages_patch_removes_api_keys_and_nothing_else(mine):
    objects = mine(BLOCKS[0], BLOCKS[2])
    container, template = main_container(objects, "gateway"), templates(objects)["gateway"]
    assert "api-keys" not in yaml.safe_dump(template)
    assert "SOSTENUTO_KEYS_FILE" not in settings(objects, "gateway")
    assert {mount["name"] for mount in container["volumeMounts"]} == {"models", "state-key", "tmp"}
    assert {volume["name"] for volume in template["spec"]["volumes"]} == {"models", "state-key", "tmp"}


def test_the_pages_component_trains_with_the_users_images_and_storage_class(mine):
    objects = mine(BLOCKS[0], TRAINING, KUEUE)
    trainer = main_container(objects, "trainer")
    (pod_template,) = of_kind(objects, "PodTemplate").values()
    (training,) = pod_template["template"]["spec"]["containers"]
    assert training["image"] == trainer["image"] == "registry.example/sostenuto-exporter:0.1.0"
    assert {each["spec"]["storageClassName"] for each in of_kind(objects, "PersistentVolumeClaim").values()} == {"nfs"}
    assert {"name": "SOSTENUTO_KUEUE_QUEUE", "value": "training"} in trainer["env"]
    (binding,) = of_kind(objects, "RoleBinding").values()
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "trainer", "namespace": "sostenuto"}]


def test_the_page_has_only_the_tested_blocks():
    """A sixth YAML block would need a test of its own."""
    assert len(BLOCKS) == 5


def test_kubectl_commands_of_the_page_name_rendered_objects(mine):
    objects = [*overlay("cpu"), *mine(BLOCKS[0], TRAINING)]
    lines = "\n".join(re.findall(r"^ *(kubectl .*)", PAGE, re.MULTILINE))
    named = set(re.findall(r"\b(deployment|job|service|hpa)[/ ]([a-z][a-z-]+)", lines))
    assert len(named) > 4
    for kind, name in named:
        assert name in of_kind(objects, KINDS[kind])
    made = set(re.findall(r"kubectl create secret generic (\S+) --from-(?:file|literal) ([\w.]+)", PAGE))
    needed = {
        (volume["secret"]["secretName"], settings(overlay("cpu"), "gateway")[variable].rpartition("/")[2])
        for volume in templates(overlay("cpu"))["gateway"]["spec"]["volumes"]
        for variable, folder in (("SOSTENUTO_KEYS_FILE", "api-keys"), ("SOSTENUTO_STATE_KEY_FILE", "state-key"))
        if volume["name"] == folder
    }
    assert made == needed | {("training-database", "url")}


def test_the_pages_table_lists_every_object():
    rows = re.findall(r"^\| ([A-Z][A-Za-z, ]+) ((?:`[a-z-]+`(?:, )?)+) \|", PAGE, re.MULTILINE)
    told = {
        (kind, name) for kinds, names in rows for kind in kinds.split(", ") for name in re.findall(r"`(.*?)`", names)
    }
    kinds = {each["kind"] for each in overlay("cpu")}
    there = {(kind, name) for kind in kinds for name in of_kind(overlay("cpu"), kind)}
    assert told == there | {("Secret", "state-key"), ("Secret", "api-keys")}
