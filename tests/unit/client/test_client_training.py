"""Training by the SDK: uploads, jobs, their events, and requests that must not be repeated."""

import io
import os
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

import sostenuto
from sostenuto import Client
from sostenuto._retries import PATIENCE_S
from tests.unit.client.scripted_jobs import EVENTS, JOB, SUCCEEDED, TEXT, job_event, uploaded
from tests.unit.client.scripted_responses import DONE, answer_json, hang_up, linger, refusal, stream
from tests.waiting import until

DELETED = answer_json({"id": "file-1", "object": "file", "deleted": True})


@pytest.fixture
def job(client, server):
    server.script = [answer_json(JOB)]
    return client.job("ftjob-1")


def sent(server, index=0):
    """Return the purpose, the name of the file and its content that a request uploads."""
    request = server.requests[index]
    boundary = request.headers["Content-Type"].partition("boundary=")[2].encode()
    head, purpose, file, _ = request.body.split(b"--" + boundary)
    assert head == b""
    description, _, content = file.partition(b"\r\n\r\n")
    name = description.partition(b'filename="')[2].partition(b'"')[0].decode()
    return purpose.split(b"\r\n\r\n")[1].strip().decode(), name, content.removesuffix(b"\r\n")


def test_train_uploads_the_text_and_creates_a_job(client, server, book):
    server.script = [uploaded(), answer_json(JOB)]
    job = client.train(book, minutes=3, name="dickens", seed=7, units=16)
    assert (job.id, job.status, job.has_ended) == ("ftjob-1", "queued", False)
    assert sent(server) == ("fine-tune", "book.txt", TEXT.encode())
    assert [request.path for request in server.requests] == ["/v1/files", "/v1/fine_tuning/jobs"]
    fields = {"model": "characters-3-minutes", "training_file": "file-1", "suffix": "dickens", "seed": 7}
    assert server.bodies[1] == {**fields, "settings": {"units": 16, "max_minutes": 3}}


def test_train_continues_from_a_model_and_validates_with_a_text(client, server, book):
    server.script = [uploaded(1), uploaded(2), answer_json(JOB)]
    client.train(book, model="demo:1", validation=TEXT)
    assert (sent(server, 1)[1:], server.bodies[2]["model"]) == (("text.txt", TEXT.encode()), "demo:1")
    assert (server.bodies[2]["training_file"], server.bodies[2]["validation_file"]) == ("file-1", "file-2")


def test_an_uploaded_file_serves_several_jobs(client, server, book):
    server.script = [uploaded(), answer_json(JOB), answer_json(JOB)]
    file = client.upload(book)
    assert [client.train(file, units=units).id for units in (16, 32)] == ["ftjob-1"] * 2
    assert len(server.requests) == 3


@pytest.mark.parametrize("kind", ["path", "bytes", "open", "open as text"])
def test_a_text_may_be_a_path_bytes_or_an_open_file(client, server, book, kind):
    server.script = [uploaded()]
    if kind.startswith("open"):
        with open(book, "r" if "text" in kind else "rb") as file:
            client.upload(file)
    else:
        client.upload(Path(book) if kind == "path" else TEXT.encode())
    assert sent(server)[1:] == ("text.txt" if kind == "bytes" else "book.txt", TEXT.encode())


def test_a_directory_is_sent_as_an_archive_without_hidden_files(client, server, tmp_path):
    folder = tmp_path / "plays"
    (folder / "acts").mkdir(parents=True)
    (folder / ".git").mkdir()
    for name in ("one.txt", "acts/two.txt", ".hidden", ".git/config"):
        (folder / name).write_text(name)
    server.script = [uploaded()]
    client.upload(folder)
    _, name, content = sent(server)
    archive = zipfile.ZipFile(io.BytesIO(content))
    assert (name, archive.read("acts/two.txt")) == ("plays.zip", b"acts/two.txt")
    assert sorted(archive.namelist()) == ["acts/two.txt", "one.txt"]


def test_a_file_name_may_have_another_encoding(client, server, tmp_path):
    """As those of archives from older systems."""
    folder = tmp_path / "plays"
    folder.mkdir()
    file = folder / os.fsdecode(b"caf\xe9.txt")
    file.write_text(TEXT)
    server.script = [uploaded(), uploaded()]
    client.upload(folder)
    assert zipfile.ZipFile(io.BytesIO(sent(server)[2])).namelist() == ["café.txt"]
    client.upload(file)
    assert sent(server, 1)[1] == "café.txt"
    with pytest.raises(sostenuto.InvalidArgument, match=r"filename has a lone surrogate, '\\ud800'"):
        client.upload(b"", filename="\ud800.txt")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("no.txt", "there is no file 'no.txt'"),
        ("", "there is no file ''"),
        ("one line " * 1000, "pass a path, or a text with a line break"),
        (".", "has no files"),
        ("a\ud800\n", r"the text has a lone surrogate, '\\ud800', at character 1"),
    ],
    ids=["missing", "no path", "long", "empty", "surrogate"],
)
def test_a_text_that_cannot_be_read_is_refused_before_anything_is_sent(
    client, server, tmp_path, monkeypatch, source, words
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(sostenuto.InvalidArgument, match=words):
        client.train(source)
    assert server.requests == []


def test_a_validation_text_that_cannot_be_read_leaves_no_upload(client, server, book):
    with pytest.raises(sostenuto.InvalidArgument, match="there is no file"):
        client.train(book, validation="no.txt")
    assert server.requests == []


def test_a_refused_job_leaves_no_file(client, server, book):
    server.script = [uploaded(), refusal(400, "units must be at most 1024", param="settings"), DELETED]
    with pytest.raises(sostenuto.BadRequest, match="units"):
        client.train(book, units=9999)
    assert (server.requests[-1].method, server.requests[-1].path) == ("DELETE", "/v1/files/file-1")


def test_a_lost_upload_is_sent_again(client, server, book, waits):
    server.script = [hang_up, uploaded(), answer_json(JOB)]
    client.train(book)
    assert (sent(server, 0), waits) == (sent(server, 1), [0.5])


@pytest.mark.parametrize(
    "lost", [hang_up, refusal(502, "bad gateway"), refusal(503, "no healthy upstream")], ids=["cut", "502", "503"]
)
def test_a_job_whose_response_is_lost_is_found_and_not_created_again(client, server, book, lost):
    other = {**JOB, "id": "ftjob-0", "training_file": "file-0"}
    server.script = [uploaded(), lost, answer_json({"data": [other, JOB], "has_more": False})]
    assert client.train(book).id == "ftjob-1"
    assert [request.method for request in server.requests] == ["POST", "POST", "GET"]


def test_a_job_that_may_exist_is_not_created_again(client, server, book):
    """If there is none yet, the error is raised: the server may still be at it."""
    server.script = [uploaded(), hang_up, answer_json({"data": [], "has_more": False})]
    with pytest.raises(sostenuto.ConnectionFailed):
        client.train(book)
    assert [request.method for request in server.requests] == ["POST", "POST", "GET"]


@pytest.mark.parametrize(
    "refused",
    [refusal(503, "draining", code="shutting_down"), refusal(429, "queue", code="memory_full"), refusal(408, "slow")],
    ids=["draining", "memory", "body"],
)
def test_a_job_that_the_gateway_refused_is_sent_again(client, server, book, refused):
    server.script = [uploaded(), refused, answer_json(JOB)]
    assert client.train(book).id == "ftjob-1"
    assert server.bodies[1] == server.bodies[2]


def test_a_job_is_sent_again_if_there_was_no_connection(waits):
    file = sostenuto.UploadedFile("file-1", "book.txt", 3, 4)
    with Client("http://127.0.0.1:1") as client, pytest.raises(sostenuto.ConnectionFailed) as failed:
        client.train(file)
    assert (failed.value.was_connected, waits) == (False, [0.5, 1.0])


@pytest.mark.parametrize("end", [None, hang_up], ids=["drained", "cut"])
def test_events_continue_after_the_last_one_on_a_new_connection(server, job, end):
    """A draining server ends the response without [DONE]."""
    server.script = [stream(EVENTS[:2], then=end), refusal(503, "draining"), stream([*EVENTS[2:], DONE])]
    assert [event.id for event in job.events()] == [event["id"] for event in EVENTS]
    assert server.requests[-1].path.endswith("/events?stream=true&after=ftevent-1-2")


def test_events_are_given_up_after_two_minutes_without_a_server(server, job, waits):
    """A response shows that it is there, also one without a byte within the read timeout."""
    server.script = [stream([])] * 400 + [hang_up] * 400
    with pytest.raises(sostenuto.ConnectionFailed):
        list(job.events())
    assert len([wait for wait in waits if wait == 0.5]) >= 400
    assert sum(waits) - 0.5 * 400 > PATIENCE_S / 2


def test_a_short_timeout_does_not_cut_the_events_of_an_idle_job(server, waits):
    """Between events a server sends a comment every 15 seconds."""
    server.script = [answer_json(JOB), lambda handler: (time.sleep(1), stream([*EVENTS, DONE])(handler))]
    with Client(server.url, timeout=0.5) as hasty:
        assert len(list(hasty.job("ftjob-1").events())) == len(EVENTS)
    assert waits == []


def test_events_continue_after_a_server_that_did_not_respond_in_time(server, waits, monkeypatch):
    monkeypatch.setattr("sostenuto._job_events.MIN_READ_S", 0.5)
    server.script = [answer_json(JOB), linger, stream([*EVENTS, DONE])]
    with Client(server.url, timeout=0.5) as hasty:
        assert len(list(hasty.job("ftjob-1").events())) == len(EVENTS)
    assert waits


def test_an_error_that_is_final_ends_the_events(server, job, waits):
    server.script = [refusal(404, "there is no job ftjob-1")]
    with pytest.raises(sostenuto.NotFound):
        list(job.events())
    assert waits == []


def test_close_ends_the_wait_for_an_event(server, job):
    server.script = [stream(EVENTS[:1], then=linger)]
    with job.events() as events:
        assert next(events).message == "the job is queued"
    assert server.left.wait(20)
    assert list(events) == []


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [("failed", sostenuto.JobFailed, "failed: no text"), ("cancelled", sostenuto.JobCancelled, "was cancelled")],
)
def test_wait_raises_the_error_of_the_job(server, job, status, kind, words):
    ended = {**JOB, "status": status, "error": {"code": "x", "message": "no text"} if status == "failed" else None}
    server.script = [stream([DONE]), answer_json(ended)]
    with pytest.raises(kind, match=words):
        job.wait()
    assert job.status == status


def test_wait_ends_at_its_timeout(server, job):
    server.script = [stream(EVENTS[:2], then=linger), answer_json({**JOB, "status": "running"})]
    with pytest.raises(sostenuto.JobUnfinished, match=r"ftjob-1 is running after 0\.1 s") as late:
        job.wait(0.1)
    assert isinstance(late.value, TimeoutError)


def test_wait_ends_at_its_timeout_before_a_stream_begins(server, job):
    has_ended, were_late = threading.Event(), []

    def late(handler):
        were_late.append(not has_ended.wait(20))
        stream([DONE])(handler)

    server.script = [late, answer_json({**JOB, "status": "running"})]
    with pytest.raises(sostenuto.JobUnfinished, match=r"ftjob-1 is running after 0\.1 s"):
        job.wait(0.1)
    has_ended.set()
    until(lambda: were_late)
    assert were_late == [False]


def test_an_action_whose_response_was_lost_succeeds_at_the_retry(server, job):
    """The server refuses to cancel a second time."""
    conflict = refusal(409, "cannot cancel", code="conflict", headers={"x-should-retry": "false"})
    server.script = [hang_up, conflict, answer_json({**JOB, "status": "cancelled"})]
    assert job.cancel().status == "cancelled"
    server.script = [conflict, answer_json(SUCCEEDED)]
    with pytest.raises(sostenuto.Conflict):
        job.cancel()


def test_a_resumed_job_may_run_before_the_retry(server, job):
    conflict = refusal(409, "cannot resume", code="conflict", headers={"x-should-retry": "false"})
    running = answer_json({**JOB, "status": "running"})
    server.script = [hang_up, conflict, running]
    assert job.resume().status == "running"
    for unchanged in ([hang_up, conflict, answer_json({**JOB, "status": "paused"})], [conflict, running]):
        server.script = unchanged
        with pytest.raises(sostenuto.Conflict):
            job.resume()


def test_lists_are_read_page_after_page(client, server):
    pages = [[{**JOB, "id": f"ftjob-{number}"} for number in numbers] for numbers in ((3, 2), (1,))]
    server.script = [answer_json({"data": pages[0], "has_more": True}), answer_json({"data": pages[1]})]
    assert [job.id for job in client.jobs()] == ["ftjob-3", "ftjob-2", "ftjob-1"]
    assert "after=ftjob-2" in server.requests[1].path
    server.script = [answer_json({"data": pages[0], "has_more": True})]
    assert len(client.jobs(limit=2)) == 2
    assert server.requests[2].path.endswith("?limit=2")


def test_files_are_listed_and_deleted(client, server):
    file = {"id": "file-1", "bytes": 3, "created_at": 4, "filename": "book.txt", "expires_at": 9}
    server.script = [answer_json({"data": [file], "has_more": False}), DELETED]
    (listed,) = client.files()
    assert (listed.filename, listed.bytes, listed.expires_at) == ("book.txt", 3, 9)
    client.delete_file(listed.id)
    assert server.requests[-1].method == "DELETE"


def test_the_plot_has_a_curve_for_each_loss_and_the_best_epoch(server, job):
    second = {**EVENTS[3]["data"], "epoch": 2, "tokens": 400, "validation_loss": 1.5, "train_loss": 1.6}
    events = [*EVENTS, job_event(6, "epoch 2", **second)]
    server.script = [answer_json({"data": events[::-1], "has_more": False})]
    picture = job.plot()._repr_html_()
    assert picture.startswith("<svg")
    assert [part.partition('"')[0].count(",") for part in picture.split('points="')[1:]] == [3, 2]
    assert "best: epoch 2, 1.500" in picture
    assert "400 tokens" in picture


def test_the_plot_of_a_job_that_has_just_begun_says_so(server, job):
    server.script = [answer_json({"data": EVENTS[:1], "has_more": False})]
    assert "no losses yet" in job.plot().svg


def test_wait_returns_the_job_that_has_succeeded_and_shows_the_curve_in_a_notebook(server, job, monkeypatch):
    shown = []

    class Handle:
        def update(self, curve):
            shown.append(curve)

    class Display:
        @staticmethod
        def display(curve, *, display_id):
            assert display_id
            shown.append(curve)
            return Handle()

    monkeypatch.setitem(sys.modules, "IPython.display", Display)
    server.script = [stream([*EVENTS, DONE]), answer_json(SUCCEEDED)]
    assert job.wait(plot=True) is job
    assert (job.status, job.fine_tuned_model, job.version, job.has_ended) == ("succeeded", "book", 2, True)
    assert [len(curve.events) for curve in shown] == [3, 4]
