"""The inspector in a real browser: it shows what the API returns, and never runs user input."""

import base64
import json
import math
import re
from urllib.parse import quote, unquote

import numpy as np
import pytest

from tests.conftest import TEXT
from tests.pages import LOOKS, PHONE, Inspector, made_up

# The API returns values as float16; the page shows three digits.
CLOSE = 2e-3
SHOWN_AS = {
    "hidden": "Hidden state h",
    "cell": "Cell state c (remember)",
    "forget": "Forget gate f",
    "input": "Input gate i",
    "candidate": "Candidate g",
    "output": "Output gate o",
    "update": "Update gate z",
    "reset": "Reset gate r",
}


@pytest.fixture
def open_inspector(open_page):
    return lambda gateway, hash_="", **how: open_page(Inspector, gateway, hash_, **how)


@pytest.fixture
def page(open_inspector, gateway):
    return open_inspector(gateway)


def inspected(gateway, model, text, **fields):
    status, answer = gateway.post({"model": model, "input": text, **fields}, "/v1/inspect")
    assert status == 200, answer
    return answer


def seen(text):
    """Return a text as the page shows it."""
    return text.replace(" ", "␣").replace("\n", "⏎")


def number(value, digits=3):
    """Return a number as the page shows it."""
    return f"{value:.{digits}f}".replace("-", "−")


def answer_with(page, answer):
    """Fulfill the page's requests to /v1/inspect with this response."""
    body = json.dumps(answer)
    page.page.route("**/v1/inspect", lambda route: route.fulfill(body=body, content_type="application/json"))


def test_the_values_of_a_token_equal_the_apis(page, gateway):
    for model in ("gru", "lstm", "rnn"):
        compare_numbers(page, gateway, model)


def compare_numbers(page, gateway, model):
    """Compare what the page shows of a token with the response of the API."""
    text = TEXT[:60]
    page.look(model, text)
    answer = inspected(gateway, model, text)
    least = min(range(1, 60), key=answer["token_logprobs"].__getitem__)
    assert page.read("#detail-title").startswith(f"Token {least},"), "at first the token that was expected least"
    layer = answer["layers"][-1]
    page.page.select_option("#layer", str(layer["layer"]))
    page.page.fill("#unit", "7")
    page.page.locator("#tokens [data-position='41']").click()
    shown = page.numbers("#values")
    for kind, values in layer["values"].items():
        assert math.isclose(shown[SHOWN_AS[kind]], values[41][7], abs_tol=CLOSE), kind
    if model == "lstm":
        assert math.isclose(shown["Learn i⊙g"], shown["Input gate i"] * shown["Candidate g"], abs_tol=CLOSE)
    (mean,) = [mean for name, _, mean in page.rows("#values") if name == SHOWN_AS["hidden"]]
    assert math.isclose(float(mean.replace("−", "-")), np.mean(layer["values"]["hidden"][41]), abs_tol=CLOSE)
    assert set(shown) == {SHOWN_AS[kind] for kind in layer["values"]} | ({"Learn i⊙g"} if model == "lstm" else set())
    assert f"“{text[41]}”" in page.read("#detail-title").replace("␣", " ")
    alternatives = dict(page.rows("#alternatives"))
    for token, logprob in answer["top_logprobs"][41].items():
        assert (
            abs(float(alternatives[seen(token)].strip(" %").replace("less than ", "")) - 100 * math.exp(logprob)) <= 0.1
        )


def test_the_formula_of_a_cell_update_adds_up(page):
    for model in ("gru", "lstm", "reverse"):
        page.look(model, TEXT[:60])
        for place in (0, 30, 59):
            page.page.locator(f"#tokens [data-position='{place}']").click()
            assert page.read("#detail-title").startswith(f"Token {place},")
            lines = page.read("#formula").split("\n")
            assert len(lines) == (1 if model == "gru" else 2)
            for line in lines:
                left, right = line.split(": ")[1].replace("−", "-").replace("×", "*").split(" = ")
                assert math.isclose(eval(left), eval(right), abs_tol=5 * CLOSE), (model, line)


def test_a_held_unit_writes_what_the_api_returns(page, gateway):
    for model, given in (("lstm", {"prompt": TEXT[:31]}), ("reverse", {"suffix": TEXT[30:60]})):
        page.look(model, TEXT[:60])
        page.page.select_option("#kind", "cell")
        page.page.fill("#unit", "3")
        page.page.locator("#tokens [data-position='30']").click()
        page.page.locator("#hold-value").evaluate(
            "(range) => { range.value = range.max; range.dispatchEvent(new Event('input')); }"
        )
        other = page.page.locator("#elsewhere-form button")
        # One task at a time: the other buttons say so until it ends.
        hold = "other => { document.querySelector('#hold button').click(); return other.ariaDisabled; }"
        assert other.evaluate(hold) == "true"
        page.page.locator("#hold-results:not([hidden])").wait_for()
        page.page.locator("#status", has_text="tokens inspected.").wait_for()
        assert other.get_attribute("aria-disabled") == "false"
        body = {"model": model, **given, "max_tokens": 240, "temperature": 0.5, "seed": 1}
        held = {"layer": 1, "unit": 3, "kind": "cell", "set": float(page.page.input_value("#hold-value"))}
        for selector, interventions in (("#free", []), ("#held", [held])):
            shown = page.page.locator(selector).evaluate("(node) => node.textContent")
            assert shown == gateway.text(**body, interventions=interventions), (model, selector)
    page.page.select_option("#kind", "forget")
    assert page.page.locator("#intervention").is_hidden()
    page.look("window", TEXT[:30])
    assert page.page.locator("#intervention").is_hidden()
    page.page.locator("#tokens").press("Shift+ArrowRight")
    assert page.page.locator("#elsewhere").is_hidden()
    assert page.page.locator("#tokens .stretch").count() == 0


def test_positive_values_are_warm_colours_and_negative_ones_cold(page):
    tokens = list("abcdefghijklmnopqrstuvwxyz")
    units = np.zeros((26, 4))
    units[:, 0], units[13:, 1], units[:13, 1], units[5, 3] = 1, 1, -1, -1
    answer_with(page, made_up(tokens, units.tolist()))
    page.look("lstm", "".join(tokens))
    page.page.select_option("#color", "unit")
    page.page.fill("#unit", "1")
    colors = page.page.locator("#tokens > *").evaluate_all("all => all.map((token) => token.style.backgroundColor)")
    assert [is_warm(color) for color in colors] == [False] * 13 + [True] * 13
    for row in (2, 8, 20):
        assert [is_warm(page.cell(row, place)) for place in range(3)] == [True, row >= 13, None], row
    page.page.set_viewport_size(PHONE)
    widen = "(node) => { node.value = 20; node.dispatchEvent(new Event('input')); }"
    page.page.locator("#width").evaluate(widen)
    page.page.locator("#map").evaluate("map => { map.scrollLeft = 37; }")
    for row in (12, 13):
        cells = [is_warm(page.cell(row, place, width=20)) for place in range(3)]
        assert cells == [True, row >= 13, None], f"{row}, where it was scrolled to"
    page.page.select_option("#feature", "own")
    page.page.fill("#pattern", "[n-z]")
    page.click("#search button")
    page.page.locator("#units .strip").first.wait_for()
    page.page.select_option("#order", "correlation")
    # The unit that follows the feature, then the one that was cold once, then those that never change.
    assert [is_warm(page.cell(7, place, width=20)) for place in range(3)] == [False, None, True]


def is_warm(color):
    """Return whether a color is more red than blue; None if it is neither."""
    red, _, blue = map(int, re.findall(r"\d+", color)[:3])
    return None if abs(red - blue) < 8 else red > blue


def test_the_prediction_view_shows_the_most_probable_token_at_each_place(page, gateway):
    text = TEXT[:50] + "\n" + TEXT[:30]
    page.look("lstm", text)
    page.page.select_option("#color", "prediction")
    answer = inspected(gateway, "lstm", text, include=["hidden"])
    likeliest = [
        token if top is None else max(top, key=top.get) for token, top in zip(text, answer["top_logprobs"], strict=True)
    ]
    shown = page.page.locator("#tokens > *").evaluate_all("all => all.map((token) => token.textContent)")
    for token, said, found in zip(text, likeliest, shown, strict=True):
        assert found.replace("␣", " ").replace("⏎", "\n") == said + ("\n" if token == "\n" != said else "")
    differing = sum(token != said for token, said in zip(text, likeliest, strict=True))
    assert f"{differing} of {len(text)}" in page.read("#color-help")


PROSE = 'He said "yes" (twice [or so]), in 1859.\nThen ANN left: "no", she wrote (once).\n' * 6


def behind(text, feature):
    """Return a feature's value after each character, computed independently of the page."""
    values = []
    for end in range(1, len(text) + 1):
        read, last = text[:end], text[end - 1]
        values.append(
            {
                "line": len(read) - (read.rfind("\n") + 1),
                "word": len(re.search(r"\w*$", read).group()),
                "quotes": read.count('"') % 2,
                "brackets": sum(map(read.count, "([{")) - sum(map(read.count, ")]}")),
                "upper": last.isupper() and text[end - 2 : end - 1].isupper(),
                "capital": last.isupper(),
                "digit": last.isdigit(),
                "space": last.isspace(),
                "own": any(match.start() < end <= match.end() for match in re.finditer("she|ANN", text)),
            }[feature]
        )
    return np.array(values, float)


def test_the_search_finds_the_units_that_correlate_with_a_feature(page):
    names = ["upper", "line", "word", "quotes", "brackets", "capital", "digit", "space", "own"]
    rng = np.random.default_rng(0)
    units = rng.normal(size=(len(PROSE), 40))
    for unit, name in enumerate(names):
        sign = -1 if unit % 2 else 1
        units[:, 2 * unit] = sign * behind(PROSE, name) / 10 + 0.3
    # These follow quotes in the first half; in the second half one is noise and the other one the opposite.
    is_first = np.arange(len(PROSE)) < len(PROSE) / 2
    units[:, 39] = np.where(is_first, behind(PROSE, "quotes"), units[:, 39])
    units[:, 37] = np.where(is_first, 1, -1) * behind(PROSE, "quotes")
    answer_with(page, made_up(list(PROSE), units.tolist()))
    page.look("lstm", PROSE)
    for unit, name in enumerate(names):
        page.page.select_option("#feature", name)
        if name == "own":
            page.page.fill("#pattern", "she|ANN")
        page.click("#search button")
        wanted = "−1.00" if unit % 2 else "1.00"
        page.page.locator("#units .strip:first-child strong", has_text=f"{2 * unit}, layer 1, hidden").wait_for()
        strips = page.strips()
        assert strips[0] == (f"{2 * unit}, layer 1, hidden", f"{wanted}, {wanted} · holds"), name
        if name == "quotes":
            halves = [detail for label, detail in strips if label.startswith(("37,", "39,"))]
            assert [(detail.startswith("1.00, "), "holds" in detail) for detail in halves] == [(True, False)] * 2
            assert strips[-1][0].startswith("37,"), "the one whose sign changes is the last"
    page.page.locator("#units .strip").first.click()
    assert page.page.input_value("#unit") == "16"
    assert page.page.input_value("#color") == "unit"


def test_a_short_text_shows_no_chance_as_a_result(page):
    text = "one three two four nine " * 2
    answer_with(page, made_up(list(text), [[value] for value in behind(text, "word")]))
    page.look("lstm", text)
    assert page.read("#units-title").endswith("too short to tell them from chance")
    assert "holds" not in page.read("#units")
    assert page.page.is_hidden("#discoveries")


def test_other_places_where_a_unit_does_the_same_are_found(page, gateway, tmp_path):
    sent = []

    def inspect(route):
        """A unit is 1 within brackets; the other one rises from a to c."""
        body = json.loads(route.request.post_data)
        sent.append(body)
        tokens = list(body["input"])
        units = [[float(inside), "abc".find(token)] for token, inside in zip(tokens, within(tokens), strict=True)]
        answer = made_up(tokens, [[row[unit] for unit in body.get("units", (0, 1))] for row in units])
        route.fulfill(body=json.dumps(answer), content_type="application/json")

    def found(where, how="level"):
        page.page.select_option("#elsewhere-how", how)
        page.page.select_option("#elsewhere-where", where)
        page.click("#elsewhere-form button")
        page.page.locator("#elsewhere-status", has_text="found in").wait_for()
        return page.page.locator("#matches mark").all_inner_texts()

    page.page.route("**/v1/inspect", inspect)
    text = "One [two] three (not that) [four] and [much, much longer], abc [six]. abcd cba\n[a]"
    page.look("lstm", text)
    page.page.fill("#unit", "0")
    page.page.locator("#tokens [data-position='6']").click()
    assert page.read("#stretch").startswith("In the underlined 4 tokens, unit 0 stays above 0.")
    assert "".join(page.page.locator("#tokens .stretch").all_inner_texts()) == "[two"
    assert found("this") == ["[six", "[four"]
    ground = "getComputedStyle(document.querySelector('#matches a > span')).backgroundColor"
    light = page.page.evaluate(ground)
    page.click("#theme")
    assert page.page.evaluate(ground) != light
    page.click("#theme")
    assert sent[-1]["units"] == [0]
    page.page.locator("#matches a").last.click()
    assert page.read("#detail-title").startswith("Token 27,")
    assert "".join(page.page.locator("#tokens .stretch").all_inner_texts()) == "[four"
    (tmp_path / "other.txt").write_text("x" * 400 + "[five] and\n[<b>x] or [a]" + "y" * 400)
    page.page.set_input_files("#elsewhere-file", tmp_path / "other.txt")
    assert found("file") == ["[five", "[<b>x"]
    assert "[five]⏎" not in page.read("#matches")
    link = page.page.locator("#matches a").first.get_attribute("href")
    shown = json.loads(unquote(link.partition("#")[2]))
    assert (shown["unit"], shown["text"][shown["position"] :][:5], len(shown["text"])) == (0, "[five", 300 + 5 + 299)
    page.page.fill("#unit", "1")
    page.page.locator(f"#tokens [data-position='{text.index('abc')}']").click()
    page.page.keyboard.press("Shift+ArrowRight")
    page.page.keyboard.press("Shift+ArrowRight")
    assert "".join(page.page.locator("#tokens .stretch").all_inner_texts()) == "abc"
    assert found("this", "shape")[0] == "abc"
    page.page.unroute("**/v1/inspect")
    page.look("lstm", TEXT[:60])
    page.page.locator("#tokens [data-position='6']").click()
    found("written")
    written = "\n\n".join(
        choice["text"]
        for choice in gateway.post({"model": "lstm", "n": 6, "max_tokens": 1000, "temperature": 0.5, "seed": 1})[1][
            "choices"
        ]
    )
    assert f"found in {len(written):,} tokens" in page.read("#elsewhere-status")


def test_a_link_to_another_place_has_whole_characters(page):
    """Whose bytes may be several tokens."""
    tokens = ["[", "bytes:\\xe2\\x82", "bytes:\\xac", "]", "x"] * 4
    inside = [[float(token not in "]x")] for token in tokens]

    def inspect(route):
        route.fulfill(body=json.dumps(made_up(tokens, inside)), content_type="application/json")

    page.page.route("**/v1/inspect", inspect)
    page.look("lstm", "[€]x" * 4, backwards=True)
    page.page.route("**/v1/completions", lambda route: route.fulfill(json={"choices": [{"text": "[€]x" * 4}]}))
    page.click("#elsewhere-form button")
    page.page.locator("#elsewhere-status", has_text="found in").wait_for()
    link = page.page.locator("#matches a").first
    shown = json.loads(unquote(link.get_attribute("href").partition("#")[2]))
    assert (shown["text"], shown["go_backwards"]) == ("[€]x" * 4, True)
    assert "bytes" not in link.inner_text()


def test_a_file_to_search_must_be_text(page):
    page.look("lstm", TEXT[:60])
    page.page.set_input_files("#elsewhere-file", {"name": "old.txt", "mimeType": "", "buffer": b"gr\xfc\xdfe"})
    page.page.select_option("#elsewhere-where", "file")
    page.click("#elsewhere-form button")
    page.wait_for_notice("old.txt is not text in UTF-8.")


def test_a_search_that_ends_after_another_token_was_selected_shows_nothing(page):
    """Its results are those of the token before."""
    text, held = "One [two] and [four]", []
    inside = [float(each) for each in within(list(text))]

    def inspect(route):
        is_search = "units" in json.loads(route.request.post_data)
        answer = json.dumps(made_up(list(text), [[each] if is_search else [each, 0.0] for each in inside]))
        if is_search:
            held.append(lambda: route.fulfill(body=answer, content_type="application/json"))
        else:
            route.fulfill(body=answer, content_type="application/json")

    page.page.route("**/v1/inspect", inspect)
    page.look("lstm", text)
    page.page.fill("#unit", "0")
    page.page.locator("#tokens [data-position='6']").click()
    page.click("#elsewhere-form button")
    while not held:
        page.page.wait_for_timeout(50)
    page.page.locator("#tokens [data-position='16']").click()
    held[0]()
    page.page.locator("#inspect:enabled").wait_for()
    assert "".join(page.page.locator("#tokens .stretch").all_inner_texts()) == "[four"
    assert (page.page.locator("#matches li").count(), page.read("#elsewhere-status")) == (0, "")


def test_a_text_with_a_unit_held_is_not_shown_for_another_unit(page):
    held = []
    page.look("lstm", TEXT[:60])
    page.page.fill("#unit", "3")
    page.page.route("**/v1/completions", lambda route: held.append(route))  # noqa: PLW0108 - Playwright marks it
    page.click("#hold button")
    while len(held) < 2:
        page.page.wait_for_timeout(50)
    page.page.fill("#unit", "4")
    for route in held:
        route.continue_()
    page.page.locator("#inspect:enabled").wait_for()
    assert page.read("#hold-help").startswith("Unit 4 ")
    assert page.page.is_hidden("#hold-results")


def within(tokens):
    """Return for each character whether a square bracket is open after it."""
    depths = np.cumsum([{"[": 1, "]": -1}.get(token, 0) for token in tokens])
    return depths > 0


def test_the_page_opens_with_an_analysis(page):
    assert len(page.page.input_value("#text")) >= 400
    assert page.page.input_value("#color") == "unit"
    (name, detail), *_ = page.strips("#discoveries")
    unit = re.match(r"unit (\d+), (\w+),", detail).groups()
    assert page.read("#color-help").startswith(f"Unit {unit[0]} of layer")
    assert page.page.locator("#discoveries .strip").first.get_attribute("aria-pressed") == "true"
    assert len(page.strips()) == 12
    before = page.page.locator("#tokens > *").nth(50).evaluate("token => token.style.backgroundColor")
    page.page.locator("#units .strip[aria-pressed=false]").last.click()
    page.page.locator("#units .strip:last-child[aria-pressed=true]").wait_for()
    assert page.page.locator("#tokens > *").nth(50).evaluate("token => token.style.backgroundColor") != before
    assert name


def test_the_page_opens_with_an_analysis_after_a_retry(page):
    page.page.route("**/v1/models", lambda route: route.fulfill(status=429, json={"error": {"message": "too many"}}))
    page.page.goto(page.url + "models")
    page.page.goto(page.url + page.path)
    page.wait_for_notice("Too many.")
    page.page.unroute("**/v1/models")
    page.click("#retry")
    page.page.locator("#status", has_text="tokens inspected.").wait_for()
    page.excuse_failed_loads()


def test_discoveries_of_the_card_are_shown_first(page, gateway):
    units = np.random.default_rng(0).normal(size=(len(PROSE), 8))
    answer_with(page, made_up(list(PROSE), units.tolist()))
    facts = {"layer": 1, "kind": "hidden", "ranked": -0.6, "validated": -0.5}
    discoveries = [{**facts, "feature": "brackets", "unit": 3}, {**facts, "feature": "upper", "unit": 4}]
    models = gateway.get("/v1/models")[1]
    (model,) = [model for model in models["data"] if model["id"] == "lstm"]
    shown = {**model, "discoveries": discoveries, "version": 1, "corpus": "shakespeare"}
    page.page.route("**/v1/models", lambda route: route.fulfill(json={**models, "data": [shown]}))
    page.page.goto(page.url + "inspector#" + quote(json.dumps({"text": PROSE, "model": "lstm"})))
    page.page.locator("#discoveries .strip", has_text="Speech or stage direction").wait_for()
    page.page.locator("#status", has_text="tokens inspected.").wait_for()
    assert page.strips("#discoveries") == [
        ("Speech or stage direction", "unit 3, hidden, r −0.50"),
        ("Words in capitals", "unit 4, hidden, r −0.50"),
    ]
    assert page.read("#color-help").startswith("Unit 3 of layer 1")
    page.page.locator("#discoveries .strip").nth(1).click()
    page.page.locator("#units-title", has_text="in capitals").wait_for()
    assert page.read("#color-help").startswith("Unit 4 of layer 1")
    text = "no brackets here\n" * 9
    answer_with(page, made_up(list(text), [[0.1]] * len(text)))
    page.page.evaluate("document.querySelector('#change').open = true")
    page.look("lstm", text)
    offered = page.page.locator("#feature option").evaluate_all("all => all.map((option) => option.value)")
    assert offered == ["line", "word", "space", "sure", "own"]


def test_the_exporter_knows_the_features_of_the_page(open_inspector, gateway):
    from export.graphs.unit_search import FEATURES, KINDS, MIN_CORRELATION

    page = open_inspector(gateway)
    shared = page.page.evaluate(
        """async () => {
            const {KINDS_OF_FEATURES, MIN_CORRELATION} = await import('/static/features.js');
            return [KINDS_OF_FEATURES, MIN_CORRELATION];
        }"""
    )
    assert shared == [[*map(list, KINDS)], MIN_CORRELATION]
    text = PROSE + "“Ça va?” ÉTÉ_2 [(x]) «e\u0301t» \u16ee"
    for name, feature in FEATURES.items():
        along = page.page.evaluate(
            """async ([name, text]) => {
                const {featureOf} = await import('/static/features.js');
                return [...featureOf(name, {tokens: [...text], logprobs: []})];
            }""",
            [name, text],
        )
        assert along == [float(value) for value in feature(text)], name


def test_bytes_of_an_incomplete_character_are_no_text(page):
    """Their labels have digits and letters."""
    values = page.page.evaluate(
        r"""async () => {
            const {FEATURES, featureOf} = await import('/static/features.js');
            const tokens = ['a', 'bytes:\\xe2\\x82', 'bytes:\\xac', 'b'];
            return Object.keys(FEATURES).map((name) => [...featureOf(name, {tokens, logprobs: []})])
                .concat([[...featureOf('own', {tokens, logprobs: []}, '[0-9]')]]);
        }"""
    )
    assert values[-1] == [0, 0, 0, 0]
    assert [1, 1, 1, 2] in values, "position in the word"


def test_without_the_state_before_the_first_token_there_is_no_formula(page):
    """Before a text with labels, the model has read the labels."""
    made = """async (first) => {
        const {stepOf} = await import('/static/step.js');
        const matrix = () => ({at: () => 0.5});
        const found = {positions: [0, 1], tokens: ['a', 'b'], logprobs: [first, -1], kinds: () => ['cell'], matrix};
        return [0, 1].map((at) => stepOf(found, 1, at, 0, false)?.oldCell ?? null);
    }"""
    assert page.page.evaluate(made, None) == [0, 0.5]
    assert page.page.evaluate(made, -2.0) == [None, 0.5]


def test_the_first_half_chooses_a_discovery_of_the_page(page):
    rng, half = np.random.default_rng(0), len(PROSE) // 2
    line = behind(PROSE, "line") / behind(PROSE, "line").std()
    noise = rng.normal(size=(len(PROSE), 2))
    for second, chosen in ((1.0, [0]), (9.0, [])):
        amounts = np.where(np.arange(len(PROSE))[:, None] < half, [0.2, 0.6], [second, 0.2])
        matrix = (line[:, None] + amounts * noise).ravel().tolist()
        found = page.page.evaluate(
            """async ([text, values]) => {
                const {discover} = await import('/static/features.js');
                const matrices = new Map([['cell', {values: Float32Array.from(values), columns: 2}]]);
                const found = await discover({
                    tokens: [...text], logprobs: [], positions: [...text].map((_, position) => position),
                    layers: new Map([[1, {units: [0, 1], matrices}]]),
                });
                return found.filter(({feature}) => feature === 'line').map(({unit}) => unit);
            }""",
            [PROSE, matrix],
        )
        assert found == chosen


def test_a_search_without_results_says_why(page):
    page.look("lstm", TEXT[:60])
    page.page.select_option("#feature", "own")
    for pattern, said in (("(", "Invalid regular expression"), ("no such text", "no unit can correlate with it")):
        page.page.fill("#pattern", pattern)
        page.click("#search button")
        page.page.locator("#feature-help", has_text=said).wait_for()
        assert page.page.is_hidden("#units")
    page.page.fill("#pattern", "was")
    page.click("#search button")
    page.page.locator("#units .strip").first.wait_for()
    page.page.select_option("#order", "correlation")


def test_backwards_max_positions_and_max_units_match_the_api(page, gateway):
    text = TEXT[:60]
    page.look("lstm", text, backwards=True, max_positions=7, max_units=5)
    answer = inspected(gateway, "lstm", text, go_backwards=True, max_positions=7, max_units=5)
    place, unit = answer["positions"][3], answer["layers"][0]["units"][2]
    page.page.fill("#unit", str(unit))
    page.page.locator(f"#tokens [data-position='{place}']").click()
    assert math.isclose(
        page.numbers("#values")["Hidden state h"], answer["layers"][0]["values"]["hidden"][3][2], abs_tol=CLOSE
    )
    page.page.select_option("#color", "unit")
    painted = page.page.locator("#tokens > *").evaluate_all(
        "all => all.map((token) => token.style.backgroundColor !== 'transparent')"
    )
    assert [place for place, is_painted in enumerate(painted) if is_painted] == answer["positions"]
    page.page.locator(f"#tokens [data-position='{place + 1}']").click()
    assert page.read("#gates-title") == "No values for this token: excluded by Max positions shown"
    page.page.fill("#unit", str(unit + 1))
    page.page.locator("#unit").blur()
    assert page.page.input_value("#unit") == str(unit)


def test_arrow_keys_lead_to_the_next_unit_of_the_response(page, gateway):
    page.look("lstm", TEXT[:60], max_units=3)
    units = [str(unit) for unit in inspected(gateway, "lstm", TEXT[:60], max_units=3)["layers"][0]["units"]]
    page.page.fill("#unit", units[0])
    shown = []
    for key in ("ArrowUp", "ArrowUp", "ArrowUp", "ArrowDown"):
        page.page.locator("#unit").press(key)
        shown.append(page.page.input_value("#unit"))
    assert shown == [units[1], units[2], units[2], units[1]]


def test_a_sliding_window_model_shows_only_its_top_outputs(page):
    page.look("window", TEXT)
    assert page.page.locator("#kind option").all_inner_texts() == ["Top outputs"]
    tokens = page.page.locator("#tokens > *").evaluate_all("all => all.map((token) => token.textContent)")
    assert "".join(tokens) == TEXT


def test_the_embedding_view_shows_a_map_and_the_apis_neighbors(page, gateway):
    page.look("lstm", TEXT[:60])
    page.page.locator("#tokens [data-position='0']").click()
    page.click("#embedding summary")
    token = "I"
    for _ in range(2):
        neighbors = gateway.get(f"/v1/models/lstm/embedding/neighbors?token={quote(token)}")[1]["data"]
        page.wait_for(f"Nearest to {seen(token)}", "#embedding caption")
        shown = [[seen(neighbor["token"]), number(neighbor["cosine"])] for neighbor in neighbors]
        assert page.rows("#neighbors") == shown
        page.page.locator("#neighbors button").first.click()
        token = neighbors[0]["token"]
    box = page.page.locator("#plane").bounding_box()
    page.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.page.locator("#embedding caption", has_text="Nearest to").wait_for()


def test_downloads_contain_the_heatmap_and_all_values(page, gateway, tmp_path):
    page.look("lstm", TEXT[:60])
    for button, name in (("#png", "lstm-1-layer1-hidden.png"), ("#json", "lstm-1-layer1-hidden.json")):
        with page.page.expect_download() as download:
            page.click(button)
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
    content = (tmp_path / "lstm-1-layer1-hidden.png").read_bytes()
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    assert content.startswith(b"\x89PNG")
    assert (width, height) >= (60, 24)
    told = json.loads((tmp_path / "lstm-1-layer1-hidden.json").read_bytes())
    answer = inspected(gateway, "lstm", TEXT[:60])
    assert told["tokens"] == answer["tokens"]
    for kind, values in answer["layers"][0]["values"].items():
        assert np.allclose(told["layers"][0]["values"][kind], values, atol=CLOSE), kind


LONGEST = """async (count) => {
    const [{Heatmap}, {Matrix}, {TokenView}, {indexOfMin}] = await Promise.all(
        ['components/heatmap', 'inspection', 'components/token_view', 'format']
            .map((name) => import(`/static/${name}.js`)));
    const list = document.createElement('div');
    new TokenView(list, () => {}).show(Array(count).fill('a'));
    const logprobs = Array.from({length: count}, (_, place) => place ? -place % 1000 : null);
    const map = new Heatmap(document.createElement('div'), {});
    const matrix = new Matrix(Float32Array.from({length: 4 * count}, (_, i) => i % 4 - 1.5), 4, true);
    map.show({matrix, order: [0, 1, 2, 3], labels: Array(count).fill('a'), width: 1, curves: [], row: 0, column: 0});
    const {blob, tokensPerPixel} = await map.picture('title');
    const {width, height} = await createImageBitmap(blob);
    return [list.childElementCount, indexOfMin(logprobs), blob.type, width, height, tokensPerPixel];
}"""


def test_the_longest_prompt_stays_within_browser_limits(page):
    """131,072 tokens exceed neither the arguments of one call nor the width of a canvas."""
    found = page.page.evaluate(LONGEST, 131_072)
    assert found == [131_072, 999, "image/png", 131_072 // 8, 4 * 10 + 32, 8]


def test_the_status_says_when_a_picture_has_several_tokens_per_pixel(page):
    page.page.evaluate("() => { HTMLElement.prototype.click = () => {}; }")  # No download.
    page.page.route("**/v1/inspect", lambda route: route.fulfill(json=made_up(["a"] * 16_385, [[0.5, 0.1]] * 16_385)))
    page.page.fill("#text", "a")
    page.page.press("#text", "Control+Enter")
    page.wait_for("16385 tokens inspected.")
    page.page.locator("#png").dispatch_event("click")
    page.page.locator("#status", has_text="each pixel is the mean of 2 tokens").wait_for()


def test_a_malformed_response_is_reported_and_the_page_stays_usable(page):
    page.page.route("**/v1/inspect", lambda route: route.fulfill(json=made_up(["a"] * 3, [[0.5]] * 3, positions=None)))
    page.page.fill("#text", "abc")
    page.click("#inspect")
    page.wait_for_notice("An error occurred on this page")
    assert (page.page.is_enabled("#inspect"), page.page.is_enabled("#stop"), page.read("#status")) == (True, False, "")
    page.page.unroute("**/v1/inspect")
    page.complaints.clear()
    page.look("lstm", TEXT[:20])
    assert page.page.is_hidden("#notice")


def test_a_failed_download_is_reported(page):
    page.look("lstm", TEXT[:20])
    page.page.evaluate("() => { HTMLCanvasElement.prototype.toBlob = (done) => done(null); }")
    page.click("#png")
    page.wait_for_notice("This browser cannot create an image")
    page.page.evaluate("() => { JSON.stringify = () => { throw new Error('no memory'); }; }")
    page.click("#json")
    page.wait_for_notice("no memory")
    page.complaints.clear()


def test_an_embedding_that_failed_to_load_is_requested_again(page):
    page.look("lstm", TEXT[:20])
    page.page.route("**/embedding/map*", lambda route: route.abort())
    page.click("#embedding summary")
    page.wait_for_notice("cannot be reached")
    page.excuse_failed_loads()
    page.page.unroute("**/embedding/map*")
    page.click("#embedding summary")
    page.click("#embedding summary")
    page.page.locator("#embedding-help", has_text="principal components").wait_for()


def test_an_embedding_is_shown_after_a_retry(page):
    page.look("lstm", TEXT[:20])
    for failing, shown in (("map*", "#embedding-help"), ("neighbors*", "#neighbors tr")):
        page.page.route(f"**/embedding/{failing}", lambda route: route.abort())
        page.click("#embedding summary" if failing == "map*" else "#tokens [data-position='2']")
        page.wait_for_notice("cannot be reached")
        page.page.unroute(f"**/embedding/{failing}")
        page.click("#retry")
        page.page.locator(shown).filter(has_text=re.compile(".")).first.wait_for()
    neighbor = page.page.locator("#neighbors button").last
    caption = f"Nearest to {neighbor.inner_text()}"
    neighbor.press("Enter")
    page.page.get_by_text(caption, exact=True).wait_for()
    assert page.page.evaluate("document.activeElement.closest('#neighbors') !== null")
    page.excuse_failed_loads()


@pytest.mark.slow
def test_gates_of_a_long_text_are_loaded_on_demand(page, gateway):
    text = (TEXT * 400)[:30_000]
    page.look("lstm", text)
    assert "Forget gate f" not in page.numbers("#values")
    page.click("#gates")
    page.page.locator("#values tr", has_text="Forget gate f").wait_for()
    assert page.page.is_hidden("#gates")
    place = int(page.read("#detail-title").split()[1].strip(","))
    answer = inspected(gateway, "lstm", text[: place + 1], return_sequences=False)
    values = answer["layers"][0]["values"]
    unit = int(page.page.input_value("#unit"))
    assert math.isclose(page.numbers("#values")["Forget gate f"], values["forget"][0][unit], abs_tol=CLOSE)


@pytest.mark.slow
def test_the_page_handles_5000_tokens_and_two_layers_of_512_units(page):
    rng = np.random.default_rng(0)
    packed = base64.b64encode(rng.normal(0, 0.5, (5000, 512)).astype("<f2").tobytes()).decode()
    layers = [
        {"layer": layer, "units": list(range(512)), "values": {"hidden": packed, "cell": packed}} for layer in (1, 2)
    ]
    tokens = list((PROSE * 20)[:5000])
    answer_with(page, made_up(tokens, [[0.0]] * 5000, layers=layers))
    page.look("lstm", "".join(tokens))
    assert page.page.locator("#tokens > *").count() == 5000
    canvas = page.page.locator("#map canvas")
    assert page.page.evaluate("document.querySelector('#map').scrollWidth") >= 50_000
    assert canvas.bounding_box()["width"] <= 1280
    for layer in ("2", "1"):
        page.page.select_option("#layer", layer)
        page.page.evaluate("document.querySelector('#map').scrollLeft = 49000")
    page.page.locator("#map").press("End")
    assert page.read("#detail-title").startswith("Token 4999")
    page.click("#search button")
    page.page.locator("#units .strip").first.wait_for()


def test_arrow_keys_move_through_the_heatmap_and_the_text(page):
    page.look("lstm", TEXT[:60])
    plot, text = page.page.locator("#map"), page.page.locator("#tokens")
    page.page.fill("#unit", "0")
    plot.press("Home")
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowDown", "ArrowDown", "ArrowUp"):
        plot.press(key)
    assert page.read("#detail-title").startswith("Token 1,")
    assert page.page.input_value("#unit") == "1"
    assert page.read("#pointed").startswith("Unit 1 after token 1")
    text.press("End")
    assert page.read("#detail-title").startswith("Token 59,")
    text.press("ArrowLeft")
    assert page.page.locator("#tokens [aria-selected=true]").get_attribute("data-position") == "58"


def test_arrow_keys_follow_the_direction_of_the_text(page):
    page.look("lstm", "\u05d1 " + TEXT[:20])
    page.page.locator("#tokens [data-position='6']").click()
    page.page.locator("#tokens").press("ArrowLeft")
    assert page.read("#detail-title").startswith("Token 7,")
    page.page.locator("#tokens").press("Shift+ArrowLeft")
    assert page.page.locator("#tokens .stretch").count() == 2


def test_a_shared_link_restores_the_view(page, open_inspector, gateway):
    page.click("#share")
    page.page.locator("#status", has_text="It contains the text, the model and the settings").wait_for()
    assert json.dumps(page.page.input_value("#text"), ensure_ascii=False)[1:-1] in page.page.evaluate(
        "decodeURIComponent(location.hash)"
    )
    page.look("gru", TEXT[:60])
    page.page.select_option("#layer", "2")
    page.page.select_option("#kind", "update")
    page.page.fill("#unit", "9")
    page.page.select_option("#color", "unit")
    page.page.locator("#tokens [data-position='13']").click()
    told = page.read("#pointed"), page.read("#values")
    page.click("#share")
    page.page.locator("#status", has_text="It contains the text, the model and the settings").wait_for()
    again = open_inspector(gateway, page.page.evaluate("location.hash"))
    again.wait_for("60 tokens inspected.")
    assert (again.read("#pointed"), again.read("#values")) == told
    assert again.page.input_value("#color") == "unit"


def test_invisible_characters_are_shown_by_their_codes(page):
    """A token of them would be a blank that nobody can point at."""
    shown = page.page.evaluate("""async () => {
        const { textOf, visible } = await import('/static/format.js');
        const shown = visible('a\\u200b\\u00a0\\u202eb c');
        return [shown, textOf(['x', 'bytes:\\\\xf0\\\\x9f\\\\x98', 'bytes:\\\\x80', 'é'])];
    }""")
    assert shown == ["aU+200BU+00A0U+202Eb␣c", "x😀é"]


def test_an_inspection_can_be_stopped(page):
    page.page.route("**/v1/inspect", lambda route: None)
    page.click("#inspect")
    page.click("#stop")
    page.wait_for("Stopped.")
    page.page.locator("#text").press("Control+Enter")
    page.wait_for("Inspecting…")
    page.page.keyboard.press("Escape")
    page.wait_for("Stopped.")
    page.page.unroute("**/v1/inspect")
    page.look("lstm", TEXT[:60])


def test_errors_are_shown_and_disappear(page):
    page.page.select_option("#model", "lstm")
    for text, said in (("", "The text is empty"), ("x" * 140_000, "at most 131072")):
        page.page.fill("#text", text)
        page.click("#inspect")
        page.wait_for_notice(said)
    page.page.route("**/v1/inspect", lambda route: route.abort())
    page.page.fill("#text", TEXT[:60])
    page.click("#inspect")
    page.wait_for_notice("The server cannot be reached")
    page.page.unroute("**/v1/inspect")
    page.look("lstm", TEXT[:60])
    assert page.page.is_hidden("#notice")
    page.excuse_failed_loads()


def test_user_input_is_never_run_as_html(open_inspector, gateway):
    evil = "<img src=x onerror=window.ran=1><script>window.ran=1</script>\u202e\u0000🐈 שלום مرحبا"
    page = open_inspector(gateway, "#" + json.dumps({"text": evil, "kind": evil, "model": evil, "layer": evil}))
    assert page.page.input_value("#text") == evil
    page.wait_for_notice("not")
    tops = [None, {evil: -1.0}, {evil: -1.0}]
    answer_with(page, made_up([evil] * 3, [[0.5], [0.1], [0.3]], top_logprobs=tops, model=evil))
    page.look("lstm", evil)
    page.page.select_option("#color", "prediction")
    page.page.locator("#tokens [data-position='1']").click()
    page.click("#search button")
    assert page.page.locator("#tokens").evaluate("node => node.textContent") == evil * 3
    assert page.page.evaluate("window.ran") is None
    page.excuse_failed_loads()


@pytest.mark.parametrize("look", LOOKS)
def test_the_page_is_accessible(open_inspector, gateway, look):
    page = open_inspector(gateway, **look)
    assert page.violations() == []
    page.look("lstm", TEXT * 3)
    page.click("#search button")
    page.page.locator("#units .strip").first.wait_for()
    page.click("#embedding summary")
    page.page.locator("#neighbors tr").first.wait_for()
    for painted in ("probability", "prediction", "unit"):
        page.page.select_option("#color", painted)
        assert page.violations() == []
    assert page.fits()
    assert page.hosts <= {page.url.rstrip("/"), "data:", "blob:"}
