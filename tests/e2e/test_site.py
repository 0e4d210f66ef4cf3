"""The documentation site in a real browser: copy buttons, and tables on a phone."""

import pytest

from tests.pages import DESKTOP, PHONE


@pytest.fixture
def open_site(browser, site):
    """A factory that opens pages of the site."""
    contexts = []

    def start(name, viewport):
        contexts.append(browser.new_context(viewport=viewport))
        page = contexts[-1].new_page()
        page.goto((site / name).as_uri())
        return page

    yield start
    for context in contexts:
        context.close()


def clipped(page, selector):
    """Return the beginnings of the elements whose content is wider than themselves."""
    wider = "nodes => nodes.filter((node) => node.scrollWidth > node.clientWidth).map((node) => node.innerText)"
    return [text[:80] for text in page.locator(selector).evaluate_all(wider)]


@pytest.mark.parametrize("name", ["index.html", "quickstart.html"])
def test_commands_are_not_clipped_at_1280_pixels(open_site, name):
    page = open_site(name, DESKTOP)
    assert page.locator("article pre").count() >= 2
    assert clipped(page, "article pre") == []


def test_a_copy_button_copies_the_block(open_site):
    page = open_site("index.html", DESKTOP)
    assert page.locator("article pre").count() == page.locator("article button.copybtn").count()
    page.locator("article pre").first.hover()
    page.locator("article button.copybtn").first.click()
    page.locator("article button.copybtn.success").wait_for()
    page.goto(page.url.replace("index", "lesson"))
    assert page.locator("div.output pre").count() > 0
    assert page.locator("div.output button.copybtn").count() == 0


def test_the_settings_are_readable_on_a_phone(open_site):
    """Each setting is a block, with the title of the column before each value; nothing overflows."""
    page = open_site("settings.html", PHONE)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert clipped(page, "article .table-wrapper") == []
    row = page.locator("tr", has_text="SOSTENUTO_MAX_QUEUED ")
    before = "cell => getComputedStyle(cell, '::before').content"
    titles = [cell.evaluate(before) for cell in row.first.locator("td").all()]
    assert titles[1:] == ['"default "', '"limits "', '"meaning "']
