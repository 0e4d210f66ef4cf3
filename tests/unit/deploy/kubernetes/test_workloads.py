"""The workloads match the programs: settings, flags, threads, probes, grace periods, versions and autoscaling."""

import re

import pytest
import yaml
from prometheus_client import generate_latest

from contract.signatures import MODELS_CONFIG
from export.cli import train
from export.config import RECIPES
from service.commands.gateway import AFTER_DRAIN_S
from service.observability.metrics import Metrics
from service.scheduling.sequence import ModelVersion
from sostenuto import __version__
from tests.manifests import (
    ABANDONED_PER_CALL,
    KUBERNETES,
    arguments,
    calls_in_flight,
    containers,
    main_container,
    of_kind,
    overlay,
    ports_of,
    quantity,
    settings,
    templates,
)
from tests.metrics import watch
from tests.paths import ROOT

# The maximum age of a DNS response: the cache of CoreDNS in Kubernetes's default configuration.
DNS_CACHE_S = 30
# kube-controller-manager's --node-monitor-grace-period: 40 s until Kubernetes 1.31, 50 s since then.
LOST_AFTER_S = 50


def pre_stop_s(container):
    return container["lifecycle"]["preStop"]["sleep"]["seconds"]


def test_a_model_server_has_exclusive_cores(objects):
    """Requests equal limits, and its CPUs are whole: the conditions of the static CPU manager policy."""
    for container in containers(templates(objects)["tensorflow-serving"]):
        limits = {name: value for name, value in container["resources"]["limits"].items() if "/" not in name}
        assert container["resources"]["requests"] == limits
    assert quantity(main_container(objects, "tensorflow-serving")["resources"]["limits"]["cpu"]).is_integer()


def test_a_model_server_has_a_grpc_thread_for_every_call_in_flight(objects, gateway_settings):
    deployment = of_kind(objects, "Deployment")["gateway"]["spec"]
    num_gateways = deployment["replicas"] + deployment["strategy"]["rollingUpdate"]["maxSurge"]
    num_calls = calls_in_flight(num_gateways, gateway_settings.max_calls)
    flags = arguments(main_container(objects, "tensorflow-serving"))
    assert int(flags["grpc_max_threads"]) >= num_calls * (1 + ABANDONED_PER_CALL) + 1


@pytest.mark.parametrize("name", ["gateway", "tensorflow-serving"])
def test_pods_of_a_lost_node_are_replaced_within_the_backends_grace(objects, gateway_settings, name):
    """Kubernetes notices a lost node after 50 s and by default evicts its pods 300 s later."""
    tolerations = templates(objects)[name]["spec"]["tolerations"]
    waits = {each["key"]: each["tolerationSeconds"] for each in tolerations if each["effect"] == "NoExecute"}
    assert waits.keys() == {"node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"}
    assert max(waits.values()) + LOST_AFTER_S < gateway_settings.backend_grace_s


def test_a_rollout_may_take_as_long_as_the_first_training(objects):
    deployments = of_kind(objects, "Deployment")
    probe = main_container(objects, "tensorflow-serving")["startupProbe"]
    training_s = of_kind(objects, "Job")["exporter"]["spec"]["activeDeadlineSeconds"]
    waits_s = training_s + probe["periodSeconds"] * probe["failureThreshold"]
    for name in ("gateway", "tensorflow-serving"):
        assert deployments[name]["spec"]["progressDeadlineSeconds"] > waits_s


def test_environment_variables_of_the_gateway_are_valid_settings(objects, gateway_settings):
    names = {name.removeprefix("SOSTENUTO_").lower() for name in settings(objects, "gateway")}
    assert names == gateway_settings.model_fields_set
    assert gateway_settings.host == gateway_settings.metrics_host == "0.0.0.0"


def test_the_gateway_declares_the_ports_on_which_it_listens(objects, gateway_settings):
    template = templates(objects)["gateway"]
    expected = {"http": gateway_settings.port, "metrics": gateway_settings.metrics_port_beside(gateway_settings.port)}
    assert ports_of(template) == expected
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(expected["metrics"])
    assert template["metadata"]["annotations"]["prometheus.io/path"] == "/metrics"


def test_the_gateways_backend_is_a_headless_service_of_the_model_servers(objects, gateway_settings):
    (address,) = gateway_settings.addresses
    name, _, port = address.partition(":")
    service = of_kind(objects, "Service")[name]["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is False
    assert [each["port"] for each in service["ports"]] == [int(port)]
    # A headless Service resolves to addresses of pods, so that the pod itself must listen on the port.
    assert ports_of(templates(objects)[name])["grpc"] == int(port)


def test_the_gateways_key_files_are_in_mounted_secrets(objects, gateway_settings):
    """The Secrets are required, and readable by the gateway's group alone."""
    template = templates(objects)["gateway"]
    mounts = {mount["mountPath"]: mount["name"] for mount in main_container(objects, "gateway")["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    for file, secret in ((gateway_settings.keys_file, "api-keys"), (gateway_settings.state_key_file, "state-key")):
        source = volumes[mounts[str(file.parent)]]["secret"]
        assert source == {"secretName": secret, "defaultMode": 0o440}


def test_the_gateways_grace_period_covers_prestop_drain_and_shutdown(objects, gateway_settings):
    grace_s = templates(objects)["gateway"]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s > pre_stop_s(main_container(objects, "gateway")) + gateway_settings.drain_s + AFTER_DRAIN_S


def test_a_model_server_outlives_its_dns_entries(objects, gateway_settings):
    template, deployment = (
        templates(objects)["tensorflow-serving"],
        of_kind(objects, "Deployment")["tensorflow-serving"],
    )
    wait_s = pre_stop_s(main_container(objects, "tensorflow-serving"))
    assert wait_s > DNS_CACHE_S + gateway_settings.poll_s
    assert template["spec"]["terminationGracePeriodSeconds"] > wait_s
    assert deployment["spec"]["minReadySeconds"] > DNS_CACHE_S + gateway_settings.poll_s


def test_the_model_server_waits_for_its_models_config(objects):
    template = templates(objects)["tensorflow-serving"]
    (waits,) = template["spec"]["initContainers"]
    flags = arguments(main_container(objects, "tensorflow-serving"))
    assert flags["model_config_file"] == f"/models/{MODELS_CONFIG}"
    assert f"[ -f {flags['model_config_file']} ]" in waits["command"][-1]
    assert waits["image"] == main_container(objects, "tensorflow-serving")["image"]
    assert float(flags["model_config_file_poll_wait_seconds"]) > 0
    assert float(flags["file_system_poll_wait_seconds"]) > 0


def test_the_model_servers_metrics_have_the_path_and_port_of_the_annotations(objects):
    template, server = templates(objects)["tensorflow-serving"], main_container(objects, "tensorflow-serving")
    folder, _, file = arguments(server)["monitoring_config_file"].rpartition("/")
    (mount,) = (mount["name"] for mount in server["volumeMounts"] if mount["mountPath"] == folder)
    (volume,) = (volume["configMap"]["name"] for volume in template["spec"]["volumes"] if volume["name"] == mount)
    (content,) = (each["data"][file] for each in objects if each["metadata"]["name"] == volume)
    # The protobuf messages of this file are not in tensorflow-serving-api.
    words = re.sub(r"^#.*\n", "", content, flags=re.MULTILINE).split()
    path = template["metadata"]["annotations"]["prometheus.io/path"]
    assert " ".join(words) == f'prometheus_config {{ enable: true path: "{path}" }}'
    assert template["metadata"]["annotations"]["prometheus.io/port"] == arguments(server)["rest_api_port"]
    assert ports_of(template) == {"grpc": int(arguments(server)["port"]), "monitoring": 8501}


def test_images_have_the_tested_versions(objects):
    requirements = (ROOT / "requirements.txt").read_text()
    (tensorflow,) = re.findall(r"^tensorflow==(\S+)", requirements, re.MULTILINE)
    images = {name: {each["image"] for each in containers(pod)} for name, pod in templates(objects).items()}
    suffix = "-gpu" if objects is overlay("gpu") else ""
    assert images == {
        "gateway": {f"sostenuto-gateway:{__version__}"},
        "exporter": {f"sostenuto-exporter:{__version__}"},
        "workbench": {f"sostenuto-exporter:{__version__}"},
        "tensorflow-serving": {f"tensorflow/serving:{tensorflow}{suffix}"},
    }


def test_the_exporters_arguments_are_valid(objects):
    command, *arguments = main_container(objects, "exporter")["args"]
    assert command == train.name
    options = train.make_context(command, arguments).params
    assert options["if_empty"]
    assert options["config"] in RECIPES
    assert str(options["models_dir"]) == "/models"
    assert str(options["runs_dir"]).startswith("/tmp/")


def test_the_autoscaler_uses_a_metric_that_gateways_export(objects):
    scaler = of_kind(objects, "HorizontalPodAutoscaler")["tensorflow-serving"]["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "tensorflow-serving"}
    (metric,) = scaler["metrics"]
    (rule,) = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())["rules"]["external"]
    assert metric["external"]["metric"]["name"] == rule["name"]["as"]
    metrics = Metrics("0")
    watch(metrics, loads=lambda: {ModelVersion("demo", 1): (3, 4)})
    shown = re.findall(r"^(\w+)\{", generate_latest(metrics.registry).decode(), re.MULTILINE)
    assert re.fullmatch(rule["name"]["matches"], rule["seriesQuery"].partition("{")[0])
    assert rule["name"]["matches"] in shown
    (pattern,) = re.findall(r'__name__=~"([^"]+)"', rule["metricsQuery"])
    summed = [name for name in shown if re.fullmatch(pattern, name)]
    assert summed == ["sostenuto_sequences_running", "sostenuto_sequences_waiting"]
