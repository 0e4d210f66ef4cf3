"""The page Report in a real browser: what it reads, and its buttons."""

import pytest

from tests.pages import Page


class Report(Page):
    path = "report"

    def choose(self, **files):
        """Choose the content of files by the names of their fields."""
        for name, content in files.items():
            self.page.set_input_files(f"#{name}", {"name": f"{name}.txt", "mimeType": "", "buffer": content})


@pytest.fixture
def page(open_page, gateway):
    return open_page(Report, gateway)


def test_a_file_must_be_text(page):
    page.page.route("**/v1/reports", lambda route: pytest.fail("sent"))
    page.choose(generated=b"Ann\nBob\n", training=b"J\xfcrgen\n")
    page.click("#start")
    page.wait_for_notice("training.txt is not text in UTF-8.")


def test_the_focus_stays_where_a_button_disappears(page):
    from playwright.sync_api import expect

    page.page.route("**/v1/reports", lambda _: None)
    page.choose(generated=b"Ann\nBob\n", training=b"Ann\n")
    page.page.locator("#start").press("Enter")
    expect(page.page.locator("#stop")).to_be_focused()
    page.page.locator("#stop").press("Enter")
    page.wait_for("Stopped.")
    expect(page.page.locator("#start")).to_be_focused()
