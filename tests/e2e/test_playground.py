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
from tests.pages import LOOKS, PATIENCE_MS, Playground
from tests.paths import ROOT


@pytest.fixture
def open_playground(open_page):
    return lambda gateway, hash_="", **how: open_page(Playground, gateway, hash_, **how)


FIELDS = {"model": "lstm", "temperature": "0.9", "max_tokens": "60", "seed": "3"}
ASKED = {"model": "lstm", "temperature": 0.9, "max_tokens": 60, "seed": 3}


def test_the_page_generates_the_apis_text(open_playground, gateway):
    """One element per token; statistics have seed and a link to the inspector; no other host is contacted."""
    page = open_playground(gateway)
    whole = gateway.text(prompt=TEXT[:20], **ASKED)
    assert page.write(TEXT[:20], **FIELDS) == whole
    assert page.page.locator(".token").count() == 60
    assert "60 tokens" in page.page.inner_text(".statistics")
    assert "seed 3" in page.page.inner_text(".statistics")
    assert page.hosts <= {page.url.rstrip("/"), "data:"}
    page.page.locator(".statistics a").click()
    page.page.locator("#status", has_text="80 tokens inspected.").wait_for()
    assert page.page.input_value("#text") == TEXT[:20] + whole


def test_ctrl_enter_generates_and_escape_stops(open_playground, gateway):
    page = open_playground(gateway)
    page.set(**{**FIELDS, "max_tokens": "2000"})
    page.page.locator("#max_tokens-0").evaluate("node => { node.max = 1e6; node.value = 90000; }")
    page.page.fill("#prompt", TEXT[:20])
    page.page.keyboard.press("Control+Enter")
    page.page.locator(".token").nth(20).wait_for()
    page.page.keyboard.press("Escape")
    page.wait_for("Stopped.")
    assert page.page.is_enabled("#generate")
    assert len(page.text()) > 20


def test_arrow_keys_reach_each_tokens_alternatives(open_playground, gateway):
    page = open_playground(gateway)
    text = page.write(TEXT[:20], **FIELDS)
    page.page.locator(".token").nth(10).focus()
    for key, place in (("Enter", 11), (" ", 12)):
        page.page.keyboard.press("ArrowRight")
        page.page.keyboard.press(key)
        page.page.locator("#token[open]").wait_for()
        assert page.read("#token-title").strip("“”").replace("␣", " ").replace("⏎", "\n") == text[place]
        page.page.keyboard.press("Escape")


def test_choosing_an_alternative_token_branches_the_text(open_playground, gateway):
    page = open_playground(gateway)
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
    (
        {"pattern": "json", "json": '{"enum": [159, 185]}'},
        {"structured_outputs": {"json": {"enum": [159, 185]}}},
    ),
    (
        {"allowed_characters": "abcdefghij \\n", "regex": "("},
        {"structured_outputs": {"allowed_characters": "abcdefghij \n"}},
    ),
]


@pytest.mark.parametrize(("values", "fields"), PATTERNS, ids=["regex", "choice", "json", "characters"])
def test_a_pattern_is_that_of_the_api_and_part_of_the_link(open_playground, gateway, values, fields):
    page = open_playground(gateway)
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


def test_an_error_is_shown_beside_its_field(open_playground, gateway):
    page = open_playground(gateway)
    page.set(**FIELDS, pattern="regex", regex="(")
    for name, part, values in (
        ("regex", "structured_outputs.regex is not a valid regular expression", {"regex": "[a-z]{70}"}),
        ("max_tokens", "max_tokens must be at least 70", {"pattern": "", "allowed_characters": "É", "min_length": "2"}),
        ("allowed_characters", "needs characters that the model's vocabulary lacks", {"allowed_characters": "e"}),
    ):
        page.click("#generate")
        page.wait_for_notice(part)
        field, error = page.page.locator(f"#{name}-0"), page.page.locator(f"#{name}-0-error")
        assert part in error.inner_text()
        assert field.get_attribute("aria-invalid") == "true"
        assert field.get_attribute("aria-describedby").split()[0] == f"{name}-0-error"
        assert page.page.locator(".error:visible").count() == 1
        assert page.violations() == []
        page.set(**values)
        if name in values:
            assert page.page.locator(".error:visible").count() == 0
            assert field.get_attribute("aria-invalid") is None
    assert page.write(TEXT[:20]) != ""
    assert page.page.locator(".error:visible").count() == 0
    page.excuse_failed_loads()


LETTERS = "[a-z]{5} [a-z]{5}"


@pytest.mark.parametrize("model", ["lstm", pytest.param("reverse", marks=pytest.mark.slow)])
def test_a_branch_continues_the_match(open_playground, gateway, model):
    page = open_playground(gateway)
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


def page_rows(page, position):
    """Open the dialog of a token, and return the number of its alternatives."""
    page.page.locator(f".token[data-position='{position}']").click()
    page.page.locator("#token[open]").wait_for()
    return page.page.locator("#token tbody tr").count()


def test_compare_shows_two_completions_side_by_side(open_playground, gateway):
    page = open_playground(gateway)
    page.set(**FIELDS)
    page.page.check("#compare")
    page.set(1, temperature="0")
    page.page.fill("#prompt", TEXT[:20])
    page.page.click("#generate")
    page.wait_for("Done.")
    assert page.text(0) == gateway.text(prompt=TEXT[:20], **ASKED)
    assert page.text(1) == gateway.text(prompt=TEXT[:20], **{**ASKED, "temperature": 0})


def test_a_backward_model_generates_the_text_before_the_suffix(open_playground, gateway):
    page = open_playground(gateway)
    expected = gateway.text(suffix="the end", **{**ASKED, "model": "reverse"})
    assert page.write("the end", **{**FIELDS, "model": "reverse"}) == expected
    assert page.page.inner_text("#prompt-label") == "Suffix"
    page.page.locator(".statistics a").click()
    page.page.locator("#status", has_text="67 tokens inspected.").wait_for()
    assert page.page.input_value("#text") == expected + "the end"


def test_a_text_keeps_the_direction_of_the_model_that_generated_it(open_playground, gateway):
    page = open_playground(gateway)
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


def test_a_stopped_completion_shows_its_seed(open_playground, gateway):
    page = open_playground(gateway)
    page.set(model="lstm", max_tokens="90000")
    page.page.check("#compare")
    page.page.click("#generate")
    page.page.locator(".token").nth(20).wait_for()
    assert page.page.is_disabled("#compare")
    page.page.keyboard.press("Escape")
    page.wait_for("Stopped.")
    assert re.search(r"seed \d+ · incomplete", page.page.inner_text(".statistics >> nth=0"))
    assert page.page.is_enabled("#compare")


def test_ctrl_enter_in_the_dialog_of_a_token_does_not_generate(open_playground, gateway):
    page = open_playground(gateway)
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


def test_a_malformed_event_is_reported_and_the_page_stays_usable(open_playground, gateway):
    page = open_playground(gateway)
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


def test_if_one_of_two_completions_fails_the_other_can_be_stopped(open_playground, gateway):
    """The page is busy until both have ended; otherwise a new completion would mix with the other one's tokens."""
    page = open_playground(gateway)
    page.page.check("#compare")
    page.set(0, **{**FIELDS, "max_tokens": "2000"})
    page.page.locator("#max_tokens-0").evaluate("node => { node.max = 1e6; node.value = 90000; }")
    page.set(1, **FIELDS)
    page.page.locator("#temperature-1").evaluate("node => { node.type = 'text'; node.value = '9'; }")
    page.page.fill("#prompt", TEXT[:20])
    page.click("#generate")
    page.page.locator(".output").first.locator(".token").nth(20).wait_for()
    assert (page.page.is_enabled("#generate"), page.page.is_enabled("#stop")) == (False, True)
    page.click("#stop")
    page.page.locator("#generate:enabled").wait_for()
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


def test_errors_are_shown_and_disappear(open_playground, start_gateway):
    """A prompt over the limit of tokens or bytes, also for a link, and an unreachable server; then the page works."""
    page = open_playground(start_gateway(max_prompt_tokens=50, max_body_bytes=2**16))
    page.set(**FIELDS)
    for length, bound in ((100, "at most 50 tokens, got 100"), (200_000, "65536")):
        page.page.fill("#prompt", "x" * length)
        page.click("#generate")
        page.wait_for_notice(bound)
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
    """No axe violation: at rest, with text, with patterns, with a dialog, with two columns; nothing overflows."""
    page = open_playground(gateway, **look)
    page.page.check("#compare")
    assert page.violations() == []
    page.write(TEXT[:20], **{**FIELDS, "max_tokens": "20"})
    assert page.violations() == []
    assert page.fits()
    page.page.locator("summary", has_text="Structured outputs").first.click()
    for pattern in ("regex", "choice", "json"):
        page.page.select_option("#pattern-0", pattern)
        assert page.violations() == []
        assert page.fits()
    page.page.locator(".token").nth(3).click()
    assert page.violations() == []


def test_the_theme_can_be_changed_and_persists(open_playground, gateway):
    page = open_playground(gateway, color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.page.evaluate(ground)
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
