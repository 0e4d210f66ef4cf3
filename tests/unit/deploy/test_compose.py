"""docker-compose.yml and what lies beside it agree with the programs, with each other and with the page about them.

What happens when it runs is seen by `tests/compose/run`.
"""

import re

import pytest
import yaml

from service.commands.serve import AFTER_DRAIN_S
from service.settings import Settings
from tests.manifests import ROOT, arguments, main_container, overlay

TEXT = (ROOT / "docker-compose.yml").read_text()
PAGE = (ROOT / "docs/deployment.md").read_text()


@pytest.fixture(scope="module")
def compose():
    """The file as it stands, with its variables."""
    return yaml.safe_load(TEXT)


def flags(service):
    """Return the model server's flags."""
    return arguments({"args": service["command"]})


def test_the_model_server_has_the_version_of_the_tensorflow_that_exports(compose):
    """An older server may not know what a newer TensorFlow writes."""
    (pinned,) = re.findall(r"^tensorflow==(\S+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    images = [compose["services"][name]["image"] for name in ("tensorflow-serving", "tensorflow-serving-gpu")]
    assert [image.replace("${SERVING_IMAGE:-", "").replace("}", "") for image in images] == [
        f"tensorflow/serving:{pinned}",
        f"tensorflow/serving:{pinned}-gpu",
    ]


def test_processor_and_gpu_differ_in_what_they_must(compose):
    """The same flags and bounds; the gateway finds either by one name."""
    cpu, gpu = (dict(compose["services"][f"tensorflow-serving{which}"]) for which in ("", "-gpu"))
    aliases = gpu["networks"]["backend"]["aliases"]
    assert f"{aliases[0]}:8500" in compose["services"]["gateway"]["environment"]["OSTINATO_BACKENDS"]
    for own in ("image", "profiles", "networks", "environment", "deploy"):
        cpu.pop(own, None)
        gpu.pop(own)
    assert cpu == gpu


def test_the_model_server_starts_as_in_the_cluster(compose):
    """But for what is another number there: how often a shared file system is looked at, cores, a probe of its own."""
    here = flags(compose["services"]["tensorflow-serving"])
    there = arguments(main_container(overlay("cpu"), "tensorflow-serving"))
    differing = {name for name in here.keys() | there.keys() if here.get(name) != there.get(name)}
    assert differing == {
        "model_config_file_poll_wait_seconds",
        "file_system_poll_wait_seconds",
        "tensorflow_inter_op_parallelism",
        "enable_grpc_healthcheck_service",
    }


def test_a_server_has_a_thread_for_each_call(compose):
    """The gateway's calls and the server's threads for them are one number, so that each core has its call."""
    threads = flags(compose["services"]["tensorflow-serving"])["tensorflow_inter_op_parallelism"]
    assert threads == compose["services"]["gateway"]["environment"]["OSTINATO_MAX_CALLS"]
    assert threads == f"${{OSTINATO_MAX_CALLS:-{Settings().max_calls}}}"


@pytest.mark.parametrize("name", yaml.safe_load(TEXT)["services"])
def test_no_service_may_do_more_than_it_needs(compose, name):
    """No root, no rights, no file to write, a bound on memory and on logs; and only people's pages are reached."""
    service = compose["services"][name]
    # The two without a user have one in their images.
    assert ("user" in service) == (name not in {"gateway", "keys", "grafana"})
    assert not str(service.get("user", "1")).startswith("0")
    assert (service["read_only"], service["init"], service["cap_drop"]) == (True, True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"\d+m|\$\{\w+:-\d+[mg]\}", service["mem_limit"])
    assert service["logging"]["options"]["max-size"]
    assert ("ports" in service) == (name in {"gateway", "grafana"})
    assert all("127.0.0.1" in port for port in service.get("ports", []))


def test_docker_waits_until_the_gateway_has_ended(compose):
    """Its drain and its last words fit into the time before it is killed."""
    grace_s = int(compose["services"]["gateway"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > Settings().drain_s + AFTER_DRAIN_S


def test_every_setting_exists(compose):
    """What the file sets for the gateway is read by it."""
    names = {name.removeprefix("OSTINATO_").lower() for name in compose["services"]["gateway"]["environment"]}
    names |= {name.removeprefix("OSTINATO_").lower() for name in compose["services"]["keys"]["environment"]}
    assert names <= set(Settings.model_fields)


def test_what_the_page_puts_into_gateway_env_is_heeded(compose):
    """What the compose file sets itself goes before that file."""
    told = set(re.findall(r"(OSTINATO_\w+)=\S+ >> gateway\.env", PAGE))
    told |= set(
        re.findall(r"^(OSTINATO_\w+)=\S+$", PAGE.partition("by `gateway.env`:")[2].split("```")[1], re.MULTILINE)
    )
    assert told
    assert told.isdisjoint(compose["services"]["gateway"]["environment"])


def test_every_variable_is_in_the_page_with_its_default():
    """Whoever reads docs/deployment.md knows what can be set, and nothing in it is made up."""
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", TEXT))
    table = re.findall(r"^\| (`[A-Z_`, ]+`) \| (.*?) \|", PAGE, re.MULTILINE)
    told = {name: defaults for names, defaults in table for name in re.findall(r"`(\w+)`", names)}
    assert used.keys() == told.keys() - {"COMPOSE_PROFILES"}
    for name, defaults in told.items():
        if used.get(name):
            assert f"`{used[name]}`" in defaults, name
    assert "COMPOSE_PROFILES=cpu" in (ROOT / ".env").read_text()
