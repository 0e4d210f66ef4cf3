"""`python -m benchmarks.inspector`: frame times of the inspector page with a long text and a large model.

Measures the browser's frame times during user actions, for 5,000 tokens and two layers of 512 units, and for 250 tokens
of the same model, in alternation. Headless Chromium runs on the same cores as the servers.
"""

import argparse
import contextlib
import functools
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Locator, sync_playwright
from playwright.sync_api import Page as BrowserPage

from benchmarks.__main__ import child, machine, service, spread, write_results
from benchmarks.fixture_model import NAME
from tests.pages import launch

UNITS, LAYERS = 512, 2
LONG, SHORT = 5_000, 250
PROSE = 'It says "yes" (or so), in 1859.\nThen Ann left: "no", she wrote (once).\n'
PATIENCE_MS = 240_000
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
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"http://127.0.0.1:{port}/inspector")
    page.locator("#model option").first.wait_for(state="attached")
    page.evaluate(WATCH)
    page.fill("#text", (PROSE * (length // len(PROSE) + 1))[:length])
    read = page.locator("#status", has_text="tokens read.")
    frames: dict[str, list[float]] = {}

    def watch(name: str, work: Callable[[], object]) -> None:
        page.evaluate("frames_ms.length = 0")
        work()
        page.wait_for_timeout(100)
        frames[name] = page.evaluate("frames_ms")

    watch("read the text and show it", lambda: (page.click("#read"), read.wait_for()))
    watch("scroll through the map", lambda: page.evaluate(SCROLL))
    watch("show another layer", lambda: page.select_option("#layer", "2"))
    watch("show the cell state", lambda: page.select_option("#kind", "cell"))
    watch("search for units", lambda: (page.click("#search button"), page.locator("#units tbody tr").first.wait_for()))
    watch("paint the text by a unit", page.locator("#units tbody button").first.click)
    watch("go by arrow keys", functools.partial(_press, page.locator("#map"), 20))
    watch("save the map as PNG", lambda: _download(page, "#png"))
    watch("save all numbers as JSON", lambda: _download(page, "#json"))
    page.close()
    return frames


def _press(map_: Locator, times: int) -> None:
    for _ in range(times):
        map_.press("ArrowRight")


def _download(page: BrowserPage, button: str) -> None:
    with page.expect_download() as download:
        page.click(button)
    download.value.path()


def measure(rounds: int) -> dict[str, list[tuple[float, float, float, float]]]:
    """Return for each action, per round: median and longest frame with the long text, and with the short one."""
    results = defaultdict(list)
    with contextlib.ExitStack() as stack:
        models_dir = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        publisher = stack.enter_context(child("benchmarks.publish", str(models_dir), str(UNITS), str(LAYERS)))
        if publisher.wait(300):
            raise SystemExit("error: the model cannot be published")
        port, _, _ = stack.enter_context(service(models_dir, stack))
        browser = launch(stack.enter_context(sync_playwright()))
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", flush=True)
            long, short = (tour(browser, port, length) for length in (LONG, SHORT))
            for name, frames in long.items():
                sides = (frames, short[name])
                results[name].append(tuple(statistic(side) for side in sides for statistic in (statistics.median, max)))
        browser.close()
    return results


def main() -> None:
    """Measure, print a table and write the results as JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.inspector", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default: 3)")
    options = parser.parse_args()
    started = time.time()
    results = measure(options.rounds)
    print(f"\n{machine()}, headless Chromium beside model_server; model {NAME}: {LAYERS} LSTM layers of {UNITS} units;")
    print(f"milliseconds from frame to frame, medians of {options.rounds} rounds, the range in brackets\n")
    print(f"| | {LONG:,} tokens: median | longest | {SHORT} tokens: median | longest | ratio of the longest |")
    print("|---|---|---|---|---|---|")
    for name, rounds in results.items():
        columns = list(zip(*rounds, strict=True))
        ratios = [longest / other for _, longest, _, other in rounds]
        print(f"| {name} | {' | '.join(spread(column, '.0f') for column in columns)} | {spread(ratios, '.1f')} |")
    write_results("inspector-", started, frames_ms=results)


if __name__ == "__main__":
    main()
