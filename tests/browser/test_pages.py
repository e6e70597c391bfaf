"""Every page of the built book, opened in Chromium from its file with no network; and what a reader does on one."""

import chromium
import pytest

CHAPTER = "book/04-gpsa.html"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not chromium.PAGES, reason="there is no built book: run make book first"),
]


@pytest.mark.parametrize("path", chromium.PAGES or [None], ids=chromium.NAMES or ["no page"])
def test_nothing_is_wrong_with_a_page(browser, path):
    """No error, nothing from elsewhere, mathematics rendered, nothing serious for axe; it fits a phone."""
    assert chromium.visit(browser, path) == {}


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


def test_answers_and_code_are_folded_formulas_rendered_and_code_can_be_copied(new_page):
    page = new_page()
    from_file(page)
    for fold in (page.locator("article details.sd-dropdown").first, page.locator("article .cell details.hide").first):
        assert fold.get_attribute("open") is None
        fold.locator("summary").click()
        assert fold.get_attribute("open") is not None
    assert page.locator(".math mjx-container").count() > 20
    assert page.locator("article .cell_input button.copybtn").count() == page.locator("article .cell_input pre").count()


def test_search_finds_gpsa(new_page):
    page = new_page()
    from_file(page, "book/intro.html")
    page.keyboard.press("Control+k")
    page.locator("#pst-search-dialog input[type=search]").fill("GPSA")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=GPSA")
    page.get_by_text("Search finished").wait_for()
    pages = page.locator("#search-results li a").evaluate_all("links => links.map(link => link.href)")
    assert any("/04-gpsa.html" in link for link in pages) and len(pages) >= 5
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
