"""The gateway's pages in a real browser, as users operate them."""

import base64
import re
import shutil

import numpy as np
import pytest

from tests.programs import program

# For root, and without requests to the internet.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
# A domain whose owner resolves it to this machine, as in DNS rebinding.
FLAGS += ["--host-resolver-rules=MAP evil.example 127.0.0.1"]
PATIENCE_MS = 60_000
# Playwright's default.
DESKTOP = {"width": 1280, "height": 720}
PHONE = {"width": 360, "height": 740}
DARK_PHONE = {"viewport": PHONE, "color_scheme": "dark"}
LOOKS = [
    {},
    *(
        pytest.param(look, marks=pytest.mark.slow)
        for look in (DARK_PHONE, {"color_scheme": "dark"}, {"viewport": PHONE})
    ),
]


def launch(playwright):
    """Start Debian's Chromium, without its desktop if that package is installed: a page then takes half the time."""
    path = shutil.which("chromium-headless-shell") or program("chromium")
    return playwright.chromium.launch(executable_path=path, args=FLAGS)


class Tab:
    """A tab that tests use one after another: loading a page takes 0.25 s of a core in it, 0.85 s in a new context."""

    def __init__(self, browser):
        self._browser, self._tab = browser, None

    def take(self):
        tab, self._tab = self._tab, None
        return tab or self._browser.new_context().new_page()

    def give_back(self, tab):
        """Reset storage, routes, cookies and size of the tab; close it if that fails."""
        from playwright.sync_api import Error

        try:
            # A blank page has no storage.
            if tab.url != "about:blank":
                # What the page still has to write is lost.
                tab.evaluate("Storage.prototype.setItem = () => {}; localStorage.clear(); sessionStorage.clear()")
            tab.unroute_all(behavior="ignoreErrors")
            tab.context.clear_cookies()
            tab.goto("about:blank")
            tab.set_viewport_size(DESKTOP)
            self._tab = tab
        except Error:
            tab.context.close()


class Page:
    """A page of a gateway, in a blank tab."""

    path = ""

    def __init__(self, tab, gateway, hash_=""):
        self.page = tab
        self.page.set_default_timeout(PATIENCE_MS)
        self.complaints, self.hosts = [], set()
        self._listeners = {
            "console": lambda said: self.complaints.append(said.text) if said.type == "error" else None,
            "pageerror": lambda error: self.complaints.append(str(error)),
            "request": lambda request: self.hosts.add(re.match(r"\w+:(//[^/]+)?", request.url).group()),
        }
        for event, listener in self._listeners.items():
            self.page.on(event, listener)
        self.url = f"http://127.0.0.1:{gateway.port}/"
        self.page.goto(self.url + self.path + hash_)

    def leave(self):
        for event, listener in self._listeners.items():
            self.page.remove_listener(event, listener)

    def click(self, selector):
        self.page.click(selector)

    def read(self, selector):
        return self.page.inner_text(selector)

    def wait_for(self, text, selector="#status", timeout_ms=PATIENCE_MS):
        """Wait until an element has exactly this text."""
        from playwright.sync_api import expect

        expect(self.page.locator(selector)).to_have_text(text, timeout=timeout_ms)

    def wait_for_notice(self, part):
        notice = self.page.locator("#notice:not([hidden])", has_text=part)
        notice.wait_for()
        return notice.inner_text()

    def excuse_failed_loads(self):
        """Clear the browser's own messages about failed requests; any other message fails the test."""
        assert all("Failed to load resource" in complaint for complaint in self.complaints), self.complaints
        self.complaints.clear()

    def violations(self):
        """Return the violations of accessibility rules that axe finds."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [(violation["id"], [node["html"][:120] for node in violation["nodes"]]) for violation in found]

    def fits(self):
        """Return whether nothing overflows to the right, neither out of the window nor out of a label or button."""
        return self.page.evaluate(
            """document.documentElement.scrollWidth <= innerWidth
                && [...document.querySelectorAll("label, button")].every((each) =>
                    !each.clientWidth || each.scrollWidth <= each.clientWidth || each.closest(".away"))"""
        )


class Playground(Page):
    """The page that generates completions."""

    def __init__(self, tab, gateway, hash_=""):
        super().__init__(tab, gateway, hash_)
        self.page.locator("#model-0 option").first.wait_for(state="attached")
        # A model with discoveries opens with a scene.
        self.page.locator("#generate:enabled").wait_for(state="attached")

    def set(self, number=0, **values):
        """Set fields of a column, on a phone in its sheet."""
        if is_sheet := bool(values) and self.page.is_visible("#settings"):
            self.show_settings(number)
        for name, value in values.items():
            field = self.page.locator(f"#{name}-{number}")
            if name in ("model", "version"):
                field.select_option(value)
            else:
                field.evaluate(
                    "(node, value) => { node.value = value; node.dispatchEvent(new Event('input')); }", value
                )
        if is_sheet:
            self.page.keyboard.press("Escape")

    def show_settings(self, number=0):
        """On a phone, open the sheet of the column that is in sight: this one."""
        self.page.locator(".column").nth(number).evaluate("column => column.scrollIntoView({ inline: 'start' })")
        self.click("#settings")

    def write(self, prompt, **values):
        """Generate a completion to its end, and return what the column shows."""
        self.set(**values)
        self.page.fill("#prompt", prompt)
        self.click("#generate")
        self.wait_for("Done.")
        return self.text()

    def text(self, number=0):
        tokens = self.page.locator(".output").nth(number).locator(".token")
        return "".join(tokens.evaluate_all("all => all.map((token) => token.textContent)"))


class Inspector(Page):
    """The page that shows a model's traces."""

    path = "inspector"

    def __init__(self, tab, gateway, hash_=""):
        super().__init__(tab, gateway, hash_)
        # The page opens with a text that is analyzed, or says why not.
        self.page.locator("#found:not([hidden]), #notice:not([hidden])").first.wait_for()
        self.page.locator("#inspect:enabled").wait_for(state="attached")
        self.page.evaluate("document.querySelectorAll('#change, #heat').forEach((each) => { each.open = true; })")

    def look(self, model, text, **options):
        """Inspect a text to its end; `options` are fields of the form, `backwards` its checkbox."""
        self.page.select_option("#model", model)
        self.page.fill("#text", text)
        self.page.set_checked("#backwards", options.pop("backwards", False))
        for name, value in options.items():
            self.page.fill(f"#{name}", str(value))
        self.click("#inspect")
        self.page.locator("#status", has_text="tokens inspected.").wait_for()

    def cell(self, row, place, width=10, labels=20, height=10):
        """Return the visible color of a token's cell in the map; `place` counts cells from the top."""
        pixel = """(map, [x, y]) => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => {
            const data = map.querySelector('canvas').getContext('2d').getImageData(x - map.scrollLeft, y, 1, 1).data;
            resolve('rgb(' + [...data].slice(0, 3).join(',') + ')');
        })))"""
        middle = [(row + 0.5) * width, labels + (place + 0.5) * height]
        return self.page.locator("#map").evaluate(pixel, middle)

    def strips(self, selector="#units"):
        """Return the name and the correlations of each unit that is shown as a strip."""
        strips = self.page.locator(f"{selector} .strip").all()
        return [tuple(strip.locator(tag).inner_text() for tag in ("strong", "span")) for strip in strips]

    def rows(self, selector):
        return [line.split("\t") for line in self.page.locator(f"{selector} tr").all_inner_texts()]

    def numbers(self, selector):
        """Return the first number of each line of a table, by its label."""
        return {name: float(value.replace("−", "-").split()[0]) for name, value, *_ in self.rows(selector)}


def made_up(tokens, hidden, others=None, **fields):
    """Return a response of /v1/inspect with given values of one layer: hidden states and others by kind.

    Each is float (tokens, units).
    """
    values = {
        kind: base64.b64encode(np.asarray(matrix, "<f2").tobytes()).decode()
        for kind, matrix in {"hidden": hidden, **(others or {})}.items()
    }
    layer = {"layer": 1, "units": list(range(len(hidden[0]))), "values": values}
    answer = {
        "object": "inspection",
        "model": "lstm",
        "version": 1,
        "token_ids": [0] * len(tokens),
        "tokens": tokens,
        "token_logprobs": [None, *[-1.0] * (len(tokens) - 1)],
        "top_logprobs": [None, *[{token: -1.0} for token in tokens[1:]]],
        "expected": {},
        "positions": list(range(len(tokens))),
        "layers": [layer],
    }
    return {**answer, **fields}


class Learn(Page):
    """The lesson: five stops on one text."""

    path = "learn"

    def read_by(self, model):
        self.page.locator("#found:not([hidden])").wait_for()
        # One model is no choice.
        if self.page.is_visible("#model"):
            self.page.select_option("#model", model)
        self.page.locator("#model-card strong", has_text=model).wait_for()
        self.wait_for("")

    def choose(self, unit, position):
        self.page.fill("#unit", str(unit))
        self.page.locator(f"#tokens [data-position='{position}']").click()


class Train(Page):
    path = "train"

    def describe(self, text):
        """Paste a text, and return the numbers that the page shows of it, and its notes."""
        self.page.fill("#text", text)
        # They are shown after a pause of 250 ms.
        self.page.evaluate("new Promise((done) => setTimeout(done, 300))")
        return self.shown()

    def shown(self):
        names, values = (self.page.locator(f"#numbers {tag}").all_inner_texts() for tag in ("dt", "dd"))
        return dict(zip(names, values, strict=True)), self.page.locator("#notes li").all_inner_texts()

    def start(self):
        self.click("#start")
        self.page.locator("#job:not([hidden])").wait_for()

    def wait_for_status(self, status, timeout_ms=PATIENCE_MS):
        self.wait_for(status, "#job-status", timeout_ms)


class Models(Page):
    path = "models"

    def __init__(self, tab, gateway, hash_="", key=None):
        super().__init__(tab, gateway, hash_)
        if key is not None:
            self.page.fill("#key-value", key)
            self.click("#key button[value=use]")
        self.page.locator(".cards article").first.wait_for()

    def card(self, name):
        """Return the card of a model, once it has the details of its versions."""
        heading = self.page.get_by_role("heading", name=name, exact=True)
        card = self.page.locator(".cards article", has=heading)
        card.locator("dl div").first.wait_for()
        return card


class Reference(Page):
    """The API reference: Swagger UI."""

    path = "docs/"

    def __init__(self, tab, gateway, hash_=""):
        super().__init__(tab, gateway, hash_)
        self.page.locator(".opblock").first.wait_for()

    def execute(self, operation, body):
        """Open an operation, send it with this body, and return the status of the response."""
        block = self.page.locator(f"#operations-{operation}")
        block.locator(".opblock-summary-control").click()
        block.locator(".try-out__btn").click()
        block.locator("textarea.body-param__text").fill(body)
        block.locator(".execute").click()
        status = block.locator(".live-responses-table .response-col_status").last
        status.wait_for()
        return status.inner_text().split()[0]
