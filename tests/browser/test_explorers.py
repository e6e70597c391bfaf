"""The explorers in Chromium, opened from a file with no network: operated by keyboard, their numbers Python's."""

import re

import chromium
import numpy as np
import pytest

from convit_edu.book import explorers
from convit_edu.lab import packing
from convit_edu.positions import kernel_centres

KINDS = ("positional", "gate", "trained", "curves")
random = np.random.default_rng(0)


def softmax(scores):
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


CONTENT, V_POS = softmax(random.normal(size=(3, 9, 49, 49))), random.normal(size=(3, 9, 3))
GATES = random.uniform(size=(3, 9)).round(3)
STEPS = (0, 5, 10)
TRAINED = {  # the last layer has a class token, as in ConViT; DeiT has one everywhere
    name: {step: [softmax(random.normal(scale=2, size=(9, n, n))) for n in tokens] for step in STEPS}
    for name, tokens in {"ConViT": (49, 49, 50), "DeiT": (50, 50, 50)}.items()
}
CURVES = {
    (steps, fraction): (
        [steps // 2, steps],
        {name: random.uniform(20, 80, size=(2, 2)) / (1, 20) for name in ("ConViT", "DeiT", "gap")},
    )
    for steps, fraction in ((300, 0.05), (300, 0.2), (300, 1.0), (1200, 0.05), (1200, 1.0))
}
PICTURE = random.integers(0, 256, size=(28, 28))


def html(body, head=""):
    """A page that has a language, a title and one heading, as the book's have."""
    return (
        f'<!doctype html><html lang="en"{head}><head><meta charset="utf-8"><title>Explorers</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"></head>'
        f"<body><main><h1>Explorers</h1>{body}</main></body></html>"
    )


@pytest.fixture(scope="module")
def outputs():
    return {
        "positional": explorers.positional_explorer()._repr_html_(),
        "gate": explorers.gate_explorer(PICTURE, CONTENT, V_POS, GATES)._repr_html_(),
        "trained": explorers.trained_explorer(PICTURE, TRAINED)._repr_html_(),
        "curves": explorers.curves_explorer(CURVES)._repr_html_(),
    }


@pytest.fixture(scope="module")
def address(outputs, tmp_path_factory):
    """All four on one page, and the first once more."""
    path = tmp_path_factory.mktemp("explorers") / "page.html"
    path.write_text(html("".join([*outputs.values(), outputs["positional"]])), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def opened(new_page, address):
    page = new_page()
    page.goto(address)
    yield page
    assert page.errors == []


class Explorer:
    """One explorer of a page, by keyboard."""

    def __init__(self, page, kind, number=0):
        self.page, self.root = page, page.locator(f".convit-explorer[data-kind={kind}]").nth(number)

    def control(self, name):
        return self.root.locator(f"[name={name}]")

    def slide(self, name, value):
        """From its beginning, by arrow keys."""
        slider = self.control(name)
        low, step = (float(slider.get_attribute(what)) for what in ("min", "step"))
        slider.press("Home")
        for _ in range(round((value - low) / step)):
            slider.press("ArrowRight")
        assert float(slider.input_value()) == pytest.approx(value)

    def choose(self, name, text):
        """An entry of a list, by typing it."""
        entry = self.control(name)
        entry.focus()
        entry.press("Home")
        for _ in range(30):
            if entry.evaluate("list => list.selectedOptions[0].text") == text:
                return
            entry.press("ArrowDown")
        raise AssertionError(f"{name} has no entry {text!r} that can be chosen")

    def cell(self, grid, number):
        return self.root.locator("[role=grid]").nth(grid).locator("[role=gridcell]").nth(number)

    def walk(self, grid, *keys):
        """Into a grid by its one stop for the tabulator, then by keys."""
        self.root.locator("[role=grid]").nth(grid).locator("[tabindex='0']").focus()
        for key in keys:
            self.page.keyboard.press(key)

    @property
    def said(self):
        return self.root.locator("[role=status]").inner_text()

    def values(self):
        return {name: np.array(value) for name, value in self.root.evaluate("root => root.explorer.values()").items()}

    def numbers(self, call):
        return self.root.evaluate(f"root => {{ const n = root.explorer.numbers; return {call}; }}")


def near(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


# --- loading


def test_they_come_alive_at_once_and_ask_for_nothing(new_page, address):
    times = []
    for _ in range(3):
        page, asked = new_page(), []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(address)
        assert page.locator(".convit-explorer.live").count() == 5
        times.append(page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"))
        assert page.errors == [] and [url for url in asked if not url.startswith("data:")] == [address]
        assert page.locator(".still img").evaluate_all("all => all.filter(one => one.checkVisibility()).length") == 0
        assert page.locator(".ui:visible").count() == 5
    assert min(times) < 1000  # milliseconds, the best of three: the machine may be busy


def test_two_of_a_kind_do_not_share_their_state(opened):
    first, second = Explorer(opened, "positional"), Explorer(opened, "positional", 1)
    before = second.values()["attention"]
    first.slide("strength", 0.5)
    near(second.values()["attention"], before)
    assert np.abs(first.values()["attention"] - before).max() > 0.1


def test_an_output_put_into_a_page_later_comes_alive_and_keeps_its_keys(new_page, outputs, tmp_path):
    """As JupyterLab does it: the HTML first, then each script anew, before and after it is in the page.

    JupyterLab takes arrow keys away from whatever has the focus, unless that very element asks it not to.
    """
    untrusted = re.sub(r"(?s)<(script|style).*?</\1>", "", outputs["curves"])  # stays a picture and stops nobody
    (tmp_path / "empty.html").write_text(html(f"{untrusted}<div id='cell'></div>"), encoding="utf-8")
    page = new_page()
    page.goto((tmp_path / "empty.html").as_uri())
    for attached in (True, False):
        page.evaluate(
            """([output, attached]) => {
              const host = document.createElement("div"), cell = document.getElementById("cell");
              if (attached) cell.append(host);
              host.innerHTML = output;
              for (const old of host.querySelectorAll("script")) {
                const script = document.createElement("script");
                for (const { name, value } of old.attributes) script.setAttribute(name, value);
                script.textContent = old.textContent;
                old.replaceWith(script);
              }
              if (!attached) cell.append(host);
            }""",
            [outputs["gate"], attached],
        )
    assert page.locator("#cell .convit-explorer.live").count() == 2 and page.errors == []
    assert page.locator("#cell :is(input, select, [tabindex]):not([data-lm-suppress-shortcuts])").count() == 0
    assert page.locator(".convit-explorer:not(.live) .still img:visible").count() == 1
    assert page.locator(".convit-explorer:not(.live) :is(input, select)").count() == 0


@pytest.mark.parametrize("how", ["no script", "print"])
def test_without_script_and_in_print_there_is_the_still_picture(new_page, address, how):
    page = new_page(java_script_enabled=how != "no script")
    page.goto(address)
    page.emulate_media(media="print" if how == "print" else "screen")
    assert page.locator(".still img:visible").count() == 5 and page.locator(".ui:visible").count() == 0
    widths = [box.bounding_box()["width"] for box in page.locator(".still img").all()]
    assert min(widths) > 200


# --- numbers


def test_the_pure_functions_are_pythons(opened):
    explorer = Explorer(opened, "positional")
    for heads in (1, 4, 9, 16):
        near(explorer.numbers(f"n.centres({heads})"), kernel_centres(heads).numpy())
    for tokens in (4, 7, 49, 50):
        for bits in (4, 8):
            packed = packing.pack(softmax(random.normal(scale=3, size=(3, tokens))), bits)
            call = f"[0, 1, 2].map((row) => n.unpack(n.bytes({packing.as_text(packed)!r}), {bits}, {tokens}, row))"
            near(explorer.numbers(call), packing.unpack(packed, tokens, bits))
    near(explorer.numbers("n.mix(0.25, [1, 0, 0.5], [0, 1, 0.5])"), [0.75, 0.25, 0.5])
    v_pos = [0.3, -2.5, -700.0]  # a plain exponential would end in 0 / 0
    near(explorer.numbers(f"n.positional({v_pos}, [3, 5], 7)"), explorers.positional_attention(v_pos, (3, 5), 7))
    shares = np.linspace(0, 1, 41)
    colours = explorer.numbers(f"{shares.tolist()}.map((share) => n.colour(share))")
    from convit_edu.book.stills import _colours

    found = np.array([re.findall(r"\d+", colour) for colour in colours], dtype=int)
    assert np.abs(found - _colours(shares[None])[0]).max() <= 1  # a half may be rounded either way


@pytest.mark.parametrize("strength, centre, side", [
    (1, (1, 0), 7), (0, (0, 0), 5), (0.25, (-2.5, 3), 14), (4, (-1, -1), 3)])  # fmt: skip
def test_one_head_is_placed_by_keyboard(opened, strength, centre, side):
    explorer = Explorer(opened, "positional")
    for name, value in (("strength", strength), ("x", centre[0]), ("y", centre[1]), ("size", side)):
        explorer.slide(name, value)
    explorer.walk(0, "ArrowUp", "ArrowLeft")
    query = (side // 2 - 1) * side + side // 2 - 1
    v_pos, found = explorers.gaussian(strength, centre), explorer.values()
    near(found["attention"], explorers.positional_attention(v_pos, (side, side), query))
    near(found["kernel"], explorers.positional_attention(v_pos, (7, 7), 24))
    assert explorer.said.startswith(f"Query row {side // 2}, column {side // 2}; key row ")


@pytest.mark.parametrize("heads", [4, 9, 16])
def test_many_heads_start_on_a_grid_of_centres(opened, heads):
    explorer = Explorer(opened, "positional")
    explorer.choose("heads", str(heads))
    centres = kernel_centres(heads).tolist()
    maps = [explorers.positional_attention(explorers.gaussian(1, centre), (7, 7), 24) for centre in centres]
    for head in (0, 1, heads - 1):
        explorer.choose("head", str(head + 1))
        near(explorer.values()["attention"], maps[head])
        assert [float(explorer.control(name).input_value()) for name in "xy"] == centres[head]
        assert explorer.control("x").is_disabled() and explorer.control("y").is_disabled()
    explorer.choose("head", "mean of all")
    near(explorer.values()["kernel"], np.mean(maps, axis=0))
    explorer.choose("heads", "1, placed by hand")
    assert explorer.control("x").is_enabled() and explorer.control("head").input_value() == "0"


def test_the_gate_mixes_content_and_position(opened):
    explorer = Explorer(opened, "gate")
    explorer.choose("layer", "2")
    explorer.choose("head", "5")
    assert float(explorer.control("gate").input_value()) == GATES[1, 4]  # first where the head has it
    explorer.walk(0, "ArrowDown", "ArrowRight", "ArrowRight")
    query = 4 * 7 + 5
    content = packing.unpack(packing.pack(CONTENT[1], 8), 49, 8)[4, query]
    position = explorers.positional_attention(V_POS[1, 4], (7, 7), query)
    for gate in (GATES[1, 4], 0, 0.02, 1):
        if gate == 1:
            explorer.control("gate").press("End")
        elif gate != GATES[1, 4]:
            explorer.slide("gate", gate)
        found = explorer.values()
        near(found["content"], content)
        near(found["position"], position)
        near(found["mixture"], (1 - gate) * content + gate * position)
    explorer.choose("head", "6")
    assert float(explorer.control("gate").input_value()) == GATES[1, 5]


@pytest.mark.parametrize("model, step, layer, head", [
    ("ConViT", 0, 1, 1), ("ConViT", 10, 3, 9), ("DeiT", 5, 2, 4), ("DeiT", 10, 1, "mean of all")])  # fmt: skip
def test_recorded_attention_is_shown_as_recorded(opened, model, step, layer, head):
    explorer = Explorer(opened, "trained")
    for name, text in (("model", model), ("step", f"after {step} steps"), ("layer", str(layer)), ("head", str(head))):
        explorer.choose(name, text)
    given = TRAINED[model][step][layer - 1]
    tokens = given.shape[-1]
    held = packing.unpack(packing.pack(given), tokens)
    held = held.mean(0) if head == "mean of all" else held[head - 1]
    explorer.walk(0, "ArrowUp", "ArrowUp", "ArrowRight")
    near(explorer.values()["attention"], held[tokens - 49 + 1 * 7 + 4])
    if tokens == 50:
        explorer.choose("query", "the class token")
        near(explorer.values()["attention"], held[0])
        assert explorer.said.startswith("Query class token; key row ") and "The class token gets" in explorer.said
        explorer.choose("model", "ConViT")
        explorer.choose("layer", "1")  # which has none: the query is a patch again
    assert explorer.control("query").input_value() == "0"
    assert explorer.control("query").locator("option:not([disabled])").count() == 1


def test_curves_are_read_at_every_evaluation(opened):
    explorer = Explorer(opened, "curves")
    for (steps, fraction), (x, lines) in CURVES.items():
        explorer.choose("steps", f"{steps:,}")
        explorer.choose("share", f"{100 * fraction:g} %")
        assert explorer.root.locator(".chart:visible").count() == 1
        label = explorer.root.locator(".chart:visible").get_attribute("aria-label")
        assert label.startswith(f"{steps:,} steps, {100 * fraction:g} % of the images")
        for k in (0, 1):
            explorer.slide("when", k + 1)
            found = explorer.values()
            for name in ("ConViT", "DeiT", "gap"):
                near(found[name], lines[name][k])
            (mean, half), said = lines["gap"][k], explorer.said
            assert said.startswith(f"After {x[k]:,} of {steps:,} steps") and f"gap {mean:+.1f} ± {half:.1f}" in said
    explorer.choose("steps", "300")
    explorer.choose("share", "20 %")
    explorer.choose("steps", "1,200")  # where 20 % was not run
    assert explorer.control("share").evaluate("list => list.selectedOptions[0].text") == "5 %"


# --- for everybody


def test_a_grid_is_one_stop_and_its_cells_say_their_value(opened):
    explorer = Explorer(opened, "gate")
    grid = explorer.root.locator("[role=grid]").nth(3)
    assert grid.get_attribute("aria-label") == "Mixture" and grid.locator("[tabindex='0']").count() == 1
    explorer.walk(3, "ArrowUp", "ArrowRight")  # from the cell to the right of the query
    chosen, place = grid.locator("[aria-selected=true]"), 2 * 7 + 5
    assert chosen.evaluate("cell => cell === document.activeElement")
    value = explorer.values()["mixture"][place]
    assert float(chosen.get_attribute("aria-label")) == pytest.approx(value, abs=0.006)
    shown = f"key row 3, column 6: {chosen.get_attribute('aria-label')} of the attention; offset +2, −1."
    assert shown in explorer.said
    for _ in range(9):
        opened.keyboard.press("ArrowUp")  # stays in the grid
    assert "key row 1, column 6" in explorer.said
    ring = grid.locator("[aria-selected=true]").evaluate("cell => getComputedStyle(cell).outlineWidth")
    assert ring == "3px"  # focus is seen


def test_a_mouse_reads_a_finger_chooses(opened, new_page, address):
    explorer = Explorer(opened, "positional")
    explorer.cell(1, 0).hover()
    assert "key row 1, column 1" in explorer.said
    explorer.cell(2, 0).hover()
    assert "Kernel at offset −3, −3" in explorer.said
    explorer.cell(0, 8).hover()
    assert explorer.said.startswith("Query row 4, column 4;")  # pointing at a patch does not choose it
    page = new_page(has_touch=True, viewport={"width": 360, "height": 740})
    page.goto(address)
    touched = Explorer(page, "trained")
    touched.cell(0, 8).tap()
    assert touched.said.startswith("Query row 2, column 2;")
    touched.cell(1, 48).tap()
    assert "key row 7, column 7" in touched.said


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("how", ["html data-theme", "data-jp-theme-light", "system"])
def test_it_follows_the_theme_and_maps_keep_their_colours(new_page, outputs, tmp_path, theme, how):
    other = {"light": "dark", "dark": "light"}[theme]
    body, head = outputs["positional"], ""
    if how == "html data-theme":
        head = f' data-theme="{theme}"'
    elif how == "data-jp-theme-light":
        body = f'<div data-jp-theme-light="{str(theme == "light").lower()}">{body}</div>'
    (tmp_path / "page.html").write_text(html(body, head), encoding="utf-8")
    page = new_page(color_scheme=theme if how == "system" else other)
    page.goto((tmp_path / "page.html").as_uri())
    ground = page.locator("select").first.evaluate("list => getComputedStyle(list).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", ground)[:3]))
    assert (brightness > 600) == (theme == "light")
    colours = page.locator("[role=grid]").nth(1).locator("[role=gridcell]").evaluate_all(
        "cells => cells.map(cell => getComputedStyle(cell).backgroundColor)")  # fmt: skip
    assert colours[25] == "rgb(253, 231, 37)" and colours[0] == "rgb(68, 1, 84)"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing_and_it_fits(new_page, address, theme, width):
    page = new_page(viewport={"width": width, "height": 800}, color_scheme=theme)
    page.goto(address)
    if theme == "dark":
        page.add_style_tag(content="body { background: #14181e; color: #ced6dd }")  # the book's
    Explorer(page, "trained").choose("model", "DeiT")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert chromium.violations(page) == []
    wide, high = page.locator("[role=gridcell]").first.evaluate("cell => [cell.offsetWidth, cell.offsetHeight]")
    assert wide == pytest.approx(high, abs=1.5) and wide > 12
