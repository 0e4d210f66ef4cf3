"""The components of the pages in every state: boxes, contrast and colors."""

from pathlib import Path

import pytest

from tests.pages import LOOKS, Page

FILES = Path(__file__).with_name("components")
# WCAG 2.2, level AA, for text.
MIN_CONTRAST = 4.5
# The contrast of each token with what is behind it, in the order of the page.
CONTRASTS = """() => {
    const context = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const paint = (...colors) => {
        context.clearRect(0, 0, 1, 1);
        for (const color of colors) { context.fillStyle = color; context.fillRect(0, 0, 1, 1); }
        return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const luminance = (color) => {
        const [red, green, blue] = color.map((part) => {
            const share = part / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    return [...document.querySelectorAll('.painted > *, .token')].map((token) => {
        const style = getComputedStyle(token);
        const panel = getComputedStyle(token.closest('.panel')).backgroundColor;
        const [ink, ground] = [paint(style.color), paint(panel, style.backgroundColor)].map(luminance);
        return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    });
}"""


class Components(Page):
    """The page of the components, which the gateway does not have: its files lie beside this test."""

    path = "components"

    def __init__(self, tab, gateway, hash_=""):
        tab.route("**/components", lambda route: route.fulfill(path=FILES / "page.html"))
        tab.route("**/components.js", lambda route: route.fulfill(path=FILES / "page.js"))
        super().__init__(tab, gateway, hash_)
        self.page.locator("body[data-ready]").wait_for()

    def boxes(self, selector):
        """Return left, top, right and bottom of each element, in CSS pixels of the window."""
        return self.page.locator(selector).evaluate_all(
            "all => all.map((each) => each.getBoundingClientRect()).map((box) =>"
            " [box.left, box.top, box.right, box.bottom])"
        )


@pytest.mark.parametrize("look", LOOKS)
def test_every_state_of_every_component_fits_and_has_contrast(open_page, gateway, look):
    page = open_page(Components, gateway, **look)
    assert page.violations() == []
    assert page.fits()
    assert min(page.page.evaluate(CONTRASTS)) >= MIN_CONTRAST
    for section in page.page.locator("section.panel").all():
        name = section.get_attribute("id")
        ((left, top, right, bottom),) = page.boxes(f"#{name}")
        inner = page.boxes(f"#{name} > :not(h2), #{name} svg, #{name} button")
        assert inner, name
        for box in inner:
            assert left <= box[0] < box[2] <= right, (name, box)
            assert top <= box[1] < box[3] <= bottom, (name, box)
    # Labels of drawings do not leave them.
    for box in page.boxes("svg text"):
        assert 0 <= box[0] < box[2] <= page.page.viewport_size["width"], box


def test_strips_and_tokens_have_the_colors_of_the_theme(open_page, gateway):
    page = open_page(Components, gateway)
    ends = """canvas => {
        const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, 1).data;
        return [...data.slice(0, 3), ...data.slice(-4, -1)];
    }"""
    colors = """() => ['--cold', '--warm', '--raised'].map((name) =>
        getComputedStyle(document.documentElement).getPropertyValue(name).trim())"""
    cold, warm, ground = ([int(color[at : at + 2], 16) for at in (1, 3, 5)] for color in page.page.evaluate(colors))
    signed, positive, zero, long = page.page.locator(".cards-of-units canvas").all()
    assert signed.evaluate(ends) == [*cold, *warm]
    assert long.evaluate(ends) == [*cold, *warm]
    assert positive.evaluate(ends)[3:] == warm
    # The middle of 256 colors lies between two of them.
    assert all(abs(one - other) <= 2 for one, other in zip(zero.evaluate(ends), ground * 2, strict=True))
    painted = page.page.locator("[aria-label='By unit'] > *").evaluate_all(
        "all => [all[0], all.at(-1)].map((token) => token.style.backgroundColor)"
    )
    assert painted == [f"rgb({', '.join(map(str, color))})" for color in (cold, warm)]
    # Bytes of an incomplete character.
    assert not any("bytes:" in text for text in page.page.locator(".output").all_text_contents())


def test_a_tokens_popover_stays_within_the_window(open_page, gateway):
    page = open_page(Components, gateway)
    page.page.locator("#written .token").nth(9).click()
    ((left, top, right, bottom),) = page.boxes("#token")
    size = page.page.viewport_size
    assert min(left, top) >= 0
    assert (right <= size["width"], bottom <= size["height"]) == (True, True)
    ((_, above, _, below),) = page.boxes(".token.opened")
    assert top >= below or bottom <= above
    assert page.page.locator("#token tbody button").all_inner_texts() == ["Regenerate from here", "Branch", "Branch"]
    assert page.violations() == []
