"""The colors of the pages have the contrast that WCAG 2.2 requires at level AA, in both themes."""

import re

import pytest

from tests.paths import ROOT

CSS = (ROOT / "service/web/static/frame.css").read_text()
THEMES = dict(zip(("light", "dark"), re.findall(r"^:root.*?\{(.*?)\}", CSS, re.DOTALL | re.MULTILINE), strict=True))


def colors(theme):
    """Return the red, green and blue of each variable of a theme."""
    found = re.findall(r"--([\w-]+): #(\w{2})(\w{2})(\w{2});", THEMES[theme])
    return {name: [int(part, 16) for part in parts] for name, *parts in found}


def luminance(color):
    parts = [part / 255 for part in color]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mixed(one, other, share):
    """Return a color between two, as a browser mixes them in sRGB."""
    return [part + (end - part) * share for part, end in zip(one, other, strict=True)]


@pytest.mark.parametrize("theme", THEMES)
def test_text_is_readable_on_every_step_of_the_color_scale(theme):
    """The ink of tokens, and the gray of the prompt on the grounds: 4.5 to 1."""
    named = colors(theme)
    for end in ("cold", "warm"):
        steps = [mixed(named["raised"], named[end], step / 128) for step in range(129)]
        assert min(contrast(named["ink"], step) for step in steps) >= 4.5, end
    for ground in ("ground", "raised"):
        for text in ("ink", "faint", "accent", "notice"):
            assert contrast(named[text], named[ground]) >= 4.5, (text, ground)
    assert contrast(named["on-accent"], named["accent"]) >= 4.5


@pytest.mark.parametrize("theme", THEMES)
def test_curves_and_borders_of_fields_are_visible(theme):
    """3 to 1 against what is beside them."""
    named = colors(theme)
    for name in ("edge", "accent", "series-2", "series-3"):
        for ground in ("ground", "raised"):
            assert contrast(named[name], named[ground]) >= 3, (name, ground)


@pytest.mark.parametrize("theme", THEMES)
def test_a_surprising_token_differs_from_an_expected_one(theme):
    """The scale goes as far as text on it stays readable: 30% and 0.1% must not look alike."""
    named = colors(theme)
    ends = {name: contrast(named["raised"], named[name]) for name in ("cold", "warm")}
    assert min(ends.values()) >= 2.2, ends
