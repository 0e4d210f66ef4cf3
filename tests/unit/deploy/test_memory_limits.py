"""The gateway's default settings come to less memory than the limits that are shipped."""

import math
import re

import pytest
import yaml

from service.commands.serve import SPARE_THREADS
from service.memory import FREE_BYTES
from service.scheduling.policy import MAX_TRACE_VALUES_PER_CALL
from service.settings import Settings
from tests.manifests import ROOT, main_container, overlay, quantity

MIB = 2**20
# Measured: after the start with small models (74 to 110), and for each thread that has served a request.
PROCESS_BYTES, THREAD_BYTES = 100 * MIB, 0.1 * MIB
# A reply as it is received, parsed, and as arrays.
REPLY_COPIES = 3


def parts(settings):
    """Return the MiB of each part of docs/settings.md's table, in its order."""
    threads = settings.max_running + settings.max_queued + SPARE_THREADS
    sizes = (
        PROCESS_BYTES,
        settings.prefix_cache_bytes,
        settings.request_memory_bytes,
        threads * FREE_BYTES,
        threads * THREAD_BYTES,
        settings.max_calls * REPLY_COPIES * 4 * MAX_TRACE_VALUES_PER_CALL,
        settings.request_memory_bytes / 2,
    )
    return [math.ceil(size / MIB) for size in sizes]


def compose_limit():
    """Return the bytes that docker-compose.yml gives to the gateway."""
    limit = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["gateway"]["mem_limit"]
    number, unit = re.fullmatch(r"\$\{GATEWAY_MEMORY:-(\d+)([mg])\}", limit).groups()
    return int(number) * {"m": 2**20, "g": 2**30}[unit]


def test_the_default_settings_fit_into_docker_composes_limit():
    """Everything at its worst at once."""
    assert sum(parts(Settings())) * MIB <= compose_limit()


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_the_default_settings_fit_into_kubernetes_limit(name):
    """No overlay gives less."""
    limit = quantity(main_container(overlay(name), "gateway")["resources"]["limits"]["memory"])
    assert sum(parts(Settings())) * MIB <= limit


def test_the_page_has_the_same_numbers():
    """What docs/settings.md adds up is what is tested here."""
    page = (ROOT / "docs/settings.md").read_text(encoding="utf-8").partition("## How much memory")[2]
    assert [int(number) for number in re.findall(r"^\| [^|]+ \| (\d+) \|", page, re.MULTILINE)] == parts(Settings())


def test_a_body_of_the_largest_size_fits_into_the_budget():
    """However its JSON is made, it alone is never refused for its memory."""
    from service.web.request_body import parsing_bytes

    settings = Settings()
    size = settings.max_body_bytes
    for item in (b"[1],", b"1,", b"[],", b'{"a":1},', b'"",', b"\\u4e2d", "中".encode()):
        assert parsing_bytes(item * (size // len(item))) <= settings.request_memory_bytes
