"""Takes the pictures of the pages that the site shows: `make screenshots`, of a service that runs with the demo model.

Texts have seeds, so that the same model gives the same pictures. The page that trains publishes a model `scenes`; its
picture depends on the speed of the machine. Look at them before they are committed.
"""

import argparse
import io
import itertools
from pathlib import Path
from types import SimpleNamespace

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from export.corpora.packaged import read_plays
from tests.pages import Inspector, Learn, Page, Playground, Train, launch

FOLDER = Path(__file__).with_name("images")
DESKTOP = {"width": 1000, "height": 860}
TOUR = {"width": 960, "height": 620}
PROMPT = "HAMLET.\n"
PHONE = {"width": 390, "height": 844}
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
        first.save(path, save_all=True, append_images=rest, duration=self._durations_ms, loop=0, quality=60, method=6)
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
    phone = Playground(browser.new_page(viewport=PHONE, color_scheme="dark"), gateway)
    phone.write(PROMPT, model=model, temperature="0.5", seed="7", max_tokens="200")
    phone.click(".sheet-button")
    _save(phone, "playground-phone")


def _inspector(browser: Browser, gateway: SimpleNamespace, model: str) -> None:
    page = Inspector(browser.new_page(viewport=DESKTOP), gateway)
    page.look(model, page.page.input_value("#text"))
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
    path = FOLDER / f"{name}.png"
    taken = page.page.screenshot() if selector is None else page.page.locator(selector).screenshot()
    assert page.complaints == [], page.complaints
    # A third of the bytes, and nothing that an eye would miss.
    Image.open(io.BytesIO(taken)).convert("RGB").quantize(
        256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
    ).save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main()
