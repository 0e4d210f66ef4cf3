"""The playground in a real browser: writing, stopping, branching, sharing, and what must never happen."""

import json
import re

import pytest

from tests.conftest import TEXT
from tests.e2e.test_access import key_file, keys  # noqa: F401 - a fixture is used by its name
from tests.programs import program

# As root, and without asking anything of the internet.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
PATIENCE_MS = 60_000
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser():
    """A browser for the whole module."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program("chromium"), args=FLAGS)
        yield browser
        browser.close()


class Page:
    """The playground of a gateway, opened anew."""

    def __init__(self, browser, gateway, hash_="", **how):
        self.context = browser.new_context(**how)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.complaints, self.hosts = [], set()
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(re.match(r"\w+:(//[^/]+)?", request.url).group()))
        self.url = f"http://127.0.0.1:{gateway.port}/"
        self.page.goto(self.url + hash_)
        self.page.locator("#model-0 option").first.wait_for(state="attached")

    def set(self, number=0, **values):
        """Set fields of a column."""
        for name, value in values.items():
            field = self.page.locator(f"#{name}-{number}")
            if name in ("model", "version"):
                field.select_option(value)
            else:
                field.evaluate(
                    "(node, value) => { node.value = value; node.dispatchEvent(new Event('input')); }", value
                )

    def write(self, prompt, **values):
        """Write a text to its end, and return it."""
        self.set(**values)
        self.page.fill("#prompt", prompt)
        self.page.click("#write")
        self.wait_for("Done.")
        return self.text()

    def wait_for(self, status):
        """Wait until the page says so."""
        from playwright.sync_api import expect

        expect(self.page.locator("#status")).to_have_text(status, timeout=PATIENCE_MS)

    def text(self, number=0):
        """Return what a column shows."""
        return self.page.locator(".output").nth(number).evaluate("node => node.textContent")

    def violations(self):
        """Return what axe finds against accessibility."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [(violation["id"], [node["html"][:120] for node in violation["nodes"]]) for violation in found]


@pytest.fixture
def open_page(browser):
    """Open the playground; at the end no page may have complained, but for what a test took out."""
    opened = []

    def start(gateway, hash_="", **how):
        opened.append(Page(browser, gateway, hash_, **how))
        return opened[-1]

    yield start
    complaints = [complaint for page in opened for complaint in page.complaints]
    for page in opened:
        page.context.close()
    assert complaints == []


FIELDS = {"model": "lstm", "temperature": "0.9", "max_tokens": "60", "seed": "3"}
ASKED = {"model": "lstm", "temperature": 0.9, "max_tokens": 60, "seed": 3}


def test_a_text_is_written_as_the_api_writes_it(open_page, gateway):
    """Token by token; the figures tell the seed; nothing is asked of anybody else."""
    page = open_page(gateway)
    assert page.write(TEXT[:20], **FIELDS) == gateway.text(prompt=TEXT[:20], **ASKED)
    assert page.page.locator(".token").count() == 60
    assert "60 tokens" in page.page.inner_text(".figures")
    assert "seed 3" in page.page.inner_text(".figures")
    assert page.hosts <= {page.url.rstrip("/"), "data:"}


def test_keys_write_and_stop(open_page, gateway):
    """Ctrl+Enter writes; Escape stops, and what came stays."""
    page = open_page(gateway)
    page.set(**{**FIELDS, "max_tokens": "2000"})
    page.page.locator("#max_tokens-0").evaluate("node => { node.max = 1e6; node.value = 90000; }")
    page.page.fill("#prompt", TEXT[:20])
    page.page.keyboard.press("Control+Enter")
    page.page.locator(".token").nth(20).wait_for()
    page.page.keyboard.press("Escape")
    page.wait_for("Stopped.")
    assert page.page.is_enabled("#write")
    assert len(page.text()) > 20


def test_a_token_has_alternatives_and_a_branch(open_page, gateway):
    """Another token in its place goes on from the state there; the text before it stays."""
    page = open_page(gateway)
    whole = page.write(TEXT[:20], **FIELDS)
    page.page.locator(".token").nth(10).click()
    rows = page.page.locator("#token tbody tr")
    assert 5 <= rows.count() <= 6
    assert re.search(r"\d+\.\d%", rows.first.inner_text())
    other = rows.filter(has_not=page.page.locator("xpath=self::*[@class='chosen']")).first
    other.locator("button").click()
    page.wait_for("Done.")
    assert page.text()[:10] == whole[:10]
    assert page.text()[:11] != whole[:11] or page.text()[10:] != whole[10:]
    assert page.page.locator(".token.branched").count() == 1
    assert page.page.locator(".token").count() > 11
    branched = page.text()
    page.page.locator(".token").nth(30).click()
    page.page.locator("#token tbody tr.chosen button").click()
    page.wait_for("Done.")
    assert page.text()[:31] == branched[:31]
    page.page.locator(".token").nth(3).click()
    page.page.locator("#token tbody tr").last.locator("button").click()
    page.wait_for("Done.")
    assert page.text()[:3] == whole[:3]


def test_a_link_brings_everything_back(open_page, gateway):
    """Prompt, model and settings stand in the address, and no part of it reaches the server."""
    page = open_page(gateway)
    first = page.write(TEXT[:30], **FIELDS)
    link = page.page.evaluate("location.hash")
    again = open_page(gateway, link)
    assert again.page.input_value("#prompt") == TEXT[:30]
    assert again.page.input_value("#model-0") == "lstm"
    again.page.click("#write")
    again.wait_for("Done.")
    assert again.text() == first


def test_two_texts_stand_side_by_side(open_page, gateway):
    """Two models, or one at two temperatures."""
    page = open_page(gateway)
    page.set(**FIELDS)
    page.page.check("#compare")
    page.set(1, temperature="0")
    page.page.fill("#prompt", TEXT[:20])
    page.page.click("#write")
    page.wait_for("Done.")
    assert page.text(0) == gateway.text(prompt=TEXT[:20], **ASKED)
    assert page.text(1) == gateway.text(prompt=TEXT[:20], **{**ASKED, "temperature": 0})


def test_a_model_that_reads_backwards_leads_up_to_an_ending(open_page, gateway):
    """Its pieces go before those so far."""
    page = open_page(gateway)
    expected = gateway.text(suffix="the end", **{**ASKED, "model": "reverse"})
    assert page.write("the end", **{**FIELDS, "model": "reverse"}) == expected
    assert page.page.inner_text("#prompt-label") == "Ending"


def test_a_key_is_asked_for(browser, start_gateway, key_file):  # noqa: F811 - a fixture
    """Once; a wrong one is asked for again."""
    key = keys(key_file, "add", "--tenant", "alice")
    gateway = start_gateway(keys_file=key_file)
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"http://127.0.0.1:{gateway.port}/")
    for given in ("wrong", key):
        page.wait_for_selector("#key[open]")
        page.fill("#key-value", given)
        page.click("#key button[value=use]")
    page.locator("#model-0 option").first.wait_for(state="attached")
    page.click("#write")
    page.locator("#status", has_text="Done.").wait_for()
    assert key not in page.evaluate("JSON.stringify(localStorage) + location.href")
    context.close()


@pytest.mark.parametrize(
    "evil", ["<img src=x onerror=window.ran=1>", "<script>window.ran=1</script>", "\u202e\u0000🐈 שלום"]
)
def test_nothing_that_is_written_is_run(open_page, gateway, evil):
    """Neither from a prompt, nor from a link, nor from a model: it is text."""
    page = open_page(gateway, "#" + json.dumps({"prompt": evil, "columns": [{"stop": evil}]}))
    assert page.page.input_value("#prompt") == evil
    lists = {"tokens": [evil], "token_logprobs": [-1.0], "top_logprobs": [{evil: -1.0}], "text_offset": [0]}
    choice = {"index": 0, "text": evil, "logprobs": lists, "finish_reason": "stop"}
    body = f"data: {json.dumps({'seed': 1, 'choices': [choice]})}\n\ndata: [DONE]\n\n"
    page.page.route("**/v1/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    page.page.click("#write")
    page.wait_for("Done.")
    assert page.text() == evil
    page.page.locator(".token").first.click()
    assert page.page.locator("#token tbody tr").count() == 1
    assert page.page.evaluate("window.ran") is None


def test_what_goes_wrong_is_said_and_passes(open_page, start_gateway):
    """A server that is gone, a model that is gone, a value that is refused; then it writes again."""
    gateway = start_gateway(max_prompt_tokens=50)
    page = open_page(gateway)
    page.set(**FIELDS)
    page.page.fill("#prompt", "x" * 100)
    page.page.click("#write")
    page.page.locator("#notice:not([hidden])").wait_for()
    assert "at most 50 tokens, got 100" in page.page.inner_text("#notice")
    page.page.route("**/v1/completions", lambda route: route.abort())
    page.page.click("#write")
    page.page.locator("#notice", has_text="The server cannot be reached").wait_for()
    page.page.unroute("**/v1/completions")
    assert page.write(TEXT[:20]) != ""
    assert page.page.is_hidden("#notice")
    assert all("Failed to load resource" in complaint for complaint in page.complaints)
    page.complaints.clear()


@pytest.mark.parametrize(
    "look", [{}, {"color_scheme": "dark"}, {"viewport": PHONE}, {"viewport": PHONE, "color_scheme": "dark"}]
)
def test_everybody_can_use_it(open_page, gateway, look):
    """No violation that axe finds, at rest, with a text, with a dialog open, with two columns; nothing sticks out."""
    page = open_page(gateway, **look)
    page.page.check("#compare")
    assert page.violations() == []
    page.write(TEXT[:20], **{**FIELDS, "max_tokens": "20"})
    assert page.violations() == []
    assert page.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.page.locator(".token").nth(3).click()
    assert page.violations() == []


def test_the_policy_lets_nothing_run_that_is_not_ours(gateway):
    """Of the page and of all that it is made of; no other file can be had."""
    for path in ("/", "/static/playground.js", "/static/playground.css", "/static/icon.svg"):
        status, headers, _ = gateway.ask("GET", path)
        policy = headers["Content-Security-Policy"]
        assert (status, "unsafe" in policy, "default-src 'none'" in policy) == (200, False, True)
    for path in ("/static/../pages.py", "/static/%2e%2e/pages.py", "/static/nothing.js"):
        assert gateway.ask("GET", path)[0] == 404
