"""Static files are compressed, and kept by browsers where their path names their content."""

import gzip

import pytest
from flask import Flask

from service.web.pages import StaticFiles

SCRIPT = "// a comment\n" * 100


@pytest.fixture
def directory(tmp_path):
    """A directory with a script, a picture and a file beside it that is not served."""
    (tmp_path / "static/components").mkdir(parents=True)
    (tmp_path / "static/components/strip.js").write_text(SCRIPT)
    (tmp_path / "static/picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "secret").write_text("secret")
    return tmp_path / "static"


@pytest.fixture
def get(directory):
    """A function that requests a file, and returns the response and the version of the directory."""
    files = StaticFiles(directory)
    app = Flask("service")
    app.add_url_rule("/f/<path:name>", view_func=files.respond)

    def get(name, **headers):
        return app.test_client().get(f"/f/{name.format(version=files.version)}", headers=headers)

    return get


@pytest.mark.parametrize(
    ("name", "kept"),
    [("{version}/components/strip.js", "public, max-age=31536000, immutable"), ("components/strip.js", "no-cache")],
)
def test_a_path_with_the_version_may_be_kept(get, name, kept):
    response = get(name)
    assert (response.status_code, response.text, response.headers["Cache-Control"]) == (200, SCRIPT, kept)
    assert get(name, **{"If-None-Match": response.headers["ETag"]}).status_code == 304


def test_a_text_is_gzipped_where_that_is_accepted(get):
    name = "{version}/components/strip.js"
    packed = get(name, **{"Accept-Encoding": "gzip, br"})
    assert gzip.decompress(packed.data).decode() == SCRIPT
    assert (packed.headers["Content-Encoding"], packed.headers["Vary"]) == ("gzip", "Accept-Encoding")
    assert len(packed.data) < len(SCRIPT) / 10
    for plain in (get(name), get(name, **{"Accept-Encoding": "gzip;q=0"})):
        assert (plain.text, plain.headers["Vary"]) == (SCRIPT, "Accept-Encoding")
    assert "Content-Encoding" not in get("picture.png", **{"Accept-Encoding": "gzip"}).headers


@pytest.mark.parametrize(
    "name", ["../secret", "{version}/../../secret", "missing.js", "components", "0000/strip.js", "a" * 300]
)
def test_other_paths_are_not_found(get, name):
    assert get(name).status_code == 404


def test_the_version_changes_with_any_content_or_name(directory):
    before = StaticFiles(directory).version
    assert StaticFiles(directory).version == before
    (directory / "picture.png").rename(directory / "other.png")
    renamed = StaticFiles(directory).version
    (directory / "other.png").write_bytes(b"")
    assert len({before, renamed, StaticFiles(directory).version}) == 3
