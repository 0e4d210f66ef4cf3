"""Batch files on the real gateway: killed, resumed, on one machine and on Ray workers."""

import contextlib
import csv
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.ports import free_port
from tests.servers import Process

NUM_LINES = 100
PYTHONPATH = f"{ROOT}:{ROOT / 'client/src'}"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """An input file: completions with seeds by two models, some of two choices, embeddings, and one invalid line."""
    lines = []
    for number in range(NUM_LINES):
        body = {"model": ("lstm", "words")[number % 2], "prompt": "It was"[: 1 + number % 6]}
        # The last completion takes long, so that a run that is nearly done can still be interrupted.
        max_tokens = 8_000 if number == NUM_LINES - 2 else 10 + number % 50
        body |= {"max_tokens": max_tokens, "seed": number, "temperature": 1.1, "n": 1 + (number % 3 == 1)}
        fields = {"custom_id": f"text {number}", "method": "POST", "url": "/v1/completions", "body": body}
        if number % 10 == 9:
            fields |= {"url": "/v1/embeddings", "body": {"model": "lstm", "input": f"It was {number}"}}
        lines.append(json.dumps(fields))
    lines.insert(7, "no request")
    path = tmp_path_factory.mktemp("batch") / "in.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


class Batch(Process):
    """`sostenuto batch` on a gateway; killed at the end of the `with` block."""

    def __init__(self, source, out, gateway, *options, **variables):
        self.out = Path(out)
        command = [sys.executable, "-m", "sostenuto", "batch", str(source), str(out), *options]
        variables = {"SOSTENUTO_BASE_URL": f"http://127.0.0.1:{gateway.port}", "PYTHONPATH": PYTHONPATH, **variables}
        super().__init__(command, self.out.with_suffix(".log"), **variables)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)

    @property
    def num_lines(self):
        return self.out.read_bytes().count(b"\n") if self.out.exists() else 0

    def wait_for_lines(self, count):
        self.wait_until(lambda: self.num_lines >= count)


def contents(path):
    """Return the reproducible part of each output record by its id; fail if one is missing or duplicated."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        key = fields["custom_id"] or fields["error"]["line"]
        assert key not in found, f"{key} has two lines"
        body = fields["response"] and fields["response"]["body"]
        found[key] = [fields["error"]] if fields["error"] else body.get("choices") or body["data"]
    assert len(found) == NUM_LINES + 1
    return found


@pytest.fixture(scope="module")
def unbroken(source, gateway, tmp_path_factory):
    """The contents of an uninterrupted run."""
    out = tmp_path_factory.mktemp("unbroken") / "out.jsonl"
    with Batch(source, out, gateway) as batch:
        assert batch.process.wait(240) == 1, batch.output
    return contents(out)


def test_a_batch_has_the_choices_that_single_requests_get(gateway, source, unbroken):
    for line in source.read_text().splitlines()[:6]:
        fields = json.loads(line)
        status, answer = gateway.post(fields["body"])
        assert status == 200
        assert unbroken[fields["custom_id"]] == answer["choices"]


def test_a_batch_that_is_killed_repeatedly_has_each_line_exactly_once(gateway, source, unbroken, tmp_path):
    """Four times SIGKILL, once leaving a torn line, then Ctrl-C: the output equals that of an uninterrupted run."""
    out = tmp_path / "out.jsonl"
    for count in (1, 20, 35, 50):
        with Batch(source, out, gateway, "--concurrency", "4") as batch:
            batch.wait_for_lines(count)
            batch.send(signal.SIGKILL)
            assert batch.process.wait(30) == -signal.SIGKILL
            assert batch.num_lines < NUM_LINES
        if count == 20:
            whole = out.read_bytes()
            out.write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 20])
    with Batch(source, out, gateway, "--concurrency", "1") as batch:
        # One more than the last run has left, so that this one has started.
        batch.wait_for_lines(max(55, batch.num_lines + 1))
        assert batch.end(signal.SIGINT) == 130
        assert "the same command resumes" in batch.output
    with Batch(source, out, gateway) as batch:
        assert batch.process.wait(240) == 1, batch.output
    assert contents(out) == unbroken


def texts(path):
    with path.open(encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file, strict=True) if path.suffix == ".csv" else map(json.loads, file))
    return sorted((record["custom_id"], int(record["index"]), record["text"]) for record in records)


def texts_of(whole):
    """Return the same of the contents of whole responses."""
    choices = [(key, each) for key, found in whole.items() for each in found if "text" in each]
    return sorted((key, each["index"], each["text"]) for key, each in choices)


class RayCluster:
    """Two Ray nodes on loopback, each with processes of its own, which are ended by their ids."""

    def __init__(self, folder):
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        # Without a token of its own the cluster would use the user's.
        self.variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._nodes = []

    def start(self):
        port = self.address.rpartition(":")[2]
        self._start("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self.folder}")
        self._start(f"--address={self.address}")

    def _start(self, *options):
        usual = ["--block", "--disable-usage-stats", "--num-cpus=1", "--object-store-memory=100000000"]
        command = [str(Path(sys.executable).with_name("ray")), "start", "--node-ip-address=127.0.0.1", *usual, *options]
        node = Process(command, Path(self.folder) / f"node{len(self._nodes)}.log", **self.variables)
        self._nodes.append(node)
        node.wait_until(lambda: "Ray runtime started" in node.output)

    def end(self):
        """Send SIGTERM to both nodes; kill the processes that remain, by the directory in their command line."""
        for node in self._nodes:
            node.send(signal.SIGTERM)
        for node in self._nodes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.process.wait(5)
        for process in users(self.folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        for node in self._nodes:
            node.process.kill()
            node.process.wait(10)

    @property
    def busy_nodes(self):
        workers = [process for process in users("MapWorker") if str(parent(process)) in users(self.folder)]
        return {parent(process) for process in workers}


@pytest.fixture
def short_folder():
    """A directory with a short path: Ray's socket paths have at most 107 bytes, too few for those below tmp_path."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


@pytest.fixture
def ray_cluster(short_folder):
    """A running Ray cluster for one test."""
    cluster = RayCluster(short_folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()


@pytest.mark.slow
def test_a_batch_on_two_ray_workers_equals_a_local_one(gateway, source, unbroken, tmp_path, ray_cluster):
    out = tmp_path / "out.jsonl"
    options = ("--ray", ray_cluster.address, "--concurrency", "4")
    with Batch(source, out, gateway, *options, **ray_cluster.variables) as batch:
        batch.wait_for_lines(20)
        assert len(ray_cluster.busy_nodes) == 2
        batch.send(signal.SIGKILL)
        batch.process.wait(30)
        assert batch.num_lines < NUM_LINES
    with Batch(source, out, gateway, *options, **ray_cluster.variables) as batch:
        assert batch.process.wait(120) == 1, batch.output
    assert contents(out) == unbroken
    with Batch(source, tmp_path / "out.csv", gateway, "--format", "csv", *options, **ray_cluster.variables) as batch:
        assert batch.process.wait(120) == 1, batch.output
    assert texts(tmp_path / "out.csv") == texts_of(unbroken)


@pytest.mark.slow
def test_a_ray_cluster_started_for_a_batch_ends_with_it(gateway, source, tmp_path, short_folder):
    options = ("--concurrency", "4", "--ray-workers", "2", "--ray")
    with Batch(source, tmp_path / "out.jsonl", gateway, *options, RAY_TMPDIR=short_folder) as batch:
        batch.wait_for_lines(1)
        assert users(short_folder)
        batch.send(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while users(short_folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not users(short_folder)


def users(word):
    """Return the ids of the processes that have a word in their command line."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and word.encode() in (process / "cmdline").read_bytes():
                found.append(process.name)
    return found


def parent(process):
    """Return the id of a process's parent; 0 if the process has ended."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return 0
