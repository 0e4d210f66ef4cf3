"""What the workloads are told fits the programs: settings, flags, threads, probes, grace periods, versions, load."""

import re
import tomllib

import yaml
from prometheus_client import generate_latest

from contract.signatures import MODELS_CONFIG
from export.cli import build_parser
from service.commands.serve import AFTER_DRAIN_S, metrics_port
from service.observability.metrics import Metrics
from service.params import ModelVersion
from tests.manifests import (
    KUBERNETES,
    ROOT,
    arguments,
    containers,
    main_container,
    of_kind,
    overlay,
    ports_of,
    quantity,
    settings,
    templates,
)

# An answer of DNS may be so old: the cache of CoreDNS as Kubernetes sets it up.
DNS_CACHE_S = 30


def pre_stop_s(container):
    return container["lifecycle"]["preStop"]["sleep"]["seconds"]


def test_a_model_server_has_its_cores_for_itself(objects):
    """All its containers ask for what they are limited to, and the server for whole cores."""
    for container in containers(templates(objects)["tensorflow-serving"]):
        limits = {name: value for name, value in container["resources"]["limits"].items() if "/" not in name}
        assert container["resources"]["requests"] == limits
    assert quantity(main_container(objects, "tensorflow-serving")["resources"]["limits"]["cpu"]).is_integer()


def test_calls_at_once_are_the_cores_of_a_model_server(objects, gateway_settings):
    """So many calls as all gateways send a server, it has cores and threads; an operation has one."""
    server, flags = (
        main_container(objects, "tensorflow-serving"),
        arguments(main_container(objects, "tensorflow-serving")),
    )
    num_calls = of_kind(objects, "Deployment")["gateway"]["spec"]["replicas"] * gateway_settings.max_calls
    assert flags["tensorflow_intra_op_parallelism"] == "1"
    assert int(flags["tensorflow_inter_op_parallelism"]) == num_calls == quantity(server["resources"]["limits"]["cpu"])


def test_variables_of_the_gateway_are_settings(objects, gateway_settings):
    """Each is a setting and within its bounds."""
    names = {name.removeprefix("OSTINATO_").lower() for name in settings(objects, "gateway")}
    assert names == gateway_settings.model_fields_set
    assert gateway_settings.host == gateway_settings.metrics_host == "0.0.0.0"


def test_the_gateways_ports_are_those_it_listens_on(objects, gateway_settings):
    """The container declares the port of the API and that of the metrics, where Prometheus is told to look."""
    template = templates(objects)["gateway"]
    expected = {"http": gateway_settings.port, "metrics": metrics_port(gateway_settings, gateway_settings.port)}
    assert ports_of(template) == expected
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(expected["metrics"])
    assert template["metadata"]["annotations"]["prometheus.io/path"] == "/metrics"


def test_the_gateway_finds_every_model_server(objects, gateway_settings):
    """The address is that of a headless Service, which stands for all ready pods, and of its port."""
    (address,) = gateway_settings.addresses
    name, _, port = address.partition(":")
    service = of_kind(objects, "Service")[name]["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is False
    assert [each["port"] for each in service["ports"]] == [int(port)]
    # DNS of a headless Service gives addresses, so the pod itself listens there.
    assert ports_of(templates(objects)[name])["grpc"] == int(port)


def test_the_gateways_files_lie_where_secrets_are_mounted(objects, gateway_settings):
    """Keys come from Secrets, which must be there, readable by the gateway's group and by nobody else."""
    template = templates(objects)["gateway"]
    mounts = {mount["mountPath"]: mount["name"] for mount in main_container(objects, "gateway")["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    for file, secret in ((gateway_settings.keys_file, "api-keys"), (gateway_settings.state_key_file, "state-key")):
        source = volumes[mounts[str(file.parent)]]["secret"]
        assert source == {"secretName": secret, "defaultMode": 0o440}


def test_probes_ask_what_they_are_for(objects):
    """Gateways are ready when a model answers; model servers when their port is open; lives mean the process."""
    gateway = main_container(objects, "gateway")
    assert gateway["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert gateway["livenessProbe"]["httpGet"] == gateway["startupProbe"]["httpGet"]
    assert gateway["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    server = main_container(objects, "tensorflow-serving")
    assert server["startupProbe"]["tcpSocket"] == server["readinessProbe"]["tcpSocket"] == {"port": "grpc"}
    # Answered only with the flag.
    assert server["livenessProbe"]["grpc"] == {"port": 8500}
    assert arguments(server)["enable_grpc_healthcheck_service"] == "true"


def test_a_gateway_has_time_to_finish(objects, gateway_settings):
    """The grace period holds the wait for the endpoints, the drain and the last words."""
    grace_s = templates(objects)["gateway"]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s > pre_stop_s(main_container(objects, "gateway")) + gateway_settings.drain_s + AFTER_DRAIN_S


def test_a_model_server_stays_until_nobody_looks_for_it(objects, gateway_settings):
    """It outlives what DNS still tells of it, and goes only after its successor is known."""
    template, deployment = (
        templates(objects)["tensorflow-serving"],
        of_kind(objects, "Deployment")["tensorflow-serving"],
    )
    wait_s = pre_stop_s(main_container(objects, "tensorflow-serving"))
    assert wait_s > DNS_CACHE_S + gateway_settings.poll_s
    assert template["spec"]["terminationGracePeriodSeconds"] > wait_s
    assert deployment["spec"]["minReadySeconds"] > DNS_CACHE_S + gateway_settings.poll_s


def test_sigterm_reaches_the_model_server(objects):
    """It is no child of the image's script, and not process 1, which a signal without a handler does not end."""
    assert main_container(objects, "tensorflow-serving")["command"] == ["tensorflow_model_server"]
    assert templates(objects)["tensorflow-serving"]["spec"]["shareProcessNamespace"] is True


def test_the_model_server_waits_for_the_file_that_it_reads(objects):
    """Who waits and who reads name the same file, on the volume."""
    template = templates(objects)["tensorflow-serving"]
    (waits,) = template["spec"]["initContainers"]
    flags = arguments(main_container(objects, "tensorflow-serving"))
    assert flags["model_config_file"] == f"/models/{MODELS_CONFIG}"
    assert f"[ -f {flags['model_config_file']} ]" in waits["command"][-1]
    assert waits["image"] == main_container(objects, "tensorflow-serving")["image"]
    assert float(flags["model_config_file_poll_wait_seconds"]) > 0
    assert float(flags["file_system_poll_wait_seconds"]) > 0


def test_the_model_servers_metrics_are_where_prometheus_looks(objects):
    """The file of the flag is mounted, turns metrics on, and names the path of the annotation."""
    template, server = templates(objects)["tensorflow-serving"], main_container(objects, "tensorflow-serving")
    folder, _, file = arguments(server)["monitoring_config_file"].rpartition("/")
    (mount,) = (mount["name"] for mount in server["volumeMounts"] if mount["mountPath"] == folder)
    (volume,) = (volume["configMap"]["name"] for volume in template["spec"]["volumes"] if volume["name"] == mount)
    (content,) = (each["data"][file] for each in objects if each["metadata"]["name"] == volume)
    # The messages of this file are not in tensorflow-serving-api.
    words = re.sub(r"^#.*\n", "", content, flags=re.MULTILINE).split()
    path = template["metadata"]["annotations"]["prometheus.io/path"]
    assert " ".join(words) == f'prometheus_config {{ enable: true path: "{path}" }}'
    assert template["metadata"]["annotations"]["prometheus.io/port"] == arguments(server)["rest_api_port"]
    assert ports_of(template) == {"grpc": int(arguments(server)["port"]), "monitoring": 8501}


def test_images_have_the_versions_of_what_was_tested(objects):
    """The model server is the TensorFlow that exports; what is ours has the project's version."""
    requirements = (ROOT / "requirements.txt").read_text()
    (tensorflow,) = re.findall(r"^tensorflow==(\S+)", requirements, re.MULTILINE)
    own = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {name: {each["image"] for each in containers(pod)} for name, pod in templates(objects).items()}
    suffix = "-gpu" if objects is overlay("gpu") else ""
    assert images == {
        "gateway": {f"ostinato-gateway:{own}"},
        "exporter": {f"ostinato-exporter:{own}"},
        "workbench": {f"ostinato-exporter:{own}"},
        "tensorflow-serving": {f"tensorflow/serving:{tensorflow}{suffix}"},
    }


def test_the_exporters_command_is_one(objects):
    """The Job's arguments are those of `python -m export`, for a recipe that exists and the volume."""
    options = build_parser().parse_args(main_container(objects, "exporter")["args"])
    assert options.command == "train"
    assert options.if_empty
    assert (ROOT / options.config).is_file()
    assert str(options.models_dir) == "/models"
    assert str(options.runs_dir).startswith("/tmp/")


def test_the_model_servers_are_scaled_by_a_metric_that_the_gateways_have(objects):
    """The autoscaler's metric is what the adapter makes, of series that a scrape of a gateway shows."""
    scaler = of_kind(objects, "HorizontalPodAutoscaler")["tensorflow-serving"]["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "tensorflow-serving"}
    (metric,) = scaler["metrics"]
    (rule,) = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())["rules"]["external"]
    assert metric["external"]["metric"]["name"] == rule["name"]["as"]
    metrics = Metrics("0")
    metrics.watch_load(lambda: [(ModelVersion("demo", 1), 3, 4)], lambda: 0)
    shown = re.findall(r"^(\w+)\{", generate_latest(metrics.registry).decode(), re.MULTILINE)
    assert re.fullmatch(rule["name"]["matches"], rule["seriesQuery"].partition("{")[0])
    assert rule["name"]["matches"] in shown
    (pattern,) = re.findall(r'__name__=~"([^"]+)"', rule["metricsQuery"])
    summed = [name for name in shown if re.fullmatch(pattern, name)]
    assert summed == ["ostinato_sequences_running", "ostinato_sequences_waiting"]


def test_the_largest_number_of_model_servers_is_what_running_texts_keep_busy(objects, gateway_settings):
    """More servers than the gateways' rows can fill would stand idle; the Deployment itself gives no number."""
    scaler = of_kind(objects, "HorizontalPodAutoscaler")["tensorflow-serving"]["spec"]
    per_server = int(scaler["metrics"][0]["external"]["target"]["averageValue"])
    num_gateways = of_kind(objects, "Deployment")["gateway"]["spec"]["replicas"]
    assert scaler["maxReplicas"] * per_server == num_gateways * gateway_settings.max_running
    assert scaler["minReplicas"] >= 2
    assert "replicas" not in of_kind(objects, "Deployment")["tensorflow-serving"]["spec"]
