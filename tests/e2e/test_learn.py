"""The lesson in a real browser: its drawings, curves and texts have the numbers that the API returns."""

import json
import math
import re
from urllib.parse import quote

import numpy as np
import pytest

from tests.conftest import TEXT
from tests.pages import LOOKS, Learn, made_up

# The page reads float16 and shows three digits.
CLOSE = 2e-3
LINES = TEXT.replace("; ", "\n") * 4


@pytest.fixture
def open_lesson(open_page, gateway):
    """A function that opens the lesson on LINES, or another text, as a tab has it that has written it."""

    def start(text=LINES, **how):
        page = open_page(Learn, gateway, **how)
        kept = json.dumps({"model": "lstm", "text": text})
        page.page.evaluate("kept => sessionStorage.setItem('sostenuto-text', kept)", kept)
        page.page.reload()
        return page

    return start


@pytest.fixture
def page(open_lesson):
    return open_lesson()


def inspected(gateway, model, **fields):
    """Return the response of /v1/inspect, and the values of its first layer as arrays (tokens, units)."""
    status, answer = gateway.post({"model": model, "input": LINES, **fields}, "/v1/inspect")
    assert status == 200, answer
    return answer, {kind: np.array(values) for kind, values in answer["layers"][0]["values"].items()}


def numbers(text):
    return [float(each.replace("−", "-")) for each in re.findall(r"[-−]?\d+\.\d+", text)]


def thicknesses(page, kind):
    """Return the height of each horizontal arrow of a kind in the drawing."""
    boxes = page.page.locator(f"#cell polygon.{kind}").evaluate_all(
        "all => all.map((each) => each.getBBox()).map(({width, height}) => [width, height])"
    )
    return [height for width, height in boxes if width > height]


@pytest.mark.parametrize("model", ["lstm", "gru", "rnn"])
def test_the_drawing_of_a_step_has_the_apis_numbers(page, gateway, model):
    page.read_by(model)
    _, values = inspected(gateway, model)
    if page.page.is_visible("#layer"):
        page.page.select_option("#layer", "1")
    page.choose(7, 41)
    old, new = ({kind: matrix[row, 7] for kind, matrix in values.items()} for row in (40, 41))
    drawn = {
        "lstm": lambda: {
            "c": old["cell"],
            "f": new["forget"],
            "f × c": new["forget"] * old["cell"],
            "i": new["input"],
            "g": new["candidate"],
            "i × g": new["input"] * new["candidate"],
            "c′": new["cell"],
            "o": new["output"],
            "tanh c′": math.tanh(new["cell"]),
            "h′": new["hidden"],
        },
        "gru": lambda: {
            "h": old["hidden"],
            "z": new["update"],
            "z × h": new["update"] * old["hidden"],
            "1 − z": 1 - new["update"],
            "g": new["candidate"],
            "(1 − z) × g": (1 - new["update"]) * new["candidate"],
            "h′": new["hidden"],
        },
        "rnn": lambda: {"h": old["hidden"], "h′": new["hidden"]},
    }[model]()
    labels = page.page.locator("#cell text").evaluate_all("all => all.map((each) => each.textContent)")
    for name, value in drawn.items():
        (shown,) = numbers(labels[labels.index(name) + 1])
        assert math.isclose(shown, value, abs_tol=CLOSE), name
    for line in page.read("#formula").split("\n"):
        left, right = line.replace("−", "-").replace("×", "*").split(" = ")[-2:]
        if model != "rnn":
            assert math.isclose(eval(left.split(": ")[1]), eval(right), abs_tol=5 * CLOSE), line
        else:
            assert math.isclose(float(right), new["hidden"], abs_tol=CLOSE)


def test_arrows_are_as_thick_as_their_values(page, gateway):
    page.read_by("rnn")
    _, values = inspected(gateway, "rnn")
    found = {}
    for position in (5, 9, 17, 26, 40):
        page.choose(3, position)
        for sign, kind in ((1, "positive"), (-1, "negative")):
            hidden = [each for each in values["hidden"][position - 1 : position + 1, 3] if sign * each > 0]
            found |= dict(zip(map(abs, hidden), thicknesses(page, kind), strict=True))
    ordered = [found[value] for value in sorted(found)]
    assert ordered == sorted(ordered)
    assert ordered[-1] > ordered[0] + 2


def test_a_line_feed_can_be_pressed(page):
    page.read_by("lstm")
    # A line feed has two client rects: one at the end of its line, and one without width on the next line.
    token = page.page.locator("#tokens [aria-label='line feed']").nth(1)
    box = token.evaluate("token => { token.scrollIntoView(); return token.getClientRects()[0].toJSON(); }")
    page.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert token.get_attribute("aria-selected") == "true"


def test_the_unit_that_forgets_at_line_feeds_is_found(page):
    tokens = list("to be\nor not\nto be\nthat\n" * 3)
    ends = np.array([token == "\n" for token in tokens])
    gates = np.random.default_rng(0).uniform(0.4, 0.6, (len(tokens), 5))
    kinds = {kind: gates.copy() for kind in ("cell", "forget", "input", "candidate", "output")}
    kinds["forget"][:, 3] = np.where(ends, 0.02, 0.9)
    kinds["cell"][:, 3] = 6.5
    # The page compares models until its status is empty: it must not get one response of each kind.
    page.wait_for("")
    answer = made_up(tokens, gates, kinds, expected={"a": -0.1, "b": -2.5})
    page.page.route("**/v1/inspect", lambda route: route.fulfill(json=answer))
    page.page.reload()
    page.page.locator("#found:not([hidden])").wait_for()
    assert page.read("#resets .strip >> nth=0").split("\n") == ["Unit 3", "f is 0.020 at a line feed, 0.900 elsewhere"]
    assert page.page.input_value("#unit") == "3"
    assert "Unit 3 keeps 90.0% of its state from token to token, but 2.0% of it at a line feed" in page.read("#forget")
    texts = page.page.locator("#gates text").evaluate_all("all => all.map((each) => each.textContent)")
    assert texts[:3] == ["Forget gate f: 0.020", "0", "1"]
    assert texts[texts.index("Cell state c: 6.500") :][1:4] == ["−7", "0", "7"]
    page.page.locator("#resets .strip").nth(1).click()
    assert page.page.input_value("#unit") != "3"
    assert page.page.locator("#resets .strip").nth(1).get_attribute("aria-pressed") == "true"


def test_a_model_without_gates_says_so(page):
    page.read_by("gru")
    assert "A GRU has no cell state" in page.read("#cell-help")
    assert page.read("#forget-title") == "2. The update gate at a line feed"
    page.read_by("rnn")
    assert "neither cell state nor gates" in page.read("#forget-text")
    assert page.page.is_hidden("#gates")
    assert page.page.is_hidden("#resets")
    page.read_by("window")
    assert "recomputes its last 6 tokens for each new one" in page.read("#cell-help")
    assert page.page.is_hidden("#cell")
    assert page.page.is_hidden("#curves")
    assert page.page.locator("#next-tokens tr").count() > 1


def test_what_remains_of_a_changed_token_is_measured(page, gateway):
    page.read_by("lstm")
    page.page.locator("#memory-help", has_text="forget gates").wait_for()
    answer, _ = inspected(gateway, "lstm")
    ids = answer["token_ids"][:106]
    tokens = answer["tokens"][:106]
    others = [token for token in tokens if token != tokens[0]]
    most = max(others, key=lambda token: (others.count(token), -others.index(token)))
    assert f"with “{most.replace(' ', '␣')}” instead of “{tokens[0]}” at its beginning" in page.read("#memory-text")
    wanted = []
    for model in ("lstm", "gru", "rnn"):
        answer, _ = inspected(gateway, model, input=LINES[:106])
        ids = [answer["token_ids"][tokens.index(most)], *answer["token_ids"][1:]]
        other = inspected(gateway, model, input=ids)[0]["layers"][-1]["values"]
        for kind in ("cell", "hidden"):
            if kind in other:
                one = np.array(answer["layers"][-1]["values"][kind][-1])
                wanted.append(100 * np.linalg.norm(one - other[kind][-1]) / np.linalg.norm(one))
    titles = page.page.locator("#differences .title").evaluate_all("all => all.map((each) => each.textContent)")
    assert [title.split(",")[0] for title in titles] == ["lstm", "lstm", "gru", "rnn"]
    for title, share in zip(titles, wanted, strict=True):
        (shown,) = re.findall(r"([\d.]+)% in the end", title)
        assert math.isclose(float(shown), share, abs_tol=0.7 if share >= 10 else 0.15), title


@pytest.mark.parametrize("text", ["aaaa", "a"])
def test_a_text_of_equal_tokens_has_none_to_change(open_lesson, text):
    page = open_lesson(text)
    page.page.locator("#memory-text", has_text="All tokens of the text are the same").wait_for()
    assert page.page.is_hidden("#notice")
    assert page.page.locator("#next-tokens tr").count() > 1


def test_the_curve_of_a_simple_rnn_is_labeled_where_none_is_served(page, gateway):
    models = gateway.get("/v1/models")[1]
    models["data"] = [{**model, "corpus": "shakespeare"} for model in models["data"] if model["id"] == "lstm"]
    page.page.route("**/v1/models", lambda route: route.fulfill(json=models))
    page.page.reload()
    page.page.locator("#memory-help", has_text="Its curve was measured earlier").wait_for()
    last = page.page.locator("#differences .title").last
    assert last.evaluate("each => each.textContent") == "SimpleRNN, earlier: hidden state, 0.1% in the end"
    assert "“␣” instead of “[” at its beginning" in page.read("#memory-text")


def test_temperature_scales_the_apis_probabilities(page, gateway):
    page.read_by("lstm")
    page.choose(0, 30)
    answer, _ = inspected(gateway, "lstm", logprobs=20)
    top = sorted(answer["top_logprobs"][31].items(), key=lambda item: -item[1])
    for heat in (0.5, 1.0, 2.0):
        page.page.locator("#heat").evaluate(
            "(range, heat) => { range.value = heat; range.dispatchEvent(new Event('input')); }", heat
        )
        assert page.read("#heated") == f"T = {heat}"
        heated = np.exp([logprob / heat for _, logprob in top])
        heated /= heated.sum()
        rows = page.page.locator("#next-tokens tr").all_inner_texts()
        assert len(rows) == 8
        for line, (_, logprob), share in zip(rows, top, heated, strict=False):
            model, sampled = (float(part.strip("%")) for part in line.split()[-2:])
            assert math.isclose(model, 100 * math.exp(logprob), abs_tol=0.1)
            assert math.isclose(sampled, 100 * share, abs_tol=0.1)
    page.click("#sample")
    page.page.locator("#samples p").nth(2).wait_for()
    body = {"model": "lstm", "prompt": answer["token_ids"][:31], "max_tokens": 80, "n": 3, "seed": 1, "temperature": 2}
    texts = [choice["text"] for choice in gateway.post(body)[1]["choices"]]
    assert page.page.locator("#samples p").evaluate_all("all => all.map((each) => each.textContent)") == texts


def test_the_token_is_found_at_which_a_unit_remembers_in_silence(page, gateway):
    page.read_by("lstm")
    page.choose(5, 0)
    _, values = inspected(gateway, "lstm")
    silent = np.abs(np.tanh(values["cell"][:, 5])) - np.abs(values["hidden"][:, 5])
    place = int(page.read("#silent").split()[-1])
    assert silent[place] >= silent.max() - CLOSE
    cell, hidden, output = (number(values[kind][place, 5]) for kind in ("cell", "hidden", "output"))
    assert f"remembers c = {cell}, but says only h = {hidden}: its output gate is {output}" in page.read("#states-text")
    page.click("#silent")
    assert page.page.locator("#tokens [aria-selected=true]").get_attribute("data-position") == str(place)


def number(value):
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


@pytest.mark.parametrize("model", ["lstm", "reverse"])
def test_a_text_is_read_in_both_directions(page, gateway, model):
    page.read_by(model)
    page.choose(4, 0)
    first = "end" if model == "reverse" else "start"
    assert page.read("#onward-name") == f"Cell state c of unit 4, read from the {first}"
    for strip, backwards in (("onward", False), ("backward", True)):
        cell = inspected(gateway, model, go_backwards=backwards)[1]["cell"][:, 4]
        pixels = page.page.locator(f"#{strip}").evaluate(
            "(canvas) => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, 1).data]"
        )
        red, _, blue, _ = np.array(pixels).reshape(-1, 4).T.astype(int)
        clear = np.abs(cell) > 0.5 * np.quantile(np.abs(cell), 0.9)
        assert clear.sum() > 20
        assert ((red > blue) == (cell > 0))[clear].all(), strip


def test_tokens_are_reached_by_buttons_and_keys(page):
    page.read_by("lstm")
    page.choose(0, 10)
    page.click("#next")
    page.page.locator("#tokens").press("ArrowRight")
    assert page.page.locator("#tokens [aria-selected=true]").get_attribute("data-position") == "12"
    page.click("#previous")
    assert page.page.locator("#tokens [aria-selected=true]").get_attribute("data-position") == "11"


def test_the_field_of_the_unit_shows_the_unit_that_is_selected(page):
    page.page.fill("#unit", "99999")
    page.page.locator("#unit").blur()
    number = int(page.page.input_value("#unit"))
    assert 0 < number < 99999
    assert page.read("#step-text").startswith(f"Unit {number} ")


def test_each_stop_has_a_link(page):
    page.page.locator("#found:not([hidden])").wait_for()
    links = page.page.locator(".stops a").evaluate_all("all => all.map((link) => link.getAttribute('href'))")
    titles = [page.page.locator(f"{link} h2").inner_text() for link in links]
    assert [title[:2] for title in titles] == ["1.", "2.", "3.", "4.", "5."]
    page.page.goto(page.url + "learn" + quote(links[3], safe="#"))
    page.page.locator("#temperature").wait_for()
    page.wait_for("")
    assert page.page.evaluate("scrollY") > 500


def test_a_failed_request_is_sent_again_by_retry(page):
    """And then one press goes on by one token."""
    page.page.route("**/v1/inspect", lambda route: route.abort())
    page.page.reload()
    page.wait_for_notice("cannot be reached")
    page.wait_for("")
    page.page.unroute("**/v1/inspect")
    page.click("#retry")
    page.page.locator("#found:not([hidden])").wait_for()
    page.choose(0, 10)
    page.click("#next")
    assert page.page.locator("#tokens [aria-selected=true]").get_attribute("data-position") == "11"
    page.excuse_failed_loads()


def test_the_failure_of_a_model_that_was_left_is_not_shown(page):
    held = []
    page.read_by("lstm")
    page.page.route("**/v1/inspect", lambda route: route.continue_() if held else held.append(route))
    page.page.select_option("#model", "gru")
    while not held:
        page.page.wait_for_timeout(50)
    page.read_by("rnn")
    with page.page.expect_event("requestfailed"):
        held[0].abort()
    page.page.wait_for_timeout(300)
    assert page.page.is_hidden("#notice")
    page.excuse_failed_loads()


def test_without_models_it_says_how_to_train_one(page):
    page.page.route("**/v1/models", lambda route: route.fulfill(json={"object": "list", "data": []}))
    page.page.reload()
    page.page.locator("#none:not([hidden])", has_text="Train the first one").wait_for()
    assert page.page.is_hidden("#found")


def test_user_input_is_never_run_as_html(open_lesson):
    evil = "<img src=x onerror=window.ran=1>\u202e🐈\n" * 3
    page = open_lesson(evil)
    page.read_by("lstm")
    assert page.page.locator("#tokens").evaluate("node => node.textContent") == evil
    assert page.page.evaluate("window.ran") is None


@pytest.mark.parametrize("look", LOOKS)
def test_the_page_is_accessible(open_lesson, look):
    page = open_lesson(**look)
    for model in ("lstm", "gru", "rnn", "window"):
        page.read_by(model)
        page.click("#sample")
        page.page.locator("#samples p").nth(2).wait_for()
        assert page.violations() == []
        assert page.fits()
    assert page.hosts <= {page.url.rstrip("/"), "data:"}


def test_samples_stay_until_their_token_or_temperature_changes(page):
    page.read_by("lstm")
    page.choose(0, 10)
    page.click("#sample")
    page.page.locator("#samples p").nth(2).wait_for()
    page.click("#theme")
    page.page.fill("#unit", "3")
    assert page.page.locator("#samples p").count() == 3
    page.click("#next")
    assert page.page.locator("#samples p").count() == 0


def test_samples_of_another_temperature_are_not_shown(page):
    held = []
    page.page.route("**/v1/completions", lambda route: held.append(route))  # noqa: PLW0108 - Playwright marks it
    page.click("#sample")
    while not held:
        page.page.wait_for_timeout(50)
    page.page.locator("#heat").evaluate("range => { range.value = 2; range.dispatchEvent(new Event('input')); }")
    with page.page.expect_response("**/v1/completions"):
        held[0].continue_()
    page.page.wait_for_timeout(300)
    assert page.read("#heated") == "T = 2.0"
    assert page.page.locator("#samples p").count() == 0
