"""`python -m benchmarks.inspector`: frame times of the pages with a long text and a large model.

Measures the browser's frame times while a text is streamed and during user actions on it, for 5,000 tokens and two
layers of 512 units, and for 250 tokens of the same model, in alternation. Headless Chromium runs on the same cores as
the servers.
"""

import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Browser, Locator, sync_playwright
from playwright.sync_api import Page as BrowserPage

from benchmarks.report import each_round, parse_rounds, print_heading, print_table, spread, write_results
from benchmarks.servers import fixture_servers
from tests.pages import launch

UNITS, LAYERS = 512, 2
LONG, SHORT = 5_000, 250
PROSE = 'It says "yes" (or so), in 1859.\nThen Ann left: "no", she wrote (once).\n'
TIMEOUT_MS = 240_000
# Records the time between animation frames.
WATCH = """() => {
  window.frames_ms = [];
  let last = performance.now();
  const next = (now) => { frames_ms.push(now - last); last = now; requestAnimationFrame(next); };
  requestAnimationFrame(next);
}"""
SCROLL = """() => new Promise((done) => {
  const map = document.querySelector('#map');
  map.scrollLeft = 0;
  let left = 120;
  const step = () => { map.scrollLeft += 37; left -= 1; left ? requestAnimationFrame(step) : done(); };
  step();
})"""


def tour(browser: Browser, port: int, length: int) -> dict[str, list[float]]:
    """Perform all actions on a text of `length` characters; return the frame times in ms of each action."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(f"http://127.0.0.1:{port}/inspector")
    # The page inspects a text of its own first, and then closes the form.
    page.locator("#status", has_text="tokens inspected.").wait_for()
    page.evaluate("document.querySelectorAll('#change, #heat').forEach((each) => { each.open = true; })")
    page.evaluate(WATCH)
    page.fill("#text", (PROSE * (length // len(PROSE) + 1))[:length])
    read = page.locator("#status", has_text=f"{length} tokens inspected.")
    frames: dict[str, list[float]] = {}

    def watch(name: str, work: Callable[[], object]) -> None:
        page.evaluate("frames_ms.length = 0")
        work()
        page.wait_for_timeout(100)
        frames[name] = page.evaluate("frames_ms")

    def inspect() -> None:
        page.click("#inspect")
        read.wait_for()

    def search() -> None:
        page.click("#search button")
        page.locator("#units .strip").first.wait_for()

    watch("read the text", inspect)
    watch("scroll the heat map", lambda: page.evaluate(SCROLL))
    watch("select another layer", lambda: page.select_option("#layer", "2"))
    watch("select the cell state", lambda: page.select_option("#kind", "cell"))
    watch("search for units", search)
    watch("color the text by a unit", page.locator("#units .strip").nth(1).click)
    watch("move by arrow keys", functools.partial(_press, page.locator("#map"), 20))
    watch("save the heat map as PNG", lambda: _download(page, "#png"))
    watch("save all values as JSON", lambda: _download(page, "#json"))
    page.close()
    return {**_stream(browser, port, length), **frames}


def _stream(browser: Browser, port: int, length: int) -> dict[str, list[float]]:
    """Stream a text of that many tokens into the page Write, and return its frame times."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(f"http://127.0.0.1:{port}/")
    page.locator("#model-0 option").first.wait_for(state="attached")
    page.fill("#max_tokens-0", str(length))
    page.evaluate(WATCH)
    page.click("#generate")
    page.locator("#status", has_text="Done.").wait_for()
    frames: list[float] = page.evaluate("frames_ms")
    page.close()
    return {"stream a text": frames}


def _press(map_: Locator, times: int) -> None:
    for _ in range(times):
        map_.press("ArrowRight")


def _download(page: BrowserPage, button: str) -> None:
    with page.expect_download() as download:
        page.click(button)
    download.value.path()


def measure(rounds: int) -> dict[str, list[tuple[float, float, float, float]]]:
    """Return for each action, per round: median and longest frame with the long text, and with the short one."""
    results: dict[str, list[Any]] = defaultdict(list)
    with fixture_servers(UNITS, LAYERS) as servers:
        _, gateway = servers.start()
        # Tests have no types.
        browser = launch(servers.stack.enter_context(sync_playwright()))  # type: ignore[no-untyped-call]
        for _ in each_round(rounds):
            long, short = (tour(browser, gateway.port, length) for length in (LONG, SHORT))
            for name, frames in long.items():
                sides = (frames, short[name])
                results[name].append(tuple(statistic(side) for side in sides for statistic in (statistics.median, max)))
        browser.close()
    return results


def main() -> None:
    rounds = parse_rounds("benchmarks.inspector", __doc__)
    started = time.time()
    results = measure(rounds)
    print_heading(f"frame times in ms, headless Chromium, model_server, {LAYERS} LSTM layers of {UNITS} units", rounds)
    rows = []
    for name, frames in results.items():
        ratios = [longest / other for _, longest, _, other in frames]
        rows.append([name, *(spread(column, ".0f") for column in zip(*frames, strict=True)), spread(ratios, ".1f")])
    lengths = (f"{LONG:,} tokens: median", "longest", f"{SHORT} tokens: median", "longest")
    print_table(("", *lengths, "ratio of the longest"), rows)
    write_results("inspector-", started, frames_ms=results)


if __name__ == "__main__":
    main()
