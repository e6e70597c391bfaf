"""Every page of the built book, opened in Chromium from its file with no network; and what a reader does on one."""

import io

import chromium
import numpy as np
import pytest
from PIL import Image

CHAPTER = "book/04-gpsa.html"
every_page = pytest.mark.parametrize("path", chromium.PAGES or [None], ids=chromium.NAMES or ["no page"])

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not chromium.PAGES, reason="there is no built book: run make book first"),
]

# What the theme causes and no setting mends: (axe rule, part of the selector): why it stays. Nothing at present.
OF_THE_THEME: dict[tuple[str, str], str] = {}


def ours(found):
    """Violations that the theme does not answer for."""
    return [
        (rule, where, why) for rule, where, why in found
        if not any(rule == known and part in where for known, part in OF_THE_THEME)
    ]  # fmt: skip


@every_page
def test_no_error_and_nothing_from_elsewhere(browser, path):
    found = chromium.visited(browser, path)
    assert found.errors == []
    assert found.foreign == []


@every_page
def test_mathematics_is_rendered(browser, path):
    found = chromium.visited(browser, path)
    assert found.rendered == found.formulas
    assert found.broken == 0
    assert found.raw == []


@every_page
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser, path, theme):
    found = chromium.visited(browser, path)
    assert found.themes == ["light", "dark"]
    assert ours(found.violations[theme]) == []
    assert found.pale[theme] == []


@every_page
def test_fits_a_phone(browser, path):
    found = chromium.visited(browser, path)
    assert found.wider <= 0
    assert found.spills == []


@every_page
def test_pictures_keep_their_colours_in_dark_mode(browser, path):
    assert chromium.visited(browser, path).filters == []


def test_mathematics_was_there_to_render(browser):
    assert sum(chromium.visited(browser, path).rendered for path in chromium.PAGES) > 300


# --- what a reader does


def from_file(page, name=CHAPTER):
    page.goto((chromium.SITE / name).as_uri())
    chromium.settled(page)


def test_the_system_chooses_light_or_dark_and_the_button_changes_it(new_page):
    page = new_page(color_scheme="dark")
    from_file(page)
    theme = "() => document.documentElement.dataset.theme"
    assert page.evaluate(theme) == "dark"
    button = page.locator(".theme-switch-button:visible").first
    for expected in ("light", "dark"):
        button.focus()
        page.keyboard.press("Enter")
        assert page.evaluate(theme) == expected
    assert page.errors == []


def pixels(picture) -> np.ndarray:
    """Of what is on the screen, without the edge, where the page's ground shines through."""
    return np.asarray(Image.open(io.BytesIO(picture.screenshot())).convert("RGB"))[2:-2, 2:-2]


def test_a_heat_map_has_the_same_pixels_in_light_and_dark(new_page):
    page = new_page(color_scheme="light")
    from_file(page)
    picture = page.locator("article figure img").first
    light = pixels(picture)
    chromium.dark(page)
    assert len(np.unique(light.reshape(-1, 3), axis=0)) > 50
    assert np.array_equal(light, pixels(picture))


LEFT_OF_THEIRS = """() => [...document.querySelectorAll(".convit-explorer")].flatMap((explorer) =>
  [...explorer.querySelectorAll("button, select, input, canvas")].filter((control) => control.offsetParent
    && control.getBoundingClientRect().left < explorer.getBoundingClientRect().left - 1).map((each) => each.name))"""


@pytest.mark.parametrize("name", [CHAPTER, "book/08-looking-inside.html", "book/intro.html"])
def test_the_theme_moves_no_control_out_of_its_explorer(new_page, name):
    """A class that Bootstrap knows too, as "row" is, would have its margins."""
    page = new_page()
    from_file(page, name)
    page.wait_for_selector(".convit-explorer select, .convit-explorer input")
    assert page.evaluate(LEFT_OF_THEIRS) == []


@pytest.mark.parametrize("how", ["click", "Enter", "Space"])
def test_a_solution_opens(new_page, how):
    page = new_page()
    from_file(page)
    solution = page.locator("article .solution").first
    content = solution.locator("section > *").first
    button = solution.locator("button.toggle-button")
    assert not content.is_visible()
    if how == "click":
        solution.locator(".admonition-title").click()
    else:
        button.focus()
        page.keyboard.press(how)
    assert content.is_visible()
    assert button.get_attribute("aria-expanded") == "true"


@pytest.mark.parametrize("how", ["click", "Enter"])
def test_an_answer_and_folded_code_open(new_page, how):
    page = new_page()
    from_file(page)
    for fold in (page.locator("article details.sd-dropdown").first, page.locator("article .cell details.hide").first):
        summary = fold.locator("summary")
        assert fold.get_attribute("open") is None
        if how == "click":
            summary.click()
        else:
            summary.focus()
            page.keyboard.press(how)
        assert fold.get_attribute("open") is not None


def test_copy_buttons_copy_the_code(new_page, address):
    page = new_page(permissions=["clipboard-read", "clipboard-write"])
    page.goto(f"{address}/{CHAPTER}")
    chromium.settled(page)
    cells = page.locator("article .cell_input:visible")
    assert cells.count() > 3
    assert page.locator("article .cell_input button.copybtn").count() == page.locator("article .cell_input pre").count()
    code = cells.first.locator("pre").inner_text()
    cells.first.hover()
    cells.first.locator("button.copybtn").click()
    page.wait_for_timeout(100)
    assert page.evaluate("() => navigator.clipboard.readText()").strip() == code.strip()


@pytest.mark.parametrize("place", ["file", "server"])
def test_search_finds_gpsa(new_page, request, place):
    page = new_page()
    start = chromium.SITE.as_uri() if place == "file" else request.getfixturevalue("address")
    page.goto(f"{start}/book/intro.html")
    chromium.settled(page)
    page.keyboard.press("Control+k")
    page.locator("#pst-search-dialog input[type=search]").fill("GPSA")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=GPSA")
    page.get_by_text("Search finished").wait_for()
    pages = page.locator("#search-results li a").evaluate_all("links => links.map(link => link.href)")
    assert any("/04-gpsa.html" in link for link in pages)
    assert len(pages) >= 5
    assert page.errors == []


def test_the_keyboard_reaches_the_page_and_shows_where_it_is(new_page):
    page = new_page()
    from_file(page)
    seen = set()
    for _ in range(20):
        page.keyboard.press("Tab")
        style = page.evaluate("""() => {
          const at = document.activeElement, style = getComputedStyle(at);
          return [at.className + at.textContent.trim().slice(0, 30),
                  style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0 || style.boxShadow !== "none"];
        }""")
        assert style[1], f"no sign of focus on {style[0]!r}"
        seen.add(style[0])
    assert len(seen) > 10


def test_a_wide_table_scrolls_inside_its_box_on_a_phone(new_page):
    page = new_page(viewport=chromium.PHONE, has_touch=True, is_mobile=True)
    moved = []
    for path in [path for path in chromium.PAGES if path.stem in ("02-self-attention", "04-gpsa", "09-ablations")]:
        page.goto(path.as_uri(), wait_until="load")
        moved += page.evaluate("""() => [...document.querySelectorAll("article table")].map(table => {
            let box = table;
            while (box && getComputedStyle(box).overflowX !== "auto") box = box.parentElement;
            if (!box || box.scrollWidth <= box.clientWidth) return null;
            box.scrollLeft = 1000;
            return box.scrollLeft;
        }).filter(moved => moved !== null)""")
    assert moved
    assert min(moved) > 0
