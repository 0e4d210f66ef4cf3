"""The pages of the gateway link to each other, and to the documentation if its URL is set."""

import re

import pytest
from flask import Flask

from service.web.pages import not_found_page, register_pages

NAMES = ("Write", "Look inside", "Train", "Models", "Report", "API", "Learn")
PATHS = ("/", "/inspector", "/train", "/models", "/report", "/docs/", "/learn")
URL = "https://docs.example.org/sostenuto/"


def page(path, docs_url=None):
    app = Flask("service", static_folder=None, template_folder="web/templates")
    register_pages(app, docs_url)
    return app.test_client().get(path).text


def links(html):
    (navigation,) = re.findall(r'<nav aria-label="Pages">.*?</nav>', html, re.DOTALL)
    return {text: url for url, text in re.findall(r'<a href="([^"]*)"[^>]*>([^<]*)</a>', navigation)}


@pytest.mark.parametrize("path", PATHS)
def test_every_page_names_itself_and_links_to_all_pages(path):
    root = ".." if path == "/docs/" else "."
    pages = {name: root + path for name, path in zip(NAMES, PATHS, strict=True)}
    html = page(path)
    (current,) = re.findall(r'aria-current="page">([^<]*)<', html)
    assert f"<title>Sostenuto: {current}</title>" in html
    assert links(html) == pages
    assert links(page(path, URL)) == {**pages, "Docs": URL}
    assert links(page(path, f'{URL}"onclick=x'))["Docs"] == f"{URL}&#34;onclick=x"


def test_a_browser_gets_a_page_for_an_unknown_path_and_a_program_an_error():
    """The page's links lead back, however deep the path is."""
    app = Flask("service", static_folder=None, template_folder="web/templates")
    register_pages(app, None)
    app.register_error_handler(404, lambda _: not_found_page() or ("no", 404))
    client = app.test_client()
    shown = client.get("/a/b/c", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (shown.status_code, shown.mimetype) == (404, "text/html")
    assert '<a href="../../inspector">' in shown.text
    assert "script-src 'self'" in shown.headers["Content-Security-Policy"]
    for accept in ("*/*", "application/json", ""):
        told = client.get("/a/b/c", headers={"Accept": accept})
        assert (told.status_code, told.text) == (404, "no")
