"""The explorers in Chromium, opened from a file with no network: operated by keyboard, their numbers Python's."""

import re

import chromium
import numpy as np
import pytest
import torch

from convit_edu import data, locality
from convit_edu.book import explorers, networks
from convit_edu.lab import records
from convit_edu.positions import kernel_centres

pytestmark = pytest.mark.slow

FORMS = ("whole", "layer", "small")  # of the explorer of networks, as they stand on the page
random = np.random.default_rng(0)


def MOMENTS():
    found = {arm: {600: networks.packed(records.checkpoint(arm, step=600))} for arm in ("convit", "deit")}
    return f"<script>{networks.script('moments', found)}</script>"


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
        "whole": explorers.network_explorer("whole", picture=5, layer=2, head=5)._repr_html_(),
        "layer": explorers.network_explorer("layer", layer=2, head=5)._repr_html_(),
        "small": explorers.network_explorer("small", picture=5, layer=2, head=5, scope=2)._repr_html_(),
    }


@pytest.fixture(scope="module")
def address(outputs, tmp_path_factory):
    """All four on one page, and the first once more; with the moments of training, as where a reader runs the cell."""
    path = tmp_path_factory.mktemp("explorers") / "page.html"
    path.write_text(html("".join([MOMENTS(), *outputs.values(), outputs["positional"]])), encoding="utf-8")
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
        self.control(name).select_option(label=text)

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


def near(found, wanted, tolerance=1e-6):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)


# --- loading


def test_they_come_alive_at_once_and_ask_for_nothing(new_page, address):
    page, asked = new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    assert page.locator(".convit-explorer.live").count() == 5
    assert page.errors == [] and [url for url in asked if not url.startswith("data:")] == [address]
    assert page.locator(".still img").evaluate_all("all => all.filter(one => one.checkVisibility()).length") == 0
    assert page.locator(".ui:visible").count() == 5


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
    untrusted = re.sub(r"(?s)<(script|style).*?</\1>", "", outputs["layer"])  # stays a picture and stops nobody
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
            [outputs["whole"], attached],
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
    explorer.choose("heads", "1, placed by hand")
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


def test_nine_heads_make_a_convolution(opened):
    explorer = Explorer(opened, "positional")
    explorer.choose("heads", "9")
    image = data.load("fashion_mnist_5k")
    bag = image.test_images[image.test_labels == 8][0, 0].double()
    for name, worth in explorers.FILTERS.items():
        explorer.choose("filter", name)
        explorer.control("strength").press("End")
        kernel = torch.tensor(worth).double().reshape(3, 3).T  # heads go column by column
        exact = torch.nn.functional.conv2d(bag[None, None], kernel[None, None], padding=1)[0, 0]
        found = explorer.values()
        near(found["exact"], exact.flatten().numpy())
        heads = [explorers.positional_attention(explorers.gaussian(4, c), (28, 28), 14 * 28 + 20) for c in
                 kernel_centres(9).tolist()]  # fmt: skip
        seen = sum(w * head @ bag.flatten().numpy() for w, head in zip(worth, heads))
        assert found["after"][14 * 28 + 20] == pytest.approx(seen, abs=1e-6)
        assert np.abs(found["near"] - kernel.flatten().numpy()).max() < 0.1 * max(map(abs, worth))
        numbers = explorer.root.locator(".kernel td").all_inner_texts()
        assert [float(text.replace("−", "-")) for text in numbers] == pytest.approx(found["near"], abs=0.006)
    explorer.control("strength").press("Home")
    summary = explorer.root.locator(".summary").inner_text()
    assert "Infinity" not in explorer.root.inner_text() and "every patch alike" in summary
    explorer.choose("heads", "4")
    assert "between pixels" in explorer.root.locator(".compared").inner_text()


# --- networks


@pytest.fixture(scope="module")
def models():
    return [networks.rounded(records.checkpoint(arm)) for arm in ("convit", "deit")]


@pytest.fixture(scope="module")
def images():
    fashion = data.load("fashion_mnist_5k")
    return fashion.normalize(fashion.test_images[networks.pictures(fashion)["numbers"]])


@torch.no_grad()
def logits(models, image, gates=None, positions=True):
    """What the models answer; gates (3, 9) of the first."""
    found = []
    for model in map(networks.rounded, models):  # copies
        for layer, line in zip(locality.gpsa_layers(model), gates if gates is not None else ()):
            layer.gating_param.copy_(torch.logit(torch.as_tensor(line)))
        if not positions:
            model.pos_embed.zero_()
        found.append(model(image)[0].numpy())
    return np.stack(found)


def test_answers_follow_gates_positions_patches_and_pictures(opened, models, images):
    explorer = Explorer(opened, "network", FORMS.index("whole"))
    learned = locality.gates(models[0]).double().numpy()
    near(explorer.values()["gates"], learned)
    near(explorer.values()["logits"], logits(models, images[5:6]), 1e-4)
    gates = learned.copy()
    for scope, part, keys, gate in (("this head", (2, 5), "Home", 0.0), ("this layer", (2,), "End", 1.0),
                                    ("all layers", (), "Home", 0.0)):  # fmt: skip
        explorer.choose("scope", scope)
        explorer.control("gate").press(keys)
        gates[part] = gate
        near(explorer.values()["gates"], gates)
        near(explorer.values()["logits"], logits(models, images[5:6], gates), 1e-4)
    explorer.root.get_by_role("button", name="gates as trained").press("Enter")
    near(explorer.values()["gates"], learned)
    explorer.control("zero").press("Space")
    near(explorer.values()["logits"], logits(models, images[5:6], positions=False), 1e-4)
    explorer.control("zero").press("Space")
    explorer.slide("x", 1)
    rolled = torch.roll(images[5:6], 4, dims=3)
    near(explorer.values()["logits"], logits(models, rolled), 1e-4)
    explorer.choose("shuffle", "shuffled")
    order = explorer.values()["order"]
    assert sorted(order) == list(range(49)) and len({*order[:7] - np.arange(7)}) > 2
    explorer.choose("shuffle", "in order")
    explorer.slide("x", 0)
    explorer.root.locator("[name=picture]:checked").press("ArrowRight")
    near(explorer.values()["logits"], logits(models, images[6:7]), 1e-4)
    assert explorer.root.locator(".answers tr.true th").inner_text() == "Shirt"
    assert "This is: Shirt" in explorer.root.locator(".saying").inner_text()


def test_every_head_is_seen_and_chosen(opened, models, images):
    explorer = Explorer(opened, "network", FORMS.index("whole"))
    with torch.no_grad():
        weights = locality.attention_on(models[0], images[5:6])
        other = locality.attention_on(models[1], images[5:6])
    board = explorer.root.locator("[data-board='0'] [role=gridcell]")
    assert board.count() == 36
    board.nth(9 + 3).click()
    assert explorer.control("layer").input_value() == "1" and explorer.control("head").input_value() == "3"
    explorer.page.keyboard.press("ArrowDown")
    explorer.page.keyboard.press("ArrowRight")
    assert explorer.said.startswith("Layer 3, head 5.")
    explorer.walk(0, "ArrowUp")
    query = 2 * 7 + 3
    near(explorer.values()["mixed"], weights[2][0, 4, query], 1e-4)
    near(explorer.values()["other"], other[2][0, 4, 1 + query, 1:], 1e-4)
    most = divmod(weights[2][0, 4, query].argmax().item(), 7)
    label = board.nth(2 * 9 + 4).get_attribute("aria-label")
    assert label == f"layer 3, head 5, mixed: most at row {most[0] + 1}, column {most[1] + 1}"
    explorer.choose("layer", "4")
    explorer.choose("asks", "the class token")
    near(explorer.values()["mixed"], weights[3][0, 4, 0, 1:], 1e-4)
    assert "Query the class token" in explorer.said and "plain self-attention" in explorer.root.inner_text()


def test_back_through_training(opened, images):
    explorer = Explorer(opened, "network", FORMS.index("whole"))
    explorer.slide("step", 3)
    before = [networks.rounded(records.checkpoint(arm, step=600)) for arm in ("convit", "deit")]
    near(explorer.values()["logits"], logits(before, images[5:6]), 1e-4)
    assert "after 600 steps" in explorer.root.inner_text()


def test_without_the_moments_training_cannot_be_moved(new_page, outputs, tmp_path):
    (tmp_path / "page.html").write_text(html(outputs["whole"]), encoding="utf-8")
    page = new_page()
    page.goto((tmp_path / "page.html").as_uri())
    explorer = Explorer(page, "network")
    assert explorer.control("step").is_disabled() and "Run this cell with a kernel" in explorer.root.inner_text()


def test_accuracy_follows(opened, models, images):
    explorer = Explorer(opened, "network", FORMS.index("whole"))
    explorer.choose("scope", "all layers")
    explorer.control("gate").press("Home")
    scored = "/gates.:..0,0/.test(document.querySelector('[data-kind=network]').explorer.score?.settings)"
    opened.wait_for_function(scored, timeout=120_000)
    labels = torch.tensor(networks.pictures(data.load("fashion_mnist_5k"))["labels"])
    with torch.no_grad(), locality.forced_gates(models[0], 0):
        right = [int((model(images).argmax(1) == labels).sum()) for model in models]
    said = explorer.root.locator(".score").inner_text()
    assert said == f"Right of 100 stored pictures: ConViT {right[0]}, DeiT {right[1]}"


def test_a_reader_draws(opened):
    explorer = Explorer(opened, "network", FORMS.index("whole"))
    pad = explorer.root.locator(".pad canvas")
    assert not pad.is_visible()
    explorer.root.locator("[name=picture][value='-1']").check(force=True)
    assert pad.is_visible() and explorer.root.locator(".saying").inner_text().startswith("Your drawing. ConViT says")
    blank = explorer.values()["logits"]
    pad.focus()
    for _ in range(6):
        opened.keyboard.press("ArrowLeft")
        opened.keyboard.press("Space")
    dotted = explorer.values()["logits"]
    assert np.abs(dotted - blank).max() > 0.01
    box = pad.bounding_box()
    opened.mouse.move(box["x"] + 40, box["y"] + 40)
    opened.mouse.down()
    opened.mouse.move(box["x"] + 150, box["y"] + 60, steps=8)
    opened.mouse.up()
    assert np.abs(explorer.values()["logits"] - dotted).max() > 0.01
    explorer.root.get_by_role("button", name="clear").click()
    near(explorer.values()["logits"], blank)
    explorer.root.get_by_role("button", name="take the last picture").click()
    assert np.abs(explorer.values()["logits"] - blank).max() > 0.1


def test_one_layer_and_the_small_form(opened, models, images):
    layer = Explorer(opened, "network", FORMS.index("layer"))
    assert layer.root.locator("[data-board] [role=gridcell]").count() == 27
    assert layer.root.locator(".answers").count() == 0
    layer.choose("layer", "1")
    layer.choose("scope", "this layer")
    layer.control("gate").press("Home")
    near(layer.values()["mixed"], layer.values()["content"], 1e-7)
    small = Explorer(opened, "network", FORMS.index("small"))
    with torch.no_grad(), locality.forced_gates(models[0], 1):
        wanted = models[0](images[5:6])
    small.control("wide").press("Home")
    near(small.values()["logits"], wanted, 1e-4)
    assert "This is: Sandal. ConViT says Sneaker" in small.said and small.said.endswith("Gate 1.00.")


BREAKS = {
    "labels": ("convitData.pictures.labels.pop()", "99 labels, and pixels for 100 pictures"),
    "shape": ("convitData.pictures.size = [14, 56]", "pictures of 14 x 56 pixels do not fit convit"),
    "weights": ("convitData.convit.text = convitData.convit.text.slice(0, -400)", "the weights end before"),
    "missing": ("delete convitData.convit", "convit has not been loaded"),
}


@pytest.mark.parametrize("what", BREAKS)
def test_one_broken_explorer_says_so_and_the_others_go_on(new_page, outputs, tmp_path, what):
    breaking, sentence = BREAKS[what]
    whole = outputs["layer"].replace("<script>\n//", f"<script>{breaking}</script><script>\n//", 1)
    (tmp_path / "page.html").write_text(html(whole + outputs["positional"]), encoding="utf-8")
    page = new_page()
    page.goto((tmp_path / "page.html").as_uri())
    assert page.locator(".live").count() == 1 and page.locator(".broken").count() == 1 and page.errors == []
    assert sentence in page.locator(".broken [role=status]").inner_text()
    assert page.locator(".broken .still img:visible").count() == 1 and page.locator(".broken .ui").count() == 0


# --- for everybody


def test_a_grid_is_one_stop_and_its_cells_say_their_value(opened):
    explorer = Explorer(opened, "network", FORMS.index("layer"))
    grid = explorer.root.locator("[role=grid]").nth(3)
    assert grid.get_attribute("aria-label") == "Mixed" and grid.locator("[tabindex='0']").count() == 1
    explorer.walk(3, "ArrowDown", "ArrowLeft")  # from the cell to the right of the query
    chosen, place = grid.locator("[aria-selected=true]"), 4 * 7 + 3
    assert chosen.evaluate("cell => cell === document.activeElement")
    value = explorer.values()["mixed"][place]
    assert float(chosen.get_attribute("aria-label")) == pytest.approx(value, abs=0.006)
    assert "key row 5, column 4, offset 0, +1: " in explorer.said
    assert explorer.said.endswith(f"mixed {chosen.get_attribute('aria-label')}.")
    for _ in range(9):
        opened.keyboard.press("ArrowUp")  # stays in the grid
    assert "key row 1, column 4" in explorer.said
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
    touched = Explorer(page, "network", FORMS.index("layer"))
    touched.cell(0, 8).tap()
    assert "Query row 2, column 2;" in touched.said
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
    Explorer(page, "network").root.locator("[name=picture][value='-1']").check(force=True)  # the pad is there
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert chromium.violations(page) == []
    wide, high = page.locator("[role=gridcell]").first.evaluate("cell => [cell.offsetWidth, cell.offsetHeight]")
    assert wide == pytest.approx(high, abs=1.5) and wide > 12
