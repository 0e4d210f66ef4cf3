"""Whoever may upload and train: other tenants keep what is theirs, and no job ends the trainer or fills the machine."""

import io
import os
import socket
import struct
import sys
import time
import zipfile

import pytest

from tests.access import ask, keys
from tests.processes import status
from tests.servers import Process, children
from tests.uploads import multipart
from tests.waiting import until

SETTINGS = {"units": 8, "embedding": 8, "batch_size": 8, "max_minutes": 0.02, "min_characters": 0}
MAX_TENANT_BYTES = 100 * 2**20
# The trainer itself: SQLAlchemy, and the archive that it unpacks.
MAX_TRAINER_BYTES = 200 * 2**20
TENANTS = ("acme", "other")


class Site:
    """A gateway with keys of two tenants that may train, one that may not, and a trainer."""

    def __init__(self, start_gateway, models_dir, folder):
        path = folder / "keys.json"
        self.keys = {name: keys(path, "add", "--tenant", name, "--role", "train") for name in TENANTS}
        self.keys["reader"] = keys(path, "add", "--tenant", "acme", "--role", "generate", "--role", "read")
        self._models_dir, self._folder = models_dir, folder
        self.gateway = start_gateway(
            keys_file=path,
            training_dir=folder / "training",
            max_tenant_bytes=MAX_TENANT_BYTES,
            max_tenant_jobs=100,
            max_running=32,
            max_queued=32,
        )
        self.trainer = None

    def start_trainer(self, *options):
        directories = ("--training-dir", self._folder / "training", "--models-dir", self._folder / "models")
        command = [sys.executable, "-m", "jobs", *map(str, directories), *options]
        (self._folder / "models").mkdir(exist_ok=True)
        self.trainer = Process(command, self._folder / "trainer.log")

    def upload(self, content, filename="book.txt", tenant="acme"):
        body, headers = multipart(content, filename)
        return self.ask("POST", "/v1/files", body, tenant, **headers)

    def ask(self, method, address, body=None, tenant="acme", **headers):
        code, _, answer = ask(self.gateway, self.keys[tenant], body, address, method, **headers)
        return code, answer

    def submit(self, file_id, tenant="acme", **fields):
        body = {"model": "characters-3-minutes", "training_file": file_id, "settings": SETTINGS}
        return self.ask("POST", "/v1/fine_tuning/jobs", {**body, **fields}, tenant)

    def train(self, content, filename, **settings):
        code, file = self.upload(content, filename)
        assert code == 200, file
        code, job = self.submit(file["id"], settings={**SETTINGS, **settings})
        assert code == 200, job
        return job["id"]

    def ended(self, job_id, timeout=300):
        def job():
            found = self.ask("GET", f"/v1/fine_tuning/jobs/{job_id}")[1]
            # Nothing serves what it publishes.
            return found["version"] is not None or found["status"] in ("failed", "cancelled"), found

        return until(lambda: (answer := job())[0] and answer[1], timeout, interval=0.3)


@pytest.fixture
def site(start_gateway, two_models_dir, tmp_path):
    site = Site(start_gateway, two_models_dir, tmp_path)
    yield site
    if site.trainer is not None:
        assert site.trainer.process.poll() is None, site.trainer.output
        site.trainer.end(timeout=90)


def archive(method=zipfile.ZIP_DEFLATED, **texts):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as packed:
        for name, text in texts.items():
            packed.writestr(name, text)
    return content.getvalue()


def bomb(method):
    """Return an archive of a few kilobytes that unpacks to a gibibyte."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as packed, packed.open("a.txt", "w", force_zip64=True) as file:
        for _ in range(64):
            file.write(bytes(2**24))
    return content.getvalue()


def lying_bomb():
    """Return one whose directory declares a size of ten bytes."""
    content = bytearray(bomb(zipfile.ZIP_DEFLATED))
    entry = content.rindex(b"PK\1\2")
    content[entry + 24 : entry + 28] = struct.pack("<L", 10)
    return bytes(content)


def overlapping():
    """Return an archive of 5,000 entries that are all the same ten megabytes."""
    content = archive(**{"a.txt": bytes(10 * 2**20)})
    start, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    entries = content[start:end] * 5000
    fields = (b"PK\5\6", 0, 0, 5000, 5000, len(entries), start, 0)
    return content[:start] + entries + struct.pack("<4s4H2LH", *fields)


def huge_directory():
    """Return an archive whose directory has 600,000 entries, and declares one."""
    entries = (b"PK\1\2" + bytes(42)) * 600_000
    return entries + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(entries), 0, 0)


def links():
    """Return an archive with a symbolic link, names that leave the directory, and a name of control characters."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as packed:
        link = zipfile.ZipInfo("link.txt")
        link.external_attr = 0o120777 << 16
        packed.writestr(link, "/etc/passwd")
        for name in ("../../../escaped.txt", "/tmp/escaped.txt", "a/../../escaped.txt", "-rf", "\x1b[31m\r.txt"):
            packed.writestr(name, "It was the best of times. " * 50)
    return content.getvalue()


def archives():
    """Return archives that must fail, each with a part of the message. Making them takes half a minute."""
    return {
        "a bomb": (bomb(zipfile.ZIP_DEFLATED), "may unpack to at most 268435456 bytes"),
        "a bomb of bzip2": (bomb(zipfile.ZIP_BZIP2), "must be stored or deflated"),
        "a bomb of LZMA": (bomb(zipfile.ZIP_LZMA), "must be stored or deflated"),
        "a bomb that lies": (lying_bomb(), ""),
        "overlapping entries": (overlapping(), ""),
        "a huge directory": (huge_directory(), "the directory of an archive may have at most"),
        "many files": (archive(**{f"{number}.txt": "" for number in range(10_001)}), "at most 10000 files, got 10001"),
        "an archive in an archive": (archive(**{"a.zip": bomb(zipfile.ZIP_DEFLATED)}), "binary"),
        "no text": (archive(**{"a.txt": os.urandom(10_000)}), ""),
    }


def texts():
    """Return texts that must fail, each with its file's name and a part of the message."""
    return {
        "a huge line of JSON": (b'{"text": "' + b"a" * (20 * 2**20), "a.jsonl", "a line must have at most"),
        "deep JSON": (b"[" * 10**6 + b"]" * 10**6, "a.jsonl", "line 1: not JSON"),
        "a number of a million digits": (b'{"text": ' + b"9" * 10**6 + b"}", "a.jsonl", "line 1"),
        "JSON of half a character": (b'{"text": "' + b"\\ud800 abc" * 1000 + b'"}', "a.jsonl", ""),
        "CSV without an end": (b'text\n"' + b"a\n" * (9 * 2**20), "a.csv", "field larger than field limit"),
        "CSV of a million columns": (b"text" + b",x" * 10**6 + b"\n" + b"," * 10**6, "a.csv", ""),
        "an executable": (b"\x7fELF" + os.urandom(10_000), "a.txt", ""),
        "zeros": (bytes(10**6), "a.txt", "this is binary"),
    }


@pytest.mark.timeout(900)
def test_no_upload_ends_the_trainer_or_fills_it(site):
    made = archives()
    job_ids = {name: site.train(content, "a.zip") for name, (content, _) in made.items()}
    expected = {name: message for name, (_, message) in made.items()}
    site.start_trainer()
    for name, job_id in job_ids.items():
        job = site.ended(job_id)
        assert job["status"] == "failed", name
        assert job["error"]["code"] in ("invalid_training_file", "training_failed"), (name, job["error"])
        assert expected[name] in job["error"]["message"], (name, job["error"])
        assert "exited with code" not in job["error"]["message"], (name, job["error"])
    assert status(site.trainer.process.pid, "VmHWM") < MAX_TRAINER_BYTES
    job = site.ended(site.train(links(), "a.zip", max_minutes=0.01))
    assert job["error"] is None
    escaped = [path for path in site._folder.rglob("*") if "escaped" in path.name]
    assert escaped == []
    assert not os.path.exists("/tmp/escaped.txt")


@pytest.mark.timeout(900)
def test_no_text_is_more_than_an_error_of_its_own_job(site):
    job_ids, given = {}, texts()
    for name, (content, filename, _) in given.items():
        documents = "records" if filename != "a.txt" else "none"
        job_ids[name] = site.train(content, filename, documents=documents)
    site.start_trainer()
    for name, job_id in job_ids.items():
        job, message = site.ended(job_id), given[name][2]
        assert job["status"] == "failed", name
        assert job["error"]["code"] == "training_failed", (name, job["error"])
        assert message in job["error"]["message"], (name, job["error"])
        assert "exited with code" not in job["error"]["message"], (name, job["error"])


@pytest.mark.timeout(900)
def test_a_million_tiny_documents_are_trained_on(site):
    job_id = site.train(b'{"text":"ab"}\n' * 10**6, "a.jsonl", documents="records", batch_size=64)
    site.start_trainer("--max-memory-bytes", str(2 * 2**30))
    job = site.ended(job_id, timeout=600)
    assert job["error"] is None


@pytest.mark.timeout(600)
def test_a_job_that_takes_too_much_memory_fails_alone(site):
    large = {"units": 1024, "layers": 8, "batch_size": 512, "sequence_length": 1000, "validation": 0.1}
    job_id = site.train(b"It was the best of times, it was the worst. " * 20_000, "a.txt", **large)
    site.start_trainer("--max-memory-bytes", str(2**30))
    error = site.ended(job_id)["error"]
    assert error["code"] == "training_failed"
    assert "memory" in error["message"]
    until(lambda: not children(site.trainer.process.pid))


def test_a_tenant_reaches_nothing_of_another(site):
    code, file = site.upload(b"secret " * 1000)
    assert code == 200
    code, job = site.submit(file["id"])
    assert code == 200
    files, jobs = f"/v1/files/{file['id']}", f"/v1/fine_tuning/jobs/{job['id']}"
    requests = [("GET", files), ("GET", f"{files}/content"), ("DELETE", files), ("GET", jobs)]
    requests += [("POST", f"{jobs}/{action}") for action in ("cancel", "pause", "resume")]
    requests += [("GET", f"{jobs}/{part}") for part in ("events", "events?stream=true", "checkpoints")]
    for method, address in requests:
        assert site.ask(method, address, tenant="other")[0] == 404, address
        assert site.ask(method, address, tenant="reader")[0] == 403, address
        code, _, answer = site.gateway.ask(method, address)
        assert (code, b"secret" in answer) == (401, False)
    assert site.submit(file["id"], "other")[0] == 404
    own = site.upload(b"own " * 1000, tenant="other")[1]["id"]
    assert site.submit(own, "other", validation_file=file["id"])[0] == 404
    assert site.upload(b"text", tenant="reader")[0] == site.submit(own, "reader")[0] == 403
    for kind in ("files", "fine_tuning/jobs"):
        assert {item["id"] for item in site.ask("GET", f"/v1/{kind}", tenant="other")[1]["data"]} <= {own}
    # The place of another tenant's object in time stays unknown, too.
    assert site.ask("GET", f"/v1/files?after={file['id']}&order=asc", tenant="other")[1]["data"] == []
    for guess in ("file-", "..", "%2e%2e%2fjobs.sqlite", "file-%00", "*", "' OR 1=1 --".replace(" ", "%20")):
        assert site.ask("GET", f"/v1/files/{guess}/content")[0] in (404, 308), guess
    assert site.ask("GET", jobs)[1]["status"] == "queued"
    assert site.ask("GET", files)[0] == 200


def test_uploads_that_stall_or_are_cancelled_leave_nothing(site):
    body, headers = multipart(b"x" * 2**20)
    head = "".join(f"{name}: {value}\r\n" for name, value in {**headers, "Content-Length": len(body)}.items())
    head += f"Host: 127.0.0.1\r\nAuthorization: Bearer {site.keys['acme']}\r\n\r\n"
    stalled = []
    for _ in range(100):
        sock = socket.create_connection(("127.0.0.1", site.gateway.port))
        sock.sendall(b"POST /v1/files HTTP/1.1\r\n" + head.encode() + body[: 64 * 2**10 - 1000])
        stalled.append(sock)
    began = time.monotonic()
    assert site.upload(b"text", tenant="other")[0] == 200
    assert time.monotonic() - began < 10
    for sock in stalled:
        sock.close()
    assert site.ask("GET", "/v1/files")[1]["data"] == []
    assert len(list((site._folder / "training/files").iterdir())) == 1
