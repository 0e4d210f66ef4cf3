"""docker-compose.yml is consistent with the programs, the Kubernetes objects and its page.

`tests/compose/run` tests how it runs.
"""

import re

import pytest
import yaml

from jobs.launchers.launcher import STOP_S
from service.commands.gateway import AFTER_DRAIN_S
from service.settings import Settings
from tests.documents import page_with, rows
from tests.manifests import ABANDONED_PER_CALL, arguments, calls_in_flight
from tests.paths import ROOT

TEXT = (ROOT / "docker-compose.yml").read_text()
PAGE = page_with("docker compose down")


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load(TEXT)


def flags(service):
    """Return the model server's flags."""
    return arguments({"args": service["command"]})


def test_tensorflow_serving_has_the_version_of_the_exporters_tensorflow(compose):
    """An older server may not support what a newer TensorFlow writes."""
    (pinned,) = re.findall(r"^tensorflow==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    images = [compose["services"][name]["image"] for name in ("tensorflow-serving", "tensorflow-serving-gpu")]
    assert images == [
        f"${{SERVING_IMAGE:-tensorflow/serving:{pinned}}}",
        f"${{SERVING_GPU_IMAGE:-tensorflow/serving:{pinned}-gpu}}",
    ]


def test_cpu_and_gpu_servers_differ_only_in_what_a_gpu_needs(compose):
    cpu, gpu = (dict(compose["services"][f"tensorflow-serving{which}"]) for which in ("", "-gpu"))
    aliases = gpu["networks"]["backend"]["aliases"]
    assert f"{aliases[0]}:8500" in compose["services"]["gateway"]["environment"]["SOSTENUTO_BACKENDS"]
    for own in ("image", "profiles", "networks", "environment", "deploy"):
        cpu.pop(own, None)
        gpu.pop(own)
    assert cpu == gpu


def test_the_model_server_has_a_grpc_thread_for_every_call_in_flight(compose):
    num_calls = calls_in_flight(1, Settings().max_calls)
    threads = int(flags(compose["services"]["tensorflow-serving"])["grpc_max_threads"])
    assert threads >= num_calls * (1 + ABANDONED_PER_CALL) + 1


@pytest.mark.parametrize("name", yaml.safe_load(TEXT)["services"])
def test_every_service_has_least_privileges(compose, name):
    service = compose["services"][name]
    # The images of those without a user have one themselves.
    assert ("user" in service) == (name not in {"gateway", "keys", "grafana"})
    assert not str(service.get("user", "1")).startswith("0")
    assert (service["read_only"], service["init"], service["cap_drop"]) == (True, True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"\d+m|\$\{\w+:-\d+[mg]\}", service["mem_limit"])
    assert service["logging"]["options"]["max-size"]
    assert ("ports" in service) == (name in {"gateway", "grafana"})
    assert all("127.0.0.1" in port for port in service.get("ports", []))


def test_the_gateways_stop_grace_period_covers_drain_and_shutdown(compose):
    grace_s = int(compose["services"]["gateway"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > Settings().drain_s + AFTER_DRAIN_S


def test_a_gateway_that_is_published_beyond_loopback_does_not_train_without_keys(compose):
    """The address of the port and that of the setting are one variable."""
    gateway = compose["services"]["gateway"]
    (address, _) = gateway["ports"][0].split(":${SOSTENUTO_PORT")
    assert gateway["environment"]["SOSTENUTO_PUBLISHED_HOST"] == address


def test_a_trainer_has_room_for_the_largest_training_and_time_to_end_it(compose):
    trainer, settings = compose["services"]["trainer"], Settings()
    assert str(settings.max_training_bytes) in trainer["environment"]["SOSTENUTO_MAX_TRAINING_BYTES"]
    assert int(re.search(r"-(\d+)g", trainer["mem_limit"])[1]) * 2**30 >= settings.max_training_bytes + 2**30
    assert int(trainer["stop_grace_period"].removesuffix("s")) > STOP_S


def test_every_environment_variable_of_the_gateway_is_a_setting(compose):
    names = {name.removeprefix("SOSTENUTO_").lower() for name in compose["services"]["gateway"]["environment"]}
    names |= {name.removeprefix("SOSTENUTO_").lower() for name in compose["services"]["keys"]["environment"]}
    assert names <= set(Settings.model_fields)


def test_variables_that_the_page_puts_into_gateway_env_take_effect(compose):
    """The compose file does not set them: its own variables take precedence over that file."""
    told = set(re.findall(r"(SOSTENUTO_\w+)=\S+ >> gateway\.env", PAGE))
    told |= set(
        re.findall(r"^(SOSTENUTO_\w+)=\S+$", PAGE.partition("in `gateway.env`:")[2].split("```")[1], re.MULTILINE)
    )
    assert told
    assert told.isdisjoint(compose["services"]["gateway"]["environment"])


def test_the_page_lists_every_variable_with_its_default():
    used = dict(re.findall(r"\$\{(\w+):?-([^}]*)\}", TEXT))
    table = rows("variable", "default")
    told = {name: defaults for names, defaults, _ in table for name in re.findall(r"`(\w+)`", names)}
    assert used.keys() == told.keys() - {"COMPOSE_PROFILES"}
    for name, defaults in told.items():
        if used.get(name):
            assert f"`{used[name]}`" in defaults, name
    assert "COMPOSE_PROFILES=cpu" in (ROOT / ".env").read_text()
