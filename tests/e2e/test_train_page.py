"""The page Train in a real browser: what it shows of a text and of jobs, and what may go wrong."""

import io
import json
import shlex
import zipfile
from urllib.parse import unquote

import pytest

from tests.access import keys
from tests.conftest import TEXT
from tests.pages import LOOKS, PATIENCE_MS, Models, Train

JOBS = "**/v1/fine_tuning/jobs"
CORPUS = "".join(f"{TEXT.strip()} {number}\n" for number in range(80))
START = "*** START OF THE PROJECT GUTENBERG EBOOK TWO CITIES ***\n"
END = "*** END OF THE PROJECT GUTENBERG EBOOK TWO CITIES ***\nYou may copy it.\n"


@pytest.fixture(scope="module")
def queueing(start_shared_gateway, tmp_path_factory):
    """A gateway that accepts jobs, which no trainer runs."""
    return start_shared_gateway(training_dir=tmp_path_factory.mktemp("training"))


@pytest.fixture
def open_train(open_page):
    return lambda gateway, query="", **how: open_page(Train, gateway, query, **how)


@pytest.fixture
def page(open_train, queueing):
    return open_train(queueing)


DESCRIBED = {
    "running text": (CORPUS, {"Lines": "80", "Script": "Latin", "Documents": "1, a running text"}, []),
    "list": ("".join(f"Name {37 * i % 200:04}\n" for i in range(200)), {"Documents": "200 lines"}, []),
    "list in order": (
        "".join(f"name{i:04}\n" for i in range(200)),
        {"Documents": "200 lines"},
        ["The lines are sorted. The trainer shuffles documents"],
    ),
    "log": (
        "".join(f"2026-11-29 12:{i % 60:02} the worker has started with number {i}\n" for i in range(90, 0, -1)),
        {"Documents": "90 lines"},
        [],
    ),
    "repeated lines": (
        CORPUS + "Go to the beginning of this very page\n" * 9,
        {"Lines": "89"},
        ["8 lines repeat an earlier one; “Go to the beginning of this very page” occurs 9 times"],
    ),
    "one repeated line": (
        "".join(f"Name {37 * i % 200:04}\n" for i in range(200)) + "Name 0000\n",
        {"Documents": "201 lines"},
        ["1 line repeats an earlier one; “Name 0000” occurs 2 times"],
    ),
    "unusual characters": (
        f"{CORPUS}\ufeff\u200b\ufffd☃",
        {},
        [
            "U+200B zero width space (1), U+FEFF byte order mark (1), U+FFFD replacement character",
            "too seldom to be learned: ☃",
        ],
    ),
    "too short": ("Too short.", {"Characters": "10"}, ["10 characters are too few: at least 1,000 are required"]),
    "JSON Lines": (
        "".join(json.dumps({"prompt": "a" * i, "completion": "b\n" * 20}) + "\n" for i in range(40)),
        {"Documents": "40 records"},
        [],
    ),
    "CSV": (
        "id,text\n" + "".join(f'{i},"line, ""{i}"" \n and so on for long enough"\n' for i in range(40)),
        {"Documents": "40 records", "Lines": "80"},
        ["The records are sorted", "Column id is not read."],
    ),
    "CSV that is misquoted": (
        'id,text\n1,"first"\n2,"second"\n3,"third\n4,"fourth"\n',
        {"Documents": "2 records"},
        ["A field in quotation marks must end with one before a comma or the end of a line; that of line 4 does not."],
    ),
    "CSV with an unquoted comma": (
        "id,text\n" + "".join(f"{i},This, and so on for long enough: {i}\n" for i in range(40)),
        {"Documents": "40 records"},
        ["A record must have 2 fields, as the first line; “0,This, and so on for long enough: 0” has 3."],
    ),
    "one record": (json.dumps({"text": CORPUS}), {"Documents": "1 record"}, ["One document is too few"]),
    "broken records": (
        '{"text": "first"}\n' * 2 + '{"txt": "third"}\n',
        {"Documents": "2 records"},
        ["Records need a field text, or prompt and completion; line 3 lacks them."],
    ),
}


def test_the_page_says_what_a_text_is(page):
    page.page.route("**/v1/files", lambda route: pytest.fail("sent"))
    for kind, (text, numbers, notes) in DESCRIBED.items():
        shown, said = page.describe(text)
        assert shown.items() >= numbers.items(), (kind, shown)
        for note in notes:
            assert any(note in each for each in said), (kind, said)
        if not notes:
            assert not any("sorted" in each or "repeat" in each for each in said), (kind, said)
    page.describe(CORPUS + "Go to the beginning of this very page\nHAMLET.\n" * 9)
    page.page.get_by_role("button", name="Remove the repeated lines").click()
    left = page.page.input_value("#text")
    # Short lines, such as the names of speakers, were not counted.
    assert (left.count("Go to"), left.count("HAMLET.")) == (1, 9)


PASTE = """(field, text) => {
    const clipboardData = new DataTransfer();
    clipboardData.setData('text/plain', text);
    field.dispatchEvent(new ClipboardEvent('paste', {clipboardData, bubbles: true, cancelable: true}));
}"""


DROP = """(body, text) => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([text], 'dropped text.txt'));
    return body.dispatchEvent(new DragEvent('drop', {dataTransfer, bubbles: true, cancelable: true}));
}"""


def test_a_file_may_be_dropped_anywhere(page):
    """The browser does not open it; the model is named after it, and the documents can be chosen."""
    assert page.page.locator("body").evaluate(DROP, CORPUS) is False
    page.page.locator("#filename", has_text="dropped text.txt").wait_for()
    assert page.page.get_attribute("#name", "placeholder") == "dropped-text"
    assert page.shown()[0]["Documents"] == "1, a running text"
    page.click("#advanced summary")
    page.page.select_option("#documents", "lines")
    assert page.shown()[0]["Documents"] == "80 lines"
    page.click("#remove")
    assert page.page.is_visible("#text")
    assert page.page.is_hidden("#found")


def test_a_file_that_is_read_late_replaces_no_other_text(page):
    page.page.evaluate("""() => {
        const read = Blob.prototype.arrayBuffer;
        Blob.prototype.arrayBuffer = async function () {
            if (this.name === "slow.txt") await new Promise((resolve) => { window.go = resolve; });
            return read.call(this);
        };
    }""")
    for name, text in (("slow.txt", "slow"), ("quick.txt", CORPUS)):
        page.page.set_input_files("#file", {"name": name, "mimeType": "text/plain", "buffer": text.encode()})
    page.wait_for("quick.txt", "#filename")
    page.page.evaluate("window.go()")
    page.page.wait_for_timeout(300)
    assert page.read("#filename") == "quick.txt"


def test_the_documents_that_were_chosen_stay_chosen_when_the_text_is_changed(page):
    page.describe(CORPUS + "Go to the beginning of this very page\n" * 9)
    page.click("#advanced summary")
    page.page.select_option("#documents", "lines")
    page.page.get_by_role("button", name="Remove the repeated lines").click()
    assert page.page.evaluate("document.activeElement.id") == "text"
    assert page.shown()[0]["Documents"] == "81 lines"
    assert page.page.input_value("#documents") == "lines"
    assert page.describe(CORPUS)[0]["Documents"] == "80 lines"


def test_an_archive_without_its_repeated_lines_is_sent_as_a_text(page, queueing):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("one.txt", CORPUS)
        file.writestr("two.txt", CORPUS)
    page.page.set_input_files("#file", {"name": "scenes.zip", "mimeType": "", "buffer": archive.getvalue()})
    page.page.locator("#numbers dd", has_text="2 files").wait_for()
    page.click("#advanced summary")
    page.page.select_option("#documents", "lines")
    page.page.get_by_role("button", name="Remove the repeated lines").click()
    page.start()
    job = queueing.get(f"/v1/fine_tuning/jobs/{page.page.url.partition('job=')[2]}")[1]
    assert (job["user_provided_suffix"], job["settings"]["documents"]) == ("scenes", "lines")
    assert queueing.get(f"/v1/files/{job['training_file']}")[1]["filename"] == "scenes.txt"
    _, _, content = queueing.ask("GET", f"/v1/files/{job['training_file']}/content")
    assert content.decode().strip() == CORPUS.strip()


def test_excerpts_of_a_text_have_whole_characters(page):
    text = ("x" + "\U0001f3ad" * 400 + "\n") * 9
    page.page.set_input_files("#file", {"name": "masks.txt", "mimeType": "", "buffer": text.encode()})
    page.page.locator("#notes li", has_text="occurs 9 times").wait_for()
    assert page.page.locator("main").evaluate("main => main.textContent.isWellFormed()")


def test_a_record_may_have_millions_of_characters(page):
    """As one with a whole book in each; Chromium's regular expressions have a stack of some millions."""
    length = page.page.evaluate("""async () => {
        const url = document.querySelector('script[src$="train.js"]').src.replace('train.js', 'records.js');
        const { readRecords } = await import(url);
        return readRecords(`text,id\n"${'a'.repeat(1e7)}""b",1\n`, 'csv').texts[0].length;
    }""")
    assert length == 10**7 + 2


def test_a_long_text_that_is_pasted_stays_outside_the_text_field(page, queueing):
    """Chromium would not respond for a minute; the page describes and uploads the text nevertheless."""
    whole = (START + CORPUS * 10 + END).replace("\n", "\r\n")
    page.page.locator("#text").evaluate(PASTE, whole)
    page.page.locator("#filename", has_text="Pasted text").wait_for()
    assert page.page.input_value("#text") == ""
    page.page.get_by_role("button", name="Remove the license").click()
    page.page.fill("#name", "long")
    page.start()
    job = queueing.get(f"/v1/fine_tuning/jobs/{page.page.url.partition('job=')[2]}")[1]
    _, _, content = queueing.ask("GET", f"/v1/files/{job['training_file']}/content")
    assert content.decode() == CORPUS * 10


def test_a_job_has_the_file_and_the_settings_of_the_page(page, queueing):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for number in range(3):
            file.writestr(f"a/{number}.txt", CORPUS[: 2000 + number])
        file.writestr(".hidden", "x")
    page.page.set_input_files("#file", {"name": "scenes.zip", "mimeType": "", "buffer": archive.getvalue()})
    page.page.locator("#numbers dd", has_text="3 files").wait_for()
    page.page.get_by_text("20 minutes").click()
    page.page.route(JOBS, lambda route: route.fulfill(status=400, json={"error": {"message": "units must be fewer"}}))
    page.click("#start")
    page.wait_for_notice("units must be fewer")
    page.excuse_failed_loads()
    page.page.unroute(JOBS)
    page.page.route("**/v1/files", lambda route: pytest.fail("sent again"))
    page.start()
    page.wait_for_status("waiting")
    job = queueing.get(f"/v1/fine_tuning/jobs/{page.page.url.partition('job=')[2]}")[1]
    # A larger model would memorize so short a text.
    assert (job["model"], job["user_provided_suffix"]) == ("characters-3-minutes", "scenes")
    assert job["settings"] == {"max_minutes": 19.8, "documents": "file", "seed": 0}
    _, _, content = queueing.ask("GET", f"/v1/files/{job['training_file']}/content")
    assert content == archive.getvalue()


def test_leaving_the_text_moves_nothing_at_once(page):
    """Start would move between the press that leaves the field and its release, and the click would be lost."""
    is_described = page.page.locator("#text").evaluate(
        """(text, corpus) => {
            text.value = corpus;
            text.dispatchEvent(new Event("change"));
            return !document.querySelector("#found").hidden;
        }""",
        CORPUS,
    )
    assert not is_described
    page.page.locator("#found:not([hidden])").wait_for()
    page.start()


def test_what_a_retry_achieves_is_shown(open_train, queueing):
    """The job that was asked for by the address, and the one that is created."""
    page, is_down = open_train(queueing), []

    def answer(route):
        is_down.append((route.request.method, failing))
        route.fulfill(status=503, json={"error": {"message": "the database does not respond"}})

    def retry():
        page.wait_for_notice("does not respond")
        page.page.unroute(failing)
        page.click("#retry")
        page.page.locator("#job:not([hidden])").wait_for()
        assert page.page.is_hidden("#new")
        page.wait_for_status("waiting")
        page.excuse_failed_loads()

    page.describe(CORPUS)
    page.page.route(failing := JOBS, answer)
    page.click("#start")
    retry()
    for failing in (JOBS + "/*", JOBS + "?limit=50"):
        page.page.route(failing, answer)
        page.page.reload()
        retry()
    # The page may have asked again before a route was removed.
    assert list(dict.fromkeys(is_down)) == [("POST", JOBS), ("GET", JOBS + "/*"), ("GET", JOBS + "?limit=50")]


def test_a_job_whose_response_was_lost_is_not_created_again(page, queueing):
    def lose(route):
        route.fetch()
        route.abort()

    jobs = "/v1/fine_tuning/jobs?limit=1000"
    page.describe(CORPUS)
    num_before = len(queueing.get(jobs)[1]["data"])
    page.page.route(JOBS, lose)
    page.click("#start")
    page.wait_for_notice("The server cannot be reached")
    page.page.unroute(JOBS)
    page.excuse_failed_loads()
    page.click("#retry")
    page.wait_for_status("waiting")
    created = queueing.get(jobs)[1]["data"]
    assert len(created) == num_before + 1
    assert page.page.url.endswith(created[0]["id"])


def test_a_text_that_the_server_has_deleted_is_uploaded_again(page, queueing):
    page.describe(CORPUS)
    for _ in range(2):
        page.start()
        job = queueing.get(f"/v1/fine_tuning/jobs/{page.page.url.partition('job=')[2]}")[1]
        queueing.ask("POST", f"/v1/fine_tuning/jobs/{job['id']}/cancel", {})
        assert queueing.ask("DELETE", f"/v1/files/{job['training_file']}")[0] == 200
        page.click("#another")
    page.excuse_failed_loads()


def test_a_job_can_be_paused_resumed_and_cancelled(page):
    page.describe(CORPUS)
    page.start()
    for button, status in (("#pause", "paused"), ("#resume", "waiting")):
        page.click(button)
        page.wait_for_status(status)
    page.click("#cancel")
    page.click("#confirm button[value='']")
    page.click("#cancel")
    page.click("#confirm button[value=cancel]")
    page.wait_for_status("cancelled")
    assert page.page.is_hidden("#cancel")
    page.click("#another")
    assert page.page.input_value("#text") == CORPUS
    page.page.locator("#jobs-list a").first.click()
    page.wait_for_status("cancelled")


def test_the_focus_stays_where_a_button_disappears(page):
    from playwright.sync_api import expect

    def press(selector, focused, status=None):
        page.page.locator(selector).press("Enter")
        if status:
            page.wait_for_status(status)
        expect(page.page.locator(focused)).to_be_focused()

    page.page.set_input_files("#file", {"name": "a.txt", "mimeType": "", "buffer": CORPUS.encode()})
    page.wait_for("a.txt", "#filename")
    press("#remove", "#text")
    page.describe(CORPUS)
    page.page.route(JOBS, lambda route: route.fulfill(status=400, json={"error": {"message": "units must be fewer"}}))
    press("#start", "#start")
    page.wait_for_notice("units must be fewer")
    expect(page.page.locator("#start")).to_be_focused()
    page.excuse_failed_loads()
    page.page.unroute(JOBS)
    press("#start", "#job-title", "waiting")
    press("#pause", "#resume", "paused")
    press("#resume", "#pause", "waiting")
    press("#cancel", "#confirm button[value='']")
    press("#confirm button[value=cancel]", "#job-title", "cancelled")
    press("#another", "#text")


def test_files_that_are_no_text_are_refused_with_the_remedy(page):
    for content, reason in ((b"gr\xfc\xdfe" * 300, "iconv -f WINDOWS-1252"), (b"a\0b" * 500, "binary, not text")):
        page.page.set_input_files("#file", {"name": "old.txt", "mimeType": "text/plain", "buffer": content})
        page.wait_for_notice(reason)
    page.page.set_input_files("#file", {"name": "bad.zip", "mimeType": "", "buffer": b"PK" * 50})
    page.wait_for_notice("not a ZIP archive")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_LZMA) as file:
        file.writestr("a.txt", CORPUS)
    page.page.set_input_files("#file", {"name": "lzma.zip", "mimeType": "", "buffer": archive.getvalue()})
    page.wait_for_notice("a.txt of lzma.zip is encrypted, or compressed by another method")
    page.click("#start")
    page.page.locator("#status", has_text="Paste a text, or choose a file, first.").wait_for()


EPOCHS = [(2.9, 2.8), (2.1, 2.2), (1.8, 2.0), (1.5, 2.1), (1.2, 2.3)]


class FakeJob:
    """A job as the API describes it, with the events of five epochs of which the third is the best."""

    def __init__(self, status):
        self.status, self.asked = status, []

    def answer(self, route):
        url = route.request.url
        if "/events" in url:
            self.asked.append(url)
            if len(self.asked) == 1:
                # The connection is lost after the first two epochs.
                return route.fulfill(body=self._events(0, 2), content_type="text/event-stream")
            body = self._events(2, len(EPOCHS)) + "data: [DONE]\n\n"
            self.status = "failed"
            return route.fulfill(body=body, content_type="text/event-stream")
        error = {"code": "training_failed", "message": "the disk is full", "param": None}
        return route.fulfill(
            json={
                "id": "ftjob-1",
                "status": self.status,
                "created_at": 0,
                "user_provided_suffix": "cities",
                "fine_tuned_model": None,
                "error": error if self.status == "failed" else None,
                "settings": {},
            }
        )

    def _events(self, start, stop):
        found = []
        for number in range(start, stop):
            train_loss, loss = EPOCHS[number]
            data = {"epoch": number + 1, "train_loss": train_loss, "tokens": 1000 * (number + 1)}
            update = {**data, "tokens": 1000 * number + 500, "fraction": 0.2 * number, "seconds_left": 100}
            epoch = {
                **data,
                "validation_loss": loss,
                "samples": [
                    {"given": "It was", "text": f"<img src=x onerror=window.ran=1>{number}", "labels": {"style": "old"}}
                ],
            }
            for each in (update, epoch):
                event = {"id": f"ftevent-1-{len(found) + 2 * start}", "type": "metrics", "message": "", "data": each}
                found.append(f"data: {json.dumps(event)}\n\n")
        return "".join(found)


def open_fake(open_train, gateway, status="running", **how):
    page, job = open_train(gateway, **how), FakeJob(status)
    page.page.route(JOBS + "/**", job.answer)
    page.page.goto(f"{page.url}train?job=ftjob-1")
    return page, job


def test_a_lost_connection_is_resumed_and_a_stall_is_explained(open_train, queueing):
    page, job = open_fake(open_train, queueing)
    page.page.locator("#message", has_text="The connection to the server was lost").wait_for()
    page.page.locator("#left", has_text="left").wait_for()
    page.wait_for_status("failed")
    assert "after=ftevent-1-3" in job.asked[1]
    assert page.read("#message") == "The disk is full."
    heads = page.page.locator("#samples li .help").all_inner_texts()
    assert heads == [f"Epoch {n} · validation loss {EPOCHS[n - 1][1]:.3f}" for n in (5, 4, 3, 2, 1)]
    sample = page.page.locator("#samples li .sample").first
    assert sample.get_attribute("dir") == "auto"
    assert sample.text_content() == "style: old\nIt was<img src=x onerror=window.ran=1>4"
    assert page.page.evaluate("window.ran") is None
    assert "not improved for 2 epochs" in page.read("#advice")
    # A job that failed has published nothing.
    assert page.read("#advice").endswith("More text would help more than more time.")
    assert page.page.locator("#chart .best title").evaluate("node => node.textContent") == "Epoch 3: 2.000"
    assert "lowest 2.000 after epoch 3" in page.page.get_attribute("#chart svg", "aria-label")


def test_a_malformed_event_is_not_called_a_lost_connection(open_train, queueing):
    page, job = open_train(queueing), FakeJob("running")

    def answer(route):
        if "/events" in route.request.url:
            route.fulfill(body="data: {\n\n", content_type="text/event-stream")
        else:
            job.answer(route)

    page.page.route(JOBS + "/**", answer)
    page.page.goto(f"{page.url}train?job=ftjob-1")
    page.wait_for_notice("An error occurred on this page")
    assert page.read("#message") == ""
    page.complaints.clear()


def test_a_resumed_job_is_not_called_complete(open_train, queueing):
    page, job, held = open_train(queueing), FakeJob("running"), []
    data = {"epoch": 1, "train_loss": 2.0, "tokens": 500, "fraction": 1, "seconds_left": 0}
    event = {"id": "ftevent-1-1", "type": "metrics", "message": "", "data": data}

    def answer(route):
        action = route.request.url.rpartition("/")[2]
        job.status = {"pause": "paused", "resume": "running"}.get(action, job.status)
        if not action.startswith("events"):
            job.answer(route)
        elif held:
            held.append(route)
        else:
            held.append(route)
            route.fulfill(body=f"data: {json.dumps(event)}\n\n", content_type="text/event-stream")

    page.page.route(JOBS + "/**", answer)
    page.page.goto(f"{page.url}train?job=ftjob-1")
    page.wait_for("evaluating and publishing…", "#left")
    page.click("#pause")
    page.wait_for_status("paused")
    page.click("#resume")
    page.wait_for_status("training")
    assert page.read("#left") == ""


def test_a_limit_of_streams_is_not_called_a_lost_connection(open_train, queueing):
    page, job, refused = open_train(queueing), FakeJob("running"), []
    job.asked.append("the events are complete")

    def answer(route):
        if "/events" in route.request.url and not refused:
            refused.append(route.request.url)
            route.fulfill(status=429, json={"error": {"message": "at most 8 streams of a tenant may be open"}})
        else:
            job.answer(route)

    page.page.route(JOBS + "/**", answer)
    page.page.goto(f"{page.url}train?job=ftjob-1")
    page.page.locator("#message", has_text="At most 8 streams of a tenant may be open.").wait_for()
    page.wait_for_status("failed")
    assert page.read("#message") == "The disk is full."
    page.excuse_failed_loads()


def test_a_connection_that_is_there_again_is_not_called_lost(open_train, queueing):
    page, job, held = open_train(queueing), FakeJob("running"), []

    def answer(route):
        if "/events" in route.request.url and job.asked:
            held.append(route)
        else:
            job.answer(route)

    page.page.route(JOBS + "/**", answer)
    page.page.goto(f"{page.url}train?job=ftjob-1")
    page.page.locator("#message", has_text="The connection to the server was lost").wait_for()
    page.page.wait_for_function("() => document.getElementById('message').textContent === ''")
    while not held:
        page.page.wait_for_timeout(50)
    job.answer(held[0])
    page.wait_for_status("failed")


def test_a_job_that_arrives_after_another_was_opened_is_not_shown(open_train, queueing):
    page, job, held = open_train(queueing), FakeJob("failed"), []
    job.asked.append("the events are complete")
    page.page.route(JOBS + "/ftjob-1", lambda route: held.append(route))  # noqa: PLW0108 - Playwright marks it
    page.page.goto(f"{page.url}train?job=ftjob-1")
    while not held:
        page.page.wait_for_timeout(50)
    page.click("#another")
    with page.page.expect_response(JOBS + "/ftjob-1"):
        job.answer(held[0])
    page.page.wait_for_timeout(300)
    assert page.page.is_visible("#new")
    assert page.page.text_content("#job-title") == ""


def test_the_failure_of_a_job_that_was_left_is_not_shown(open_train, queueing):
    page, job, held = open_train(queueing), FakeJob("failed"), []
    job.asked.append("the events are complete")
    page.page.route(JOBS + "/**", job.answer)
    page.page.route(JOBS + "/ftjob-1", lambda route: held.append(route))  # noqa: PLW0108 - Playwright marks it
    page.page.goto(f"{page.url}train?job=ftjob-1")
    while not held:
        page.page.wait_for_timeout(50)
    page.page.evaluate("history.replaceState(null, '', 'train?job=ftjob-2'); dispatchEvent(new Event('popstate'))")
    page.wait_for_status("failed")
    with page.page.expect_event("requestfailed"):
        held[0].abort()
    page.page.wait_for_timeout(300)
    assert page.page.is_visible("#job")
    assert page.page.is_hidden("#notice")
    page.excuse_failed_loads()


def test_buttons_act_on_the_job_that_is_open(page):
    """A response for another one is not shown, and a question about it is not asked any more."""
    held = []
    page.describe(CORPUS)
    for name in ("first", "second"):
        page.page.fill("#name", name)
        page.start()
        page.wait_for_status("waiting")
        page.click("#another") if name == "first" else None
    page.page.route(JOBS + "/*/pause", lambda route: held.append(route))  # noqa: PLW0108 - Playwright marks it
    page.click("#pause")
    while not held:
        page.page.wait_for_timeout(50)
    page.page.locator("#jobs-list a", has_text="first").first.click()
    page.wait_for("first", "#job-title")
    page.page.locator("#message", has_text="Waiting for the trainer").wait_for()
    page.page.wait_for_timeout(500)
    with page.page.expect_response(JOBS + "/*/pause"):
        held[0].continue_()
    page.page.wait_for_timeout(300)
    assert (page.read("#job-title"), page.read("#job-status")) == ("first", "waiting")
    page.click("#cancel")
    page.page.go_back()
    page.wait_for("second", "#job-title")
    assert page.page.is_hidden("#confirm")


def test_a_job_that_failed_at_once_shows_no_empty_chart(open_train, queueing):
    job = FakeJob("failed")
    job._events = lambda *_: ""
    page = open_train(queueing)
    page.page.route(JOBS + "/**", job.answer)
    page.page.goto(f"{page.url}train?job=ftjob-1")
    page.page.locator("#message", has_text="The disk is full.").wait_for()
    assert [page.page.is_hidden(part) for part in ("#chart", "#chart-legend", "#samples-panel")] == [True] * 3


def test_a_request_of_a_sample_has_whole_characters_and_is_quoted(open_train, queueing):
    labels, text = {"style": "it's old"}, "\U0001f3ad" * 300
    data = {"epoch": 1, "train_loss": 2.0, "validation_loss": 2.1, "tokens": 1000}
    data["samples"] = [{"given": "x", "text": text, "labels": labels}]
    event = {"id": "ftevent-1-1", "type": "metrics", "message": "", "data": data}
    job = FakeJob("succeeded")
    job.asked.append("the events are complete")
    job._events = lambda *_: f"data: {json.dumps(event)}\n\n"
    page = open_train(queueing)
    page.page.route(JOBS + "/**", job.answer)
    page.page.goto(f"{page.url}train?job=ftjob-1")
    page.page.locator("#samples li").wait_for()
    words = shlex.split(page.read("#curl"))
    assert json.loads(words[-1])["labels"] == labels
    link = page.page.get_attribute("#inspect", "href")
    assert json.loads(unquote(link.partition("#")[2]))["text"] == "x" + text[:199]


def test_a_job_without_a_name_fits_a_phone(open_train, queueing):
    page = open_train(queueing, viewport={"width": 390, "height": 844})
    job = {"id": f"ftjob-{'3f' * 12}", "status": "cancelled", "created_at": 0}
    page.page.route(JOBS + "?limit=50", lambda route: route.fulfill(json={"data": [job]}))
    page.page.reload()
    page.page.locator("#jobs-list a", has_text=job["id"]).wait_for()
    assert page.fits()


def test_a_model_is_trained_further_under_its_name(open_train, queueing):
    page = open_train(queueing, "?from=lstm")
    page.page.locator("#lead", has_text="Continue from lstm").wait_for()
    assert page.page.get_attribute("#name", "placeholder") == "lstm"
    assert page.read("#name-help") == "lstm is served: this becomes its next version."
    page.page.select_option("#base", "")
    assert page.page.get_attribute("#name", "placeholder") == "my-text"


def test_a_server_that_does_not_train_says_how_to(open_train, gateway):
    page = open_train(gateway)
    page.page.locator("#unavailable:not([hidden])", has_text="sostenuto serve").wait_for()
    assert page.page.is_disabled("#start")
    page.describe(CORPUS)
    assert page.page.is_disabled("#start")
    page.excuse_failed_loads()


def test_a_key_without_the_role_is_told_so(browser, start_gateway, key_file, tmp_path):
    given = {
        role: keys(key_file, "add", "--tenant", "alice", "--role", "read", "--role", role)
        for role in ("generate", "train")
    }
    gateway = start_gateway(keys_file=key_file, training_dir=tmp_path / "training")
    page = Train(browser.new_context().new_page(), gateway)
    page.page.fill("#key-value", given["generate"])
    page.click("#key button[value=use]")
    page.page.locator("#unavailable:not([hidden])", has_text="may not train").wait_for()
    assert "--role train" in page.read("#unavailable")
    page.page.goto(page.url + "models")
    page.page.locator("#read-only:not([hidden])").wait_for()
    buttons = page.page.locator(".cards button:visible, .cards a:visible").all_inner_texts()
    assert buttons == ["Write with it", "Look inside"] * 2
    page.page.go_back()
    page.click("#other-key")
    page.page.fill("#key-value", given["train"])
    page.click("#key button[value=use]")
    page.page.locator("#unavailable").wait_for(state="hidden")
    page.describe(CORPUS)
    naming = "The server puts the prefix of your tenant before it; the job shows the name that requests use."
    assert page.read("#name-help") == naming
    page.start()
    page.wait_for_status("waiting")
    page.page.context.close()


def test_an_unknown_job_leads_back_to_the_form(open_train, queueing):
    page = open_train(queueing, "?job=ftjob-7")
    page.wait_for_notice("there is no job")
    assert page.page.is_visible("#text")
    page.excuse_failed_loads()


@pytest.mark.parametrize("look", LOOKS)
def test_the_pages_are_accessible(open_train, queueing, look):
    page, _ = open_fake(open_train, queueing, **look)
    page.wait_for_status("failed")
    assert page.violations() == []
    assert page.fits()
    page.click("#another")
    assert page.violations() == []
    page.describe(DESCRIBED["unusual characters"][0] + "Go to the beginning of this very page\n" * 9)
    page.click("#advanced summary")
    assert page.violations() == []
    assert page.fits()
    page.page.evaluate("document.getElementById('confirm').showModal()")
    assert page.violations() == []
    page.page.goto(page.url + "models")
    page.page.locator(".cards article").first.wait_for()
    assert page.violations() == []
    assert page.fits()
    assert page.hosts <= {page.url.rstrip("/"), "data:"}


def test_models_have_their_versions_and_links(open_page, gateway):
    page = open_page(Models, gateway)
    page.page.set_default_timeout(PATIENCE_MS)
    models = {model["id"]: model for model in gateway.get("/v1/models")[1]["data"]}
    assert page.page.locator(".cards h2").all_inner_texts() == list(models)
    card, described = page.card("lstm"), gateway.get("/v1/models/lstm")[1]
    assert f"vocabulary {described['vocab_size']}" in card.inner_text()
    assert "Fine-tuned from" not in card.inner_text()
    loss = {"validation_loss": 1.25, "bits_per_character": 1.803, "corpus": "book.txt", "corpus_characters": 60_000}
    sample = {"temperature": 0.5, "given": "<b>It", "text": " was"}
    versions = [
        {**described["versions"][0], "version": 2, "labels": ["stable"], "share": 0.9, "parent": "novels:3", **loss},
        {**described["versions"][0], "version": 7, "labels": ["canary"], "share": 0.1, "sample": sample},
    ]
    labels = {"stable": 2, "canary": 7, "next": 9}
    described |= {"versions": versions, "labels": labels, "unloaded": [1, 9]}
    page.page.route("**/v1/models/lstm", lambda route: route.fulfill(json=described))
    page.page.reload()
    rows = page.card("lstm").locator("li")
    shown = [row.inner_text().split() for row in rows.all()]
    assert [" ".join(words[:3]) for words in shown] == [
        "Version 9 next",
        "Version 7 canary",
        "Version 2 stable",
        "Version 1 not",
    ]
    assert [row.locator(".traffic").inner_text().strip() for row in rows.all()] == [
        "not loaded",
        "10%",
        "90%",
        "not loaded",
    ]
    for part in ("novels:3", "1.250 nats/token, 1.80 bits/character", "book.txt, 60,000 characters"):
        assert part in rows.nth(2).inner_text()
    rows.nth(1).locator("summary").click()
    assert rows.nth(1).locator(".sample").inner_text() == "<b>It was"


def test_a_change_of_a_model_that_is_retried_is_shown(open_page, gateway):
    page, described = open_page(Models, gateway), gateway.get("/v1/models/lstm")[1]
    (version,) = described["versions"]
    described |= {"labels": {"stable": 1}, "versions": [version, {**version, "version": 2, "labels": [], "share": 0}]}
    sent = []

    def answer(route):
        method = route.request.method
        if method != "GET":
            sent.append(method)
        if method != "GET" and sent.count(method) == 1:
            return route.fulfill(status=503, json={"error": {"message": "the trainer does not respond"}})
        if method == "PATCH":
            described["versions"][1]["labels"] = ["canary"]
        return route.fulfill(json=described)

    def retry():
        page.wait_for_notice("does not respond")
        page.page.wait_for_timeout(300)  # the model is loaded again
        page.click("#retry")

    page.page.route("**/v1/models/lstm", answer)
    page.page.reload()
    card = page.card("lstm")
    card.locator(".percent").fill("10")
    card.get_by_role("button", name="Apply").click()
    retry()
    card.locator(".badge", has_text="canary").wait_for()
    assert page.page.is_hidden("#notice")
    card.get_by_role("button", name="Delete model").click()
    page.page.get_by_role("button", name="Delete", exact=True).click()
    retry()
    card.wait_for(state="detached")
    assert sent == ["PATCH", "PATCH", "DELETE", "DELETE"]
    page.excuse_failed_loads()


def test_without_keys_a_server_that_other_machines_reach_is_read_only(browser, start_gateway, tmp_path):
    """There is no other key to enter, and the page of models offers no changes."""
    gateway = start_gateway(published_host="192.0.2.1", training_dir=tmp_path / "training")
    page = Train(browser.new_context().new_page(), gateway)
    page.page.locator("#unavailable:not([hidden])", has_text="does not train without API keys").wait_for()
    assert "SOSTENUTO_KEYS_FILE" in page.read("#unavailable")
    assert page.page.is_hidden("#other-key")
    page.page.goto(page.url + "models")
    page.page.locator("#read-only:not([hidden])", has_text="has no API keys").wait_for()
    buttons = page.page.locator(".cards button:visible, .cards a:visible").all_inner_texts()
    assert buttons == ["Write with it", "Look inside"] * 2
    page.page.context.close()
