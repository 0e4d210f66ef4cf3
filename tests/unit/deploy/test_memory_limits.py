"""The gateway's memory with default settings stays within the limits of both deployments."""

import math
import re

import pytest
import yaml

from service import reports
from service.commands.gateway import SPARE_THREADS
from service.http_server.worker import RECEIVED_BYTES
from service.memory import FREE_BYTES
from service.models import embedding_vectors, training_filters
from service.scheduling.queues import MAX_ACTIVATIONS_PER_CALL
from service.settings import Settings
from service.structured_outputs.compiler_pool import FAST_MEMORY_BYTES, MAX_MEMORY_BYTES
from tests.documents import rows
from tests.manifests import main_container, of_kind, overlay, quantity
from tests.manifests import settings as environment
from tests.paths import ROOT

MIB = 2**20
# Measured: after startup with small models (74 to 110), and per thread that has served a request.
PROCESS_BYTES, THREAD_BYTES = 100 * MIB, 0.1 * MIB
# A process that compiles patterns, without a pattern.
COMPILER_BYTES = 60 * MIB
# A process that computes reports, after its imports.
REPORT_BYTES = 70 * MIB
# A response as received, as parsed, and as arrays.
REPLY_COPIES = 3


def parts(settings):
    """Return the MiB of each part of the documented table, in its order."""
    threads = settings.max_running + settings.max_queued + SPARE_THREADS
    sizes = (
        PROCESS_BYTES,
        settings.prefix_cache_bytes,
        settings.request_memory_bytes,
        threads * FREE_BYTES,
        max(RECEIVED_BYTES, 4 * settings.max_body_bytes, 2 * settings.max_upload_bytes) + 2 * threads * FREE_BYTES,
        threads * THREAD_BYTES,
        settings.max_calls * REPLY_COPIES * 4 * MAX_ACTIVATIONS_PER_CALL,
        embedding_vectors.MAX_CACHE_BYTES,
        training_filters.MAX_CACHE_BYTES,
        settings.pattern_cache_bytes,
        2 * COMPILER_BYTES + MAX_MEMORY_BYTES + FAST_MEMORY_BYTES,
        settings.max_reports * (REPORT_BYTES + reports.MAX_MEMORY_BYTES),
        settings.request_memory_bytes / 2,
    )
    return [math.ceil(size / MIB) for size in sizes]


def compose_limit():
    limit = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["gateway"]["mem_limit"]
    number, unit = re.fullmatch(r"\$\{GATEWAY_MEMORY:-(\d+)([mg])\}", limit).groups()
    return int(number) * {"m": 2**20, "g": 2**30}[unit]


def test_the_default_settings_fit_into_docker_composes_limit():
    assert sum(parts(Settings())) * MIB <= compose_limit()


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_the_settings_of_each_overlay_fit_into_its_limit(name):
    """With as many model servers as there are while the largest number is replaced."""
    objects = overlay(name)
    servers = of_kind(objects, "Deployment")["tensorflow-serving"]["spec"]
    scaler = of_kind(objects, "HorizontalPodAutoscaler")["tensorflow-serving"]["spec"]
    num_servers = scaler["maxReplicas"] + servers["strategy"]["rollingUpdate"]["maxSurge"]
    # Each call takes the same memory, to whichever server.
    num_calls = int(environment(objects, "gateway")["SOSTENUTO_MAX_CALLS"]) * num_servers
    limit = quantity(main_container(objects, "gateway")["resources"]["limits"]["memory"])
    assert sum(parts(Settings(max_calls=num_calls))) * MIB <= limit


def test_the_documented_memory_table_has_the_tested_numbers():
    assert [int(mebibytes) for _, mebibytes, *_ in rows("part", "MiB")] == parts(Settings())


def test_a_body_of_the_maximum_size_fits_into_the_memory_budget():
    from service.web.endpoint import parsing_bytes

    settings = Settings()
    size = settings.max_body_bytes
    for item in (b"[1],", b"1,", b"[],", b'{"a":1},', b'"",', b"\\u4e2d", "中".encode()):
        assert parsing_bytes(item * (size // len(item))) <= settings.request_memory_bytes
