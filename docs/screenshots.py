"""Takes the pictures of the pages that the site shows: `make screenshots`, of a service that runs with the demo model.

Texts have seeds, so that the same model gives the same pictures. The page that trains publishes a model `scenes`; its
picture depends on the speed of the machine. Look at them before they are committed.
"""

import argparse
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from export.corpora.packaged import read_plays
from tests.pages import Inspector, Learn, Page, Playground, Reference, Train, launch

FOLDER = Path(__file__).with_name("images")
DESKTOP = {"width": 1000, "height": 860}
TOUR = {"width": 960, "height": 620}
PROMPT = "HAMLET.\n"
PHONE = {"width": 390, "height": 844}
STATES_PER_ROW = 3
# Some 100,000 characters, of which a minute reads several epochs.
NUM_SCENES = 16


def main() -> None:
    """Write docs/images/*.png and tour.webp."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=8000, help="of the service on this machine (default: 8000)")
    parser.add_argument("--model", default="demo", help="what writes and is looked into (default: demo)")
    options = parser.parse_args()
    gateway = SimpleNamespace(port=options.port)
    with sync_playwright() as started:
        browser = launch(started)
        _tour(browser, gateway, options.model)
        _playground(browser, gateway, options.model)
        _inspector(browser, gateway, options.model)
        _learn(browser, gateway, options.model)
        _api(browser, gateway)
        _states(browser, gateway, options.model)
        _train(browser, gateway)
        browser.close()


class _Film:
    """An animated WebP of a page."""

    def __init__(self) -> None:
        self._frames: list[Image.Image] = []
        self._durations_ms: list[int] = []

    def take(self, page: Page, milliseconds: int) -> None:
        """Add what the window shows, for a time."""
        self._frames.append(Image.open(io.BytesIO(page.page.screenshot())).convert("RGB"))
        self._durations_ms.append(milliseconds)

    def save(self, name: str) -> None:
        path = FOLDER / f"{name}.webp"
        first, *rest = self._frames
        first.save(path, save_all=True, append_images=rest, duration=self._durations_ms, loop=0, quality=45, method=6)
        print(path)


def _tour(browser: Browser, gateway: SimpleNamespace, model: str) -> None:
    """Film a generation in the playground, the alternatives of a token, and the search of the inspector."""
    film = _Film()
    page = Playground(browser.new_page(viewport=TOUR), gateway)
    page.set(model=model, temperature="0.5", seed="12", max_tokens="700")
    page.page.locator("#opening:not([hidden])").wait_for()
    for _ in range(40):
        film.take(page, 150)
    film.take(page, 1500)
    page.page.fill("#prompt", PROMPT)
    page.click("#generate")
    while page.page.inner_text("#status") != "Done.":
        film.take(page, 120)
    film.take(page, 1800)
    page.page.locator(".token").nth(25).click()
    film.take(page, 3000)
    page = Inspector(browser.new_page(viewport=TOUR), gateway)
    page.page.evaluate("document.querySelector('#change').open = false")
    film.take(page, 2500)
    for discovery in page.page.locator("#discoveries .strip").all()[1:]:
        discovery.click()
        page.page.wait_for_timeout(300)
        film.take(page, 2500)
    film.save("tour")


def _playground(browser: Browser, gateway: SimpleNamespace, model: str) -> None:
    page = Playground(browser.new_page(viewport=DESKTOP), gateway)
    page.page.check("#compare")
    page.set(0, model=model, temperature="0.5", seed="7", max_tokens="400")
    page.set(1, model=model, temperature="1", seed="7", max_tokens="400")
    page.write(PROMPT)
    page.page.evaluate("document.activeElement.blur()")
    _save(page, "playground")
    page.page.locator(".token").nth(62).click()
    _save(page, "alternatives", "#token")
    page = Playground(browser.new_page(viewport=DESKTOP), gateway)
    page.write(PROMPT, model=model, temperature="0.5", seed="7", max_tokens="300")
    for position in (62, 120):
        _branch(page, position)
    page.page.locator(".branches a").first.click()
    _branch(page, 20)
    _save(page, "branches", ".text")
    phone = Playground(browser.new_page(viewport=PHONE, color_scheme="dark"), gateway)
    phone.write(PROMPT, model=model, temperature="0.5", seed="7", max_tokens="200")
    phone.show_settings()
    _save(phone, "playground-phone")


def _inspector(browser: Browser, gateway: SimpleNamespace, model: str) -> None:
    page = Inspector(browser.new_page(viewport=DESKTOP), gateway)
    page.look(model, page.page.input_value("#text"))
    page.page.locator("#tokens [data-position='78']").click()
    page.page.locator("#tokens [data-position='60']").click()
    page.click("#elsewhere-form button")
    page.page.locator("#elsewhere-status", has_text="found in").wait_for()
    _save(page, "inspector-elsewhere", "#elsewhere")
    page.page.locator("#tokens [data-position='78']").click()
    page.page.locator("#map").evaluate("map => { map.scrollLeft = 0; }")
    # The map is drawn before the next frame.
    page.page.wait_for_timeout(300)
    _save(page, "inspector-text", ".panel:has(#tokens)")
    _save(page, "inspector-units", ".panel:has(#discoveries)")
    _save(page, "inspector-token", ".panel:has(#formula)")
    _save(page, "inspector-map", ".panel:has(#map)")
    page.click("#embedding summary")
    page.page.locator("#neighbors tr").first.wait_for()
    _save(page, "inspector-embedding", ".panel:has(#embedding)")


def _learn(browser: Browser, gateway: SimpleNamespace, model: str) -> None:
    page = Learn(browser.new_page(viewport=DESKTOP), gateway)
    page.read_by(model)
    _save(page, "learn", ".panel:has(#cell)")


def _branch(page: Playground, position: int) -> None:
    """Continue with the second alternative of a token."""
    page.page.locator(".token").nth(position).click()
    page.page.locator("#token tbody button").nth(1).click()
    page.wait_for("Done.")


def _api(browser: Browser, gateway: SimpleNamespace) -> None:
    page = Reference(browser.new_page(viewport=DESKTOP), gateway)
    page.click("#try")
    page.page.locator("#try:enabled").wait_for()
    _save(page, "api", "#quickstart")


def _states(browser: Browser, gateway: SimpleNamespace, model: str) -> None:
    """Save the states of the page that writes as one picture, in the order of docs/how-to/playground.md."""
    pictures = [Image.open(io.BytesIO(taken)).convert("RGB") for taken in _pictures_of_states(browser, gateway, model)]
    width, height = TOUR["width"] // 2, TOUR["height"] // 2
    sheet = Image.new("RGB", (STATES_PER_ROW * width, len(pictures) // STATES_PER_ROW * height))
    for number, picture in enumerate(pictures):
        place = (number % STATES_PER_ROW * width, number // STATES_PER_ROW * height)
        sheet.paste(picture.resize((width, height), Image.Resampling.LANCZOS), place)
    _write(sheet, "states")


def _pictures_of_states(browser: Browser, gateway: SimpleNamespace, model: str) -> Iterator[bytes]:
    page = Playground(browser.new_page(viewport=TOUR), gateway)
    models = page.page.evaluate("fetch('v1/models').then((response) => response.json())")
    page.page.wait_for_timeout(2500)
    first_seconds = page.page.screenshot()
    tab = browser.new_page(viewport=TOUR)
    # Without discoveries the page opens without a text.
    models["data"] = [{**each, "discoveries": []} for each in models["data"]]
    tab.route("**/v1/models", lambda route: route.fulfill(json=models))
    page = Playground(tab, gateway)
    page.set(model=model, seed="7", max_tokens="5000")
    yield tab.screenshot()
    yield first_seconds
    page.click("#generate")
    tab.locator(".token").nth(200).wait_for()
    yield tab.screenshot()
    page.click("#stop")
    tab.locator("#generate:enabled").wait_for()
    page.write(PROMPT, max_tokens="200")
    yield tab.screenshot()
    _branch(page, 62)
    yield tab.screenshot()
    tab.check("#compare")
    page.write(PROMPT)
    yield tab.screenshot()
    tab.uncheck("#compare")
    yield from _pictures_of_failures(page)
    tab = browser.new_page(viewport=TOUR)
    tab.route("**/v1/models", lambda route: route.fulfill(json={"object": "list", "data": []}))
    tab.goto(page.url)
    tab.locator("#lead", has_text="No model is served yet").wait_for()
    yield tab.screenshot()
    tab.goto(f"{page.url}writing")
    yield tab.screenshot()
    page = Playground(browser.new_page(viewport=TOUR, color_scheme="dark"), gateway)
    page.write(PROMPT, model=model, temperature="0.5", seed="7", max_tokens="200")
    yield page.page.screenshot()


def _pictures_of_failures(page: Playground) -> Iterator[bytes]:
    """Yield those of a lost server, of too many requests, and of a key that is refused."""
    tab, completions = page.page, "**/v1/completions"
    tab.route(completions, lambda route: route.abort())
    page.click("#generate")
    tab.locator("#notice:not([hidden])").wait_for()
    yield tab.screenshot()
    tab.route(completions, lambda route: route.fulfill(status=429, json=_error("too many requests: try again in 2 s")))
    page.click("#retry")
    page.wait_for_notice("Too many requests")
    yield tab.screenshot()
    tab.route(completions, lambda route: route.fulfill(status=401, json=_error("the key is not valid")))
    page.click("#retry")
    tab.fill("#key-value", "mine")
    page.click("#key button[value=use]")
    tab.locator("#key-refused:not([hidden])").wait_for()
    yield tab.screenshot()


def _error(message: str) -> dict[str, object]:
    return {"error": {"message": message}}


def _train(browser: Browser, gateway: SimpleNamespace) -> None:
    """Save what the page says of some scenes, and the training on them once it is published."""
    page = Train(browser.new_page(viewport=DESKTOP), gateway)
    text = "\n".join(itertools.islice(read_plays(), NUM_SCENES))
    page.page.set_input_files("#file", {"name": "scenes.txt", "mimeType": "text/plain", "buffer": text.encode()})
    page.page.locator("#found").wait_for()
    _save(page, "train-text")
    page.start()
    page.wait_for_status("published", timeout_ms=600_000)
    _save(page, "train")


def _save(page: Page, name: str, selector: str | None = None) -> None:
    """Save what the window shows, or one part of the page."""
    taken = page.page.screenshot() if selector is None else page.page.locator(selector).screenshot()
    assert page.complaints == [], page.complaints
    _write(Image.open(io.BytesIO(taken)).convert("RGB"), name)


def _write(picture: Image.Image, name: str) -> None:
    path = FOLDER / f"{name}.png"
    # A third of the bytes, and nothing that an eye would miss.
    picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main()
