"""The playground in a real browser: generating, stopping, branching, sharing, errors and security."""

import json
import re
import shutil
import signal
import subprocess
import sys
from urllib.parse import quote

import pytest

from tests.access import keys
from tests.conftest import TEXT
from tests.pages import LOOKS, PATIENCE_MS, PHONE, Playground
from tests.paths import ROOT
from tests.waiting import until


@pytest.fixture
def open_playground(open_page):
    return lambda gateway, hash_="", **how: open_page(Playground, gateway, hash_, **how)


@pytest.fixture
def page(open_playground, gateway):
    return open_playground(gateway)


FIELDS = {"model": "lstm", "temperature": "0.9", "max_tokens": "60", "seed": "3"}
ASKED = {"model": "lstm", "temperature": 0.9, "max_tokens": 60, "seed": 3}


def test_the_page_generates_the_apis_text(page, gateway):
    whole = gateway.text(prompt=TEXT[:20], **ASKED)
    assert page.write(TEXT[:20], **FIELDS) == whole
    assert page.page.locator(".token").count() == 60
    assert "60 tokens" in page.page.inner_text(".statistics")
    assert "seed 3" in page.page.inner_text(".statistics")
    assert page.hosts <= {page.url.rstrip("/"), "data:"}
    assert page.read(".text .legend") == "expected\nsurprise: 0.1% or less"
    page.page.locator(".statistics a").click()
    page.page.locator("#status", has_text="80 tokens inspected.").wait_for()
    assert page.page.input_value("#text") == TEXT[:20] + whole


def test_generate_is_pressed_from_within_a_field(open_playground, gateway):
    """The help text of a field disappears with the focus; the button must not move away from under the pointer."""
    # Below the button there is room, so it follows the fields.
    page = open_playground(gateway, viewport={"width": 1280, "height": 1100})
    page.page.locator("#seed-0").click()
    page.page.keyboard.type("3")
    box = page.page.locator("#generate").bounding_box()
    page.page.mouse.click(box["x"] + 5, box["y"] + box["height"] - 3)
    page.wait_for("Done.")


def test_ctrl_enter_generates_and_escape_stops(page):
    page.set(**{**FIELDS, "max_tokens": "2000"})
    page.page.locator("#max_tokens-0").evaluate("node => { node.max = 1e6; node.value = 90000; }")
    page.page.fill("#prompt", TEXT[:20])
    page.page.keyboard.press("Control+Enter")
    page.page.locator(".token").nth(20).wait_for()
    page.page.keyboard.press("Escape")
    page.wait_for("Stopped.")
    assert page.page.is_enabled("#generate")
    assert len(page.text()) > 20
    assert re.search(r"seed \d+ · incomplete", page.page.inner_text(".statistics"))


def test_arrow_keys_reach_each_tokens_alternatives(page):
    text = page.write(TEXT[:20], **FIELDS)
    page.page.locator(".token").nth(10).focus()
    for key, place in (("Enter", 11), (" ", 12)):
        page.page.keyboard.press("ArrowRight")
        page.page.keyboard.press(key)
        page.page.locator("#token:popover-open").wait_for()
        assert page.read("#token-title").strip("“”").replace("␣", " ").replace("⏎", "\n") == text[place]
        page.page.keyboard.press("Escape")


def test_arrow_keys_follow_the_direction_of_the_text(page):
    """In a text that is written from right to left, the next token is to the left."""
    page.write("\u05d1", **FIELDS)
    place = "document.activeElement.dataset.position"
    page.page.locator(".token").nth(10).focus()
    page.page.keyboard.press("ArrowLeft")
    assert page.page.evaluate(place) == "11"
    page.page.keyboard.press("Enter")
    page.page.keyboard.press("ArrowLeft")
    assert page.page.locator(".token.opened").get_attribute("data-position") == "12"
    page.page.locator("#token").press("ArrowRight")
    assert page.page.locator(".token.opened").get_attribute("data-position") == "11"


def test_choosing_an_alternative_token_branches_the_text(page):
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
    page.click("#code")
    assert page.page.is_visible("#code-help")
    page.page.keyboard.press("Escape")
    branched = page.text()
    # A line feed has no width that a pointer could click.
    later = next(position for position in range(20, len(branched)) if not branched[position].isspace())
    page.page.locator(".token").nth(later).click()
    page.page.locator("#token tbody tr.chosen button").click()
    page.wait_for("Done.")
    assert page.text()[: later + 1] == branched[: later + 1]
    page.page.locator(".token").nth(3).click()
    page.page.locator("#token tbody tr").last.locator("button").click()
    page.wait_for("Done.")
    assert page.text()[:3] == whole[:3]


def test_a_text_continues_as_one_longer_request_would(page, gateway):
    """By its resume token; after Stop, which no token follows, by one that is computed again."""
    whole = gateway.text(prompt=TEXT[:20], **{**ASKED, "max_tokens": 180})
    assert page.page.is_hidden("#continue")
    assert page.write(TEXT[:20], **FIELDS) == whole[:60]
    for length in (120, 180):
        page.click("#continue")
        page.wait_for("Done.")
        assert page.text() == whole[:length]
    assert "60 tokens of 180" in page.read(".statistics")
    page.click("#code")
    assert '"max_tokens":180' in page.read("#code-text")
    assert page.page.is_hidden("#code-help")
    page.page.keyboard.press("Escape")
    page.set(max_tokens="1")
    page.click("#continue")
    page.page.locator(".statistics", has_text="1 token of 181").wait_for()
    page.wait_for("Done.")
    page.set(max_tokens="90000")
    page.click("#generate")
    page.page.locator(".token").nth(200).wait_for()
    page.page.keyboard.press("Escape")
    page.wait_for("Stopped.")
    stopped = page.text()
    page.set(max_tokens="40")
    page.click("#continue")
    page.wait_for("Done.")
    length = len(stopped) + 40
    assert page.text() == gateway.text(prompt=TEXT[:20], **{**ASKED, "max_tokens": length})


def test_a_text_continues_after_its_end_in_another_line(page):
    choice = {"index": 0, "text": "end", "logprobs": None, "finish_reason": "stop", "state": "x"}
    body = f"data: {json.dumps({'seed': 1, 'choices': [choice]})}\n\ndata: [DONE]\n\n"
    page.page.route("**/v1/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    page.page.fill("#prompt", "the ")
    for button in ("#generate", "#continue"):
        page.click(button)
        page.wait_for("Done.")
    assert page.page.locator(".output .line").all_text_contents() == ["the end", "end"]
    page.click("#code")
    assert page.page.is_visible("#code-help")


def test_a_link_generates_the_same_text_again(page, open_playground, gateway):
    page.write(TEXT[:20], **{**FIELDS, "seed": ""})
    page.click("#continue")
    page.wait_for("Done.")
    for position, number in ((70, 1), (90, 0)):
        page_rows(page, position)
        page.page.locator("#token tbody button").nth(number).click()
        page.wait_for("Done.")
    text = page.text()
    page.click("#share")
    page.page.locator("#status", has_text="It contains the text").wait_for()
    again = open_playground(gateway, page.page.evaluate("location.hash"))
    again.wait_for("Done.")
    assert again.text() == text
    assert again.page.input_value("#seed-0") == ""
    page.page.goto(page.url + "models")
    page.page.goto(page.url)
    page.wait_for("Done.")
    assert page.text() == text


@pytest.mark.parametrize(
    "values",
    [{"stop": "e"}, {"model": "rnn", "seed": "5"}, {"pattern": "regex", "regex": "([a-z]{1,9}! )+"}],
    ids=["stop", "end", "pattern"],
)
def test_a_link_continues_the_same_text_after_the_same_end(page, open_playground, gateway, values):
    """A stop string and an EOS token are no tokens of the text, and Max tokens limits how a match ends."""
    page.write("It was", **{**FIELDS, **values})
    first = page.text()
    page.click("#continue")
    page.wait_for("Done.")
    text = page.text()
    assert len(text) > len(first)
    page.click("#code")
    assert page.page.is_visible("#code-help"), "one request would return another text"
    page.page.wait_for_timeout(300)
    again = open_playground(gateway, "#" + page.page.url.partition("#")[2])
    again.wait_for("Done.")
    assert again.text() == text


def test_a_link_keeps_the_settings_of_each_request(page, open_playground, gateway):
    """Whatever is selected since; another prompt has no text yet."""
    first = page.write(TEXT[:20], **FIELDS)
    page.set(temperature="1.5", min_p="0.02")
    page.click("#continue")
    page.wait_for("Done.")
    page.set(temperature="0", min_p="0")
    page_rows(page, 90)
    page.page.locator("#token tbody button").nth(1).click()
    page.wait_for("Done.")
    text = page.text()
    page.set(temperature="0.3")
    page.page.wait_for_timeout(300)
    address = page.page.url
    page.page.fill("#prompt", "the ")
    page.page.wait_for_timeout(300)
    before = page.page.locator(".branches a").first.get_attribute("href")
    texts = []
    for link in (address, before, page.page.url):
        again = open_playground(gateway, "#" + link.partition("#")[2])
        texts.append((again.text(), again.page.input_value("#temperature-0"), again.page.input_value("#prompt")))
    assert texts[0] == (text, "0.3", TEXT[:20])
    assert (texts[1][0][:60], texts[1][0][60:90]) == (first, text[60:90])
    assert texts[1][1:] == ("0.9", TEXT[:20])
    assert texts[2] == ("", "0.3", "the ")


def test_a_title_has_the_settings_of_the_request(page):
    """Not those that were selected before its response arrived."""
    held = []
    page.set(**FIELDS)
    page.page.route("**/v1/completions", lambda route: held.append(route))  # noqa: PLW0108 - Playwright marks it
    page.click("#generate")
    while not held:
        page.page.wait_for_timeout(50)
    page.set(temperature="1.5")
    held[0].continue_()
    page.wait_for("Done.")
    assert page.page.text_content(".column h2") == "1: lstm, temperature 0.9"


def test_the_seed_of_a_text_can_be_reused(page):
    text = page.write("the ", **{**FIELDS, "seed": ""})
    button = page.page.get_by_role("button", name="Reuse seed")
    button.click()
    assert f"seed {page.page.input_value('#seed-0')} " in page.page.locator(".statistics").inner_text()
    assert button.is_hidden()
    page.click("#generate")
    page.wait_for("Done.")
    assert page.text() == text


def test_undo_restores_the_text_that_a_branch_replaced(page, open_playground, gateway):
    first = page.write("the ", **FIELDS)
    text = page.write(TEXT[:20], **FIELDS)
    page_rows(page, 10)
    page.page.locator("#token tbody button").last.click()
    page.wait_for("Done.")
    branch = page.text()
    assert branch != text
    rows = page.page.locator(".branches a")
    label, *lines = branch[10].replace(" ", "␣"), *(re.sub(r"\s+", " ", line) for line in (text, branch[11:]))
    assert rows.all_text_contents() == [f"First text {lines[0]}", f"Token 11: {label} {lines[1]}"]
    assert rows.nth(1).get_attribute("aria-current") == "true"
    assert page.violations() == []
    undo = page.page.get_by_role("button", name="Undo")
    undo.click()
    assert page.text() == text
    assert page.page.locator(".token.parting").evaluate_all("all => all.map(({dataset}) => dataset.position)") == ["10"]
    rows.nth(1).click()
    assert page.text() == branch
    again = open_playground(gateway, "#" + rows.nth(1).get_attribute("href").partition("#")[2])
    again.wait_for("Done.")
    assert again.text() == branch
    undo.click()
    page.click("#continue")
    page.wait_for("Done.")
    assert page.text() == gateway.text(prompt=TEXT[:20], **{**ASKED, "max_tokens": 120})
    undo.click()
    assert page.text() == first
    assert undo.is_hidden()


def test_a_special_token_is_no_branch(page):
    """Its name would be read as text."""
    text = page.write("It was", **{**FIELDS, "model": "rnn", "seed": "1"})
    row = page.page.locator("#token tbody tr:has(th:text-matches('<(end|unk|pad)>'))").first
    for position in range(30):
        page_rows(page, position)
        if row.count():
            break
    row.locator("button").click()
    assert "is a token without text" in page.wait_for_notice("Cannot branch here")
    assert page.text() == text


def test_a_branch_is_not_tried_again_in_another_text(page):
    page.write("the ", **FIELDS)
    page_rows(page, 40)
    page.page.locator("#token tbody button").last.click()
    page.wait_for("Done.")
    page_rows(page, 20)
    page.page.route("**/v1/completions", lambda route: route.abort())
    page.page.locator("#token tbody button").last.click()
    page.wait_for_notice("cannot be reached")
    page.page.get_by_role("button", name="Undo").click()
    assert page.page.is_hidden("#notice")
    assert page.page.is_hidden("#retry")
    page.excuse_failed_loads()


def test_all_branches_of_a_branch_stay_in_the_tree(page):
    page.write("the ", **{**FIELDS, "max_tokens": "3"})
    for number in range(21):
        page_rows(page, 1)
        page.page.locator("#token tbody button").nth(number % 2).click()
        page.wait_for("Done.")
    rows = page.page.locator(".branches a")
    assert rows.count() == 22
    assert rows.last.get_attribute("aria-current") == "true"


def test_the_focus_stays_where_a_button_disappears(page):
    from playwright.sync_api import expect

    def press(button):
        button.focus()
        page.page.keyboard.press("Enter")

    page.write("the ", **{**FIELDS, "seed": "", "max_tokens": "5"})
    undo, reuse = (page.page.get_by_role("button", name=name) for name in ("Undo", "Reuse seed"))
    press(page.page.locator("#continue"))
    page.page.locator(".token").nth(9).wait_for()
    page.wait_for("Done.")
    expect(page.page.locator("#continue")).to_be_focused()
    press(reuse)
    expect(page.page.locator(".statistics a")).to_be_focused()
    page.page.locator(".token").nth(2).focus()
    page.page.keyboard.press("Control+Enter")
    expect(page.page.locator(".output")).to_be_focused()
    page.wait_for("Done.")
    page_rows(page, 1)
    page.page.locator("#token tbody button").nth(1).click()
    page.wait_for("Done.")
    for place in (0, 1):
        press(page.page.locator(".branches a").nth(place))
        expect(page.page.locator(".branches a").nth(place)).to_be_focused()
    for _ in range(2):
        press(undo)
    expect(page.page.locator(".statistics a")).to_be_focused()
    page.page.route("**/v1/completions", lambda route: route.abort())
    page.click("#generate")
    page.wait_for_notice("cannot be reached")
    page.page.unroute("**/v1/completions")
    press(page.page.locator("#retry"))
    page.wait_for("Done.")
    expect(page.page.locator("#generate")).to_be_focused()
    page.excuse_failed_loads()


def test_characters_that_the_model_does_not_know_are_underlined(page):
    """And counted; each is asked about once, and a model of words has none."""
    page.set(model="lstm")
    asked = []
    page.page.on("request", lambda request: asked.append(request.post_data_json) if "tokenize" in request.url else None)
    page.page.fill("#prompt", "It %was% <b>Ünder\nworst")
    page.wait_for("5 characters are not in the vocabulary of lstm: % < > Ü", "#prompt-unknown")
    assert page.page.locator("#prompt-marks u").all_text_contents() == ["%", "%", "<", ">Ü"]
    assert page.page.locator("#prompt-marks").evaluate("marks => marks.textContent") == "It %was% <b>Ünder\nworst\n"
    page.page.fill("#prompt", "It %z")
    page.wait_for("2 characters are not in the vocabulary of lstm: % z", "#prompt-unknown")
    assert [body["prompt"] for body in asked] == ["It %was<b>Ünder\no", "z"]
    page.set(model="words")
    page.page.locator("#prompt-unknown").wait_for(state="hidden")
    assert page.page.locator("#prompt-marks u").count() == 0
    page.page.route("**/tokenize", lambda route: route.abort())
    page.set(model="gru")
    page.page.fill("#prompt", "It Ü")
    assert page.write("It Ü", **{**FIELDS, "model": "gru"}) != ""
    assert page.page.locator("#prompt-marks u").count() == 0
    page.excuse_failed_loads()


def test_a_late_answer_marks_no_other_prompt(page):
    page.set(model="lstm")
    held = []
    page.page.route("**/tokenize", lambda route: route.continue_() if held else held.append(route))
    page.page.fill("#prompt", "It %")
    while not held:
        page.page.wait_for_timeout(50)
    page.page.fill("#prompt", "It was <")
    page.wait_for("1 character is not in the vocabulary of lstm: <", "#prompt-unknown")
    with page.page.expect_response("**/tokenize"):
        held[0].continue_()
    page.page.wait_for_timeout(300)
    assert page.page.locator("#prompt-marks").evaluate("marks => marks.textContent") == "It was <\n"
    assert page.page.locator("#prompt-marks u").all_text_contents() == ["<"]


def test_a_failed_request_destroys_no_text(page, gateway):
    text = page.write(TEXT[:20], **FIELDS)
    refusal = {"error": {"message": "the queue is full", "type": "server_error", "param": None, "code": "overloaded"}}
    page.page.route("**/v1/completions", lambda route: route.fulfill(status=429, json=refusal))
    page.click("#generate")
    assert page.wait_for_notice("The queue is full.")
    assert page.page.locator(".deck").get_by_role("button", name="Retry").is_visible()
    assert page.text() == text
    page.page.unroute("**/v1/completions")
    page.set(seed="4")
    page.click("#retry")
    page.wait_for("Done.")
    assert page.page.is_hidden("#notice")
    assert page.text() == gateway.text(prompt=TEXT[:20], **{**ASKED, "seed": 4})
    page.excuse_failed_loads()


def test_a_request_is_shown_as_code(page, gateway):
    prompt = 'It\'s "the" end\n'
    text = page.write(prompt, **{**FIELDS, "seed": ""}, allowed_characters="the best ")
    page.click("#code")
    shown = {}
    for language in page.page.locator("#request-code [role=group] button").all():
        language.click()
        shown[language.inner_text()] = page.read("#code-text")
    assert list(shown) == ["curl", "Python SDK", "OpenAI client", "JavaScript"]
    command = shown["curl"].replace("$SOSTENUTO_API_KEY", "none").replace("curl -N", "curl -sN")
    streamed = subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout
    chunks = [json.loads(line[6:]) for line in streamed.split("\n\n") if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == text
    for language, extra in (("Python SDK", ""), ("OpenAI client", "extra_body")):
        assert printed(shown[language]) == text, language
        assert extra in shown[language]
    body = json.loads(re.search(r"JSON.stringify\((.*)\),\n\}", shown["JavaScript"], re.DOTALL).group(1))
    assert gateway.post(body)[1]["choices"][0]["text"] == text
    # Parameters that are as by default are left out.
    assert list(body) == ["model", "prompt", "temperature", "max_tokens", "structured_outputs", "seed"]
    assert page.violations() == []


def printed(code):
    """Run a Python program, and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


# A discovery of the model `lstm`, as a version that was published with held-out text has it.
DISCOVERY = {"feature": "line", "layer": 1, "kind": "cell", "unit": 5, "ranked": 0.8, "validated": 0.7}


def with_discoveries(page, gateway, **facts):
    """Have the page see one model, with a discovery."""
    models = gateway.get("/v1/models")[1]
    models["data"] = [
        {**model, "discoveries": [DISCOVERY], **facts} for model in models["data"] if model["id"] == "lstm"
    ]
    page.route("**/v1/models", lambda route: route.fulfill(json=models))


def test_the_page_opens_with_a_text_in_the_colors_of_a_unit(browser, gateway):
    """It says what the unit tracks; See why opens the unit over this text, and Continue goes on."""
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    with_discoveries(page, gateway, corpus="book.txt")
    page.goto(f"http://127.0.0.1:{gateway.port}/")
    page.locator("#opening:not([hidden])").wait_for()
    assert "number 5: it tracks the position in the line, and nobody taught it that" in page.inner_text("#opening-text")
    tokens = page.locator(".output .token")
    text = "".join(tokens.evaluate_all("all => all.map((token) => token.textContent)"))
    assert tokens.count() == 320
    colors = "all => all.map((token) => token.style.backgroundColor)"
    assert len(set(tokens.evaluate_all(colors))) > 20
    grounds = "all => all.map((token) => getComputedStyle(token).backgroundColor)"
    light = tokens.evaluate_all(grounds)
    page.click("#theme")
    assert not set(light) & set(tokens.evaluate_all(grounds))
    page.click("#theme")
    assert page.is_hidden(".text .legend")
    page.route("**/v1/completions", lambda route: route.abort())
    page.click("#opening-continue")
    page.locator("#retry").wait_for()
    assert page.is_hidden("#opening")
    # Without the caption, the colors are those of the other legend.
    assert page.is_visible(".text .legend")
    assert set(tokens.evaluate_all(colors)) == {""}
    assert page.evaluate("document.activeElement.id") == "continue"
    page.unroute("**/v1/completions")
    page.click("#retry")
    page.locator(".token").nth(400).wait_for()
    page.locator("#status", has_text="Done.").wait_for()
    page.goto(page.url.partition("#")[0] + page.locator("#opening-why").get_attribute("href"))
    page.locator("#status", has_text="tokens inspected.").wait_for()
    assert page.input_value("#text") == text
    assert page.inner_text("#color-help").startswith("Unit 5 of layer 1, Cell state c")
    context.close()


def test_a_prompt_that_is_typed_while_models_load_stays(page, gateway):
    """What needs a model waits for it."""
    page, held = page.page, []
    page.route("**/v1/models", lambda route: held.append(route))  # noqa: PLW0108 - Playwright marks it
    page.evaluate("sessionStorage.clear()")
    page.goto("about:blank")
    page.goto(f"http://127.0.0.1:{gateway.port}/")
    page.fill("#prompt", "mine")
    page.click("#generate")
    page.click("#share")
    page.locator("#status", has_text="There is nothing to link to yet.").wait_for()
    assert [page.is_disabled(control) for control in ("#compare", "#code", "#settings")] == [True] * 3
    while not held:
        page.wait_for_timeout(50)
    models = gateway.get("/v1/models")[1]
    models["data"] = [{**model, "corpus": "shakespeare", "discoveries": [DISCOVERY]} for model in models["data"]]
    held[0].fulfill(json=models)
    page.locator("#model-0 option").first.wait_for(state="attached")
    page.wait_for_timeout(300)
    assert page.input_value("#prompt") == "mine"
    assert page.is_hidden("#notice")
    assert page.locator(".token").count() == 0
    assert [page.is_enabled(control) for control in ("#compare", "#code", "#settings")] == [True] * 3


def test_a_link_is_shown_after_a_retry(page):
    text = page.write(TEXT[:20], **FIELDS)
    page.page.wait_for_timeout(300)
    down = {"error": {"message": "no model server responds"}}
    page.page.route("**/v1/models", lambda route: route.fulfill(status=503, json=down))
    page.page.reload()
    page.wait_for_notice("No model server responds.")
    page.page.unroute("**/v1/models")
    page.click("#retry")
    page.wait_for("Done.")
    assert page.text() == text
    page.excuse_failed_loads()


@pytest.mark.parametrize(
    "text", [" be or.\nNot\n\nTHE KING:\nTo be,\nor", " be or.\nTHE KING:\nTo be,\nor"], ids=["paragraphs", "lines"]
)
def test_the_opening_begins_at_a_line(open_playground, gateway, text):
    page = open_playground(gateway).page
    with_discoveries(page, gateway, corpus="book.txt")
    sample = {"temperature": 0.5, "given": "to", "text": text}
    details = gateway.get("/v1/models/lstm")[1]
    details["versions"] = [{**version, "sample": sample} for version in details["versions"]]
    page.route("**/v1/models/lstm", lambda route: route.fulfill(json=details))
    page.evaluate("sessionStorage.clear()")
    page.goto("about:blank")
    page.goto(f"http://127.0.0.1:{gateway.port}/")
    page.locator("#opening:not([hidden])").wait_for()
    assert page.input_value("#prompt") == "THE KING:\n"
    page.locator("#model-0").dispatch_event("change", {"bubbles": True})
    assert page.is_hidden("#opening"), "it is about another model"


# Fields of the page, and of the API: each pattern, and what may be combined with one.
PATTERNS = [
    (
        {"pattern": "regex", "regex": r"[a-z]{5}\n?[a-z]{3,9}\.", "banned_characters": "o"},
        {"structured_outputs": {"regex": r"[a-z]{5}\n?[a-z]{3,9}\.", "banned_characters": "o"}},
    ),
    (
        {"pattern": "choice", "choice": "the best\n\nit was\\nworst\n", "regex": "(", "min_length": "7"},
        {"structured_outputs": {"choice": ["the best", "it was\nworst"]}, "min_length": 7},
    ),
    ({"pattern": "json", "json": '{"enum": [159, 185]}'}, {"structured_outputs": {"json": {"enum": [159, 185]}}}),
    (
        {"allowed_characters": "abcdefghij \\n", "regex": "("},
        {"structured_outputs": {"allowed_characters": "abcdefghij \n"}},
    ),
]


@pytest.mark.parametrize(("values", "fields"), PATTERNS, ids=["regex", "choice", "json", "characters"])
def test_a_pattern_is_that_of_the_api_and_part_of_the_link(page, open_playground, gateway, values, fields):
    text = page.write(TEXT[:20], **FIELDS, **values)
    assert text == gateway.text(prompt=TEXT[:20], **ASKED, **fields)
    assert text != gateway.text(prompt=TEXT[:20], **ASKED)
    assert not page.page.locator("#pattern-0").is_visible()
    page.click("#share")
    page.page.locator("#status", has_text="settings").wait_for()
    again = open_playground(gateway, page.page.evaluate("location.hash"))
    shown = [name for name in ("regex", "choice", "json") if again.page.locator(f"#{name}-0").is_visible()]
    assert shown == ([values["pattern"]] if "pattern" in values else [])
    again.click("#generate")
    again.wait_for("Done.")
    assert again.text() == text
    assert (again.page.input_value("#prompt"), again.page.input_value("#model-0")) == (TEXT[:20], "lstm")


def test_an_error_is_shown_beside_its_field(page):
    page.set(**FIELDS, pattern="regex", regex="(")
    for name, part, values in (
        ("regex", "structured_outputs.regex is not a valid regular expression", {"regex": "[a-z]{70}"}),
        ("max_tokens", "max_tokens must be at least 70", {"pattern": "", "allowed_characters": "É", "min_length": "2"}),
        ("allowed_characters", "needs characters that the model's vocabulary lacks", {"allowed_characters": "e"}),
    ):
        page.click("#generate")
        assert page.wait_for_notice(part).startswith(("structured_outputs.", "max_tokens "))
        field, error = page.page.locator(f"#{name}-0"), page.page.locator(f"#{name}-0-error")
        assert part in error.inner_text()
        assert field.get_attribute("aria-invalid") == "true"
        assert field.get_attribute("aria-describedby").split()[0] == f"{name}-0-error"
        assert page.page.locator(".error:visible").count() == 1
        assert page.violations() == []
        page.set(**values)
        assert page.page.is_hidden("#notice")
        if name in values:
            assert page.page.locator(".error:visible").count() == 0
            assert field.get_attribute("aria-invalid") is None
    assert page.write(TEXT[:20]) != ""
    assert page.page.locator(".error:visible").count() == 0
    page.excuse_failed_loads()


@pytest.mark.parametrize(
    ("how", "values"),
    [
        ({"viewport": PHONE}, {"max_tokens": "0"}),
        ({}, {"min_length": "-1"}),
        # Rounded, it would be another seed.
        ({}, {"seed": "9007199254740993"}),
    ],
    ids=["in a sheet", "in a closed group", "large seed"],
)
def test_an_invalid_field_is_shown(open_playground, gateway, how, values):
    from playwright.sync_api import expect

    page = open_playground(gateway, **how)
    page.page.route("**/v1/completions", lambda route: pytest.fail("sent"))
    page.set(**values)
    page.click("#generate")
    (name,) = values
    expect(page.page.locator(f"#{name}-0")).to_be_focused()


def test_an_empty_limit_of_tokens_is_the_pages_default(page):
    page.set(max_tokens="")
    assert page.page.get_attribute("#max_tokens-0", "placeholder") == "400"
    page.click("#code")
    assert '"max_tokens":400' in page.read("#code-text")


LETTERS = "[a-z]{5} [a-z]{5}"


@pytest.mark.parametrize("model", ["lstm", pytest.param("reverse", marks=pytest.mark.slow)])
def test_a_branch_continues_the_match(page, model):
    page.set(**{**FIELDS, "model": model, "temperature": "1.5"}, pattern="regex", regex=LETTERS)
    assert re.fullmatch(LETTERS, page.write("the end"))
    outcomes = set()
    for position in (0, 3, 5, 10):
        for number in range(page_rows(page, position)):
            before = page.text()
            token = page.page.locator("#token tbody tr").nth(number).locator("th").inner_text().replace("␣", " ")
            is_allowed = bool(re.fullmatch(" " if position == 5 else "[a-z]", token))
            page.page.locator("#token tbody button").nth(number).click()
            page.page.locator("#generate:enabled").wait_for()
            after = page.text()
            if is_allowed:
                assert re.fullmatch(LETTERS, after)
                ordered = [text[::-1] if model == "reverse" else text for text in (before, after)]
                assert ordered[1].startswith(ordered[0][:position] + token)
                assert ("completes the match" in page.read(".statistics")) == (position == 10)
            else:
                assert f"The pattern does not allow {token}" in page.read("#notice").replace("␣", " ")
                assert before == after
            outcomes.add((position == 10, is_allowed))
            page_rows(page, position)
        page.page.keyboard.press("Escape")
    assert outcomes == {(False, True), (False, False), (True, True), (True, False)}
    page.excuse_failed_loads()


def test_a_branch_that_completes_the_match_is_part_of_the_link(page, open_playground, gateway):
    page.write("the end", **{**FIELDS, "temperature": "1.5"}, pattern="regex", regex="[a-z]{4}")
    first = page.text()
    for number in range(page_rows(page, 3)):
        page.page.locator("#token tbody button").nth(number).click()
        page.page.locator("#generate:enabled").wait_for()
        if page.text() != first:
            break
        page_rows(page, 3)
    assert "completes the match" in page.read(".statistics")
    text = page.text()
    page.page.wait_for_timeout(300)
    again = open_playground(gateway, "#" + page.page.url.partition("#")[2])
    again.page.locator(".statistics", has_text="completes the match").wait_for()
    assert again.text() == text
    page.click("#continue")
    page.wait_for("Done.")
    assert re.fullmatch(re.escape(text) + "[a-z]{4}", page.text())
    page.excuse_failed_loads()


def page_rows(page, position):
    """Open the dialog of a token, and return the number of its alternatives."""
    # Not by a click: Playwright clicks an element's content, and that of a line feed has no width.
    page.page.locator(f".token[data-position='{position}']").press("Enter")
    page.page.locator("#token:popover-open").wait_for()
    return page.page.locator("#token tbody tr").count()


def test_on_a_phone_one_swipes_between_compared_completions(open_playground, gateway):
    page = open_playground(gateway, viewport={"width": 390, "height": 844})
    page.page.check("#compare")
    page.write("the ", **FIELDS)
    columns = page.page.locator("#columns")
    # The text that is beside the window does not scroll into it while it is generated.
    assert columns.evaluate("node => node.scrollLeft") == 0
    first, second = page.page.locator(".column").all()
    assert first.bounding_box()["y"] == second.bounding_box()["y"]
    columns.evaluate("node => node.scrollTo(1000, 0)")
    page.page.wait_for_function("document.querySelector('#columns').scrollLeft > 200")
    assert second.bounding_box()["x"] >= 0
    assert page.fits()
    # The sheet is that of the text in sight.
    page.click("#settings")
    assert page.page.is_visible("#temperature-1")
    assert page.page.is_hidden("#temperature-0")
    page.page.keyboard.press("Escape")
    page.click("#code")
    assert '"temperature":1,' in page.read("#code-text")


def test_compare_shows_two_completions_side_by_side(page, gateway):
    page.set(**FIELDS)
    page.page.check("#compare")
    page.set(1, temperature="0")
    page.page.fill("#prompt", TEXT[:20])
    page.page.click("#generate")
    page.wait_for("Done.")
    assert page.text(0) == gateway.text(prompt=TEXT[:20], **ASKED)
    assert page.text(1) == gateway.text(prompt=TEXT[:20], **{**ASKED, "temperature": 0})
    titles = page.page.locator(".column h2")
    assert titles.all_inner_texts() == ["1: lstm, temperature 0.9", "2: lstm, temperature 0"]
    # A title is about the text that is shown.
    page.set(1, temperature="1")
    assert titles.nth(1).inner_text() == "2: lstm, temperature 0"


def test_a_backward_model_generates_the_text_before_the_suffix(page, gateway):
    expected = gateway.text(suffix="the end", **{**ASKED, "model": "reverse"})
    assert page.write("the end", **{**FIELDS, "model": "reverse"}) == expected
    page.click("#code")
    page.page.locator("#request-code [role=group] button", has_text="OpenAI client").click()
    assert printed(page.read("#code-text")) == expected
    page.page.keyboard.press("Escape")
    assert page.page.inner_text("#prompt-label") == "Suffix"
    page.page.locator(".statistics a").click()
    page.page.locator("#status", has_text="67 tokens inspected.").wait_for()
    assert page.page.input_value("#text") == expected + "the end"


def test_a_text_keeps_the_direction_of_the_model_that_generated_it(page):
    whole = page.write("the end", **{**FIELDS, "model": "reverse"})
    page.set(model="lstm")
    link = page.page.locator(".statistics a").get_attribute("href")
    page_rows(page, 10)
    page.page.locator("#token tbody tr.chosen button").click()
    page.wait_for("Done.")
    assert page.text().endswith(whole[-11:])
    page.page.goto(page.url + link)
    page.page.locator("#status", has_text="67 tokens inspected.").wait_for()
    assert page.page.input_value("#model") == "reverse"
    assert page.page.input_value("#text") == whole + "the end"


def test_ctrl_enter_in_the_dialog_of_a_token_does_not_generate(page):
    page.write(TEXT[:20], **FIELDS)
    page_rows(page, 10)
    page.page.route("**/v1/completions", lambda route: pytest.fail("sent"))
    page.page.keyboard.press("Control+Enter")
    page.page.keyboard.press("Escape")
    assert page.page.inner_text("#status") == "Done."


def test_a_version_that_is_not_served_is_not_replaced(open_playground, gateway):
    shown = {"prompt": "a", "columns": [{**FIELDS, "model": "lstm:77"}]}
    page = open_playground(gateway, f"#{quote(json.dumps(shown))}")
    assert page.page.locator("#version-0 option:checked").inner_text() == "77 (not served)"
    page.click("#generate")
    page.wait_for_notice("77")
    page.excuse_failed_loads()


def test_a_text_that_is_too_long_for_the_address_is_there_again_when_the_tab_returns(page):
    page.page.fill("#prompt", "short")
    page.page.wait_for_function("() => location.hash.includes('short')")
    page.page.fill("#prompt", "ü" * 40_000)
    page.page.wait_for_function("() => !location.hash")
    page.page.goto(page.url + "models")
    page.page.goto(page.url)
    page.page.wait_for_function("() => document.getElementById('prompt').value")
    assert page.page.input_value("#prompt") == "ü" * 40_000


def test_the_skip_link_keeps_the_state_in_the_address(open_playground, gateway):
    from playwright.sync_api import expect

    page = open_playground(gateway)
    page.page.fill("#prompt", "remember me")
    page.click("#share")
    page.page.locator("#status", has_text="It contains the text").wait_for()
    link, url = page.page.evaluate("[location.hash, location.href]")
    page.page.locator(".skip").focus()
    page.page.keyboard.press("Enter")
    # Not wait_for_function: it compiles its condition at each poll, which the page's security policy refuses.
    expect(page.page.locator("#prompt")).to_be_focused()
    # The browser sets #prompt, and the page replaces it.
    expect(page.page).to_have_url(url)
    page.page.fill("#prompt", "something else")
    page.page.evaluate("link => { location.hash = ''; location.hash = link; }", link)
    expect(page.page.locator("#prompt")).to_have_value("remember me")


def test_the_page_asks_for_an_api_key(browser, start_gateway, key_file):
    from playwright.sync_api import expect

    key = keys(key_file, "add", "--tenant", "alice")
    gateway = start_gateway(keys_file=key_file)
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"http://127.0.0.1:{gateway.port}/")
    page.click("#key button[value='']")
    page.click("#retry")
    for given, refused in (("wrong", ""), (key, "The key was refused: the API key is invalid.")):
        page.wait_for_selector("#key[open]")
        expect(page.locator("#key-refused")).to_have_text(refused)
        assert page.is_visible("#key-refused") == bool(refused)
        page.fill("#key-value", given)
        page.click("#key button[value=use]")
    page.locator("#model-0 option").first.wait_for(state="attached")
    page.click("#generate")
    page.locator("#status", has_text="Done.").wait_for()
    assert key not in page.evaluate("JSON.stringify(localStorage) + location.href")
    context.close()


def test_a_malformed_event_is_reported_and_the_page_stays_usable(page, gateway):
    page.set(**FIELDS)
    events = iter(('{"seed": 1, "choices": [null]}', "<html>"))

    def answer(route):
        route.fulfill(body=f"data: {next(events)}\n\ndata: [DONE]\n\n", content_type="text/event-stream")

    for _ in range(2):
        page.page.route("**/v1/completions", answer)
        page.click("#generate")
        page.wait_for_notice("An error occurred on this page")
        assert (page.page.is_enabled("#generate"), page.page.is_enabled("#stop")) == (True, False)
        assert page.read("#status") == ""
        page.page.unroute("**/v1/completions")
        page.complaints.clear()
        assert page.write(TEXT[:20]) == gateway.text(prompt=TEXT[:20], **ASKED)


def test_if_one_of_two_completions_fails_the_other_can_be_stopped(page):
    """The page is busy until both have ended; otherwise a new completion would mix with the other one's tokens."""
    page.page.check("#compare")
    page.set(0, **{**FIELDS, "max_tokens": "2000"})
    page.page.locator("#max_tokens-0").evaluate("node => { node.max = 1e6; node.value = 90000; }")
    page.set(1, **FIELDS)
    page.page.locator("#temperature-1").evaluate("node => { node.type = 'text'; node.value = '9'; }")
    page.page.fill("#prompt", TEXT[:20])
    page.click("#generate")
    page.page.locator(".output").first.locator(".token").nth(20).wait_for()
    assert [page.page.is_enabled(button) for button in ("#generate", "#compare", "#stop")] == [False, False, True]
    page.click("#stop")
    page.page.locator("#generate:enabled").wait_for()
    assert page.page.is_enabled("#compare")
    page.excuse_failed_loads()
    num_tokens = page.page.locator(".token").count()
    page.page.wait_for_timeout(300)
    assert page.page.locator(".token").count() == num_tokens


def test_user_input_is_never_run_as_html(open_playground, gateway):
    evil = "<img src=x onerror=window.ran=1><script>window.ran=1</script>\u202e\u0000🐈 שלום"
    column = {"stop": evil, "pattern": "choice", "choice": evil, "regex": 5}
    page = open_playground(gateway, "#" + json.dumps({"prompt": evil, "columns": [column]}))
    assert page.page.input_value("#prompt") == evil
    lists = {"tokens": [evil], "token_logprobs": [-1.0], "top_logprobs": [{evil: -1.0}], "text_offset": [0]}
    choice = {"index": 0, "text": evil, "logprobs": lists, "finish_reason": "stop"}
    body = f"data: {json.dumps({'seed': 1, 'choices': [choice]})}\n\ndata: [DONE]\n\n"
    page.page.route("**/v1/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    page.page.click("#generate")
    page.wait_for("Done.")
    assert page.text() == evil
    page.page.locator(".token").first.click()
    assert page.page.locator("#token tbody tr").count() == 1
    assert page.page.evaluate("window.ran") is None


def test_errors_are_shown_and_disappear(page):
    page.set(**FIELDS)
    page.page.fill("#prompt", "x" * 200_000)
    page.click("#share")
    page.wait_for("The text is too long for a link.")
    page.page.route("**/v1/completions", lambda route: route.abort())
    page.page.click("#generate")
    page.wait_for_notice("The server cannot be reached")
    page.page.unroute("**/v1/completions")
    assert page.write(TEXT[:20]) != ""
    assert page.page.is_hidden("#notice")
    page.excuse_failed_loads()


@pytest.mark.parametrize("look", LOOKS)
def test_the_page_is_accessible(open_playground, gateway, look):
    page = open_playground(gateway, **look)
    page.page.check("#compare")
    assert page.violations() == []
    page.write(TEXT[:20], **{**FIELDS, "max_tokens": "20"})
    assert page.violations() == []
    assert page.fits()
    if page.page.is_visible("#settings"):
        page.show_settings()
        assert page.violations() == []
    page.page.locator("summary", has_text="Structured outputs").first.click()
    for pattern in ("regex", "choice", "json"):
        page.page.select_option("#pattern-0", pattern)
        assert page.violations() == []
        assert page.fits()
    page.page.keyboard.press("Escape")
    page.page.locator(".token").nth(3).click()
    assert page.violations() == []


def test_the_theme_is_the_systems_until_it_is_changed_and_persists(open_playground, gateway):
    page = open_playground(gateway, color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.page.evaluate(ground)
    page.page.emulate_media(color_scheme="light")
    until(lambda: page.page.evaluate(ground) != dark)
    page.page.emulate_media(color_scheme="dark")
    until(lambda: page.page.evaluate(ground) == dark)
    page.click("#theme")
    assert page.page.evaluate(ground) != dark
    assert page.page.get_attribute("#theme", "aria-pressed") == "false"
    page.page.goto(page.url + "inspector")
    assert page.page.evaluate(ground) != dark
    page.click("#theme")
    assert page.page.evaluate(ground) == dark


def test_the_page_survives_a_gateway_crash(open_playground, start_gateway):
    """The text generated so far stays, and after the gateway's restart the page generates again."""
    gateway = start_gateway()
    page = open_playground(gateway)
    page.set(**FIELDS)
    page.page.locator("#max_tokens-0").evaluate("node => { node.max = 1e6; node.value = 200000; }")
    page.click("#generate")
    page.page.locator(".token").nth(20).wait_for()
    worker = gateway.worker_pid
    gateway.end(signal.SIGKILL)
    subprocess.run(["kill", "-KILL", str(worker)], check=False)
    page.page.locator("#notice:not([hidden])").wait_for()
    assert re.search("cannot be reached|connection was lost", page.read("#notice"))
    assert len(page.text()) > 20
    page.click("#generate")
    page.wait_for_notice("cannot be reached")
    start_gateway(port=gateway.port)
    assert page.write(TEXT[:20], **FIELDS) != ""
    assert page.page.is_hidden("#notice")
    page.excuse_failed_loads()


@pytest.mark.slow
def test_a_model_removed_while_the_page_is_open_is_marked_not_served(
    open_playground, two_models_dir, own_model_server, start_gateway, tmp_path
):
    models_dir = shutil.copytree(two_models_dir, tmp_path / "models")
    gateway = start_gateway(repository=models_dir, backend=own_model_server(models_dir).port)
    page = open_playground(gateway)
    page.set(**FIELDS)
    command = [sys.executable, "-m", "export", "remove", "lstm", "--yes", "--models-dir", str(models_dir)]
    # Longer than the model server's poll interval of 0.25 s.
    command += ["--wait", "3"]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True, timeout=120)
    gateway.wait_until(lambda: [model["id"] for model in gateway.get("/v1/models")[1]["data"]] == ["words"])
    page.click("#generate")
    page.wait_for_notice("lstm")
    assert page.page.locator("#model-0 option").all_inner_texts() == ["lstm (not served)", "words"]
    assert page.write(TEXT[:20], model="words") != ""
    page.excuse_failed_loads()
