"""Explorers: pictures of attention that a reader can move, with no kernel and no network.

Arrays in, an `Explorer` out. As the last value of a cell it stands alone wherever its HTML goes: in the built book,
JupyterLab and Colab, and from a file. Its controls are native ones, its maps are grids for the arrow keys, and a live
sentence says what is under the cursor. Where no script runs, and in print, it is a still picture with a description.
`static/explorers.js` moves it, and knows the same closed forms as this module.
"""

import base64
import html
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources

import numpy as np
import torch

from .. import locality
from ..data import load
from ..lab import records
from ..positions import axis_attention
from . import networks
from .stills import VIRIDIS, maps

HEADS = (1, 4, 9, 16)
# What each of nine heads is worth, column by column as heads are numbered: 3 x 3 kernels by name.
FILTERS = {
    "edges, up and down": (0.25, 0, -0.25, 0.5, 0, -0.5, 0.25, 0, -0.25),
    "edges, left and right": (0.25, 0.5, 0.25, 0, 0, 0, -0.25, -0.5, -0.25),
    "sharpen": (0, -1, 0, -1, 5, -1, 0, -1, 0),
}
PICTURE = 8  # a bag
SCRIPTS = {"network": ("convit.js", "network.js")}  # what a kind needs beside explorers.js


@dataclass(frozen=True)
class Explorer:
    """Something to move in a page. Show it as the last value of a cell.

    Attributes:
        kind, title: which script moves it, and what it is called.
        data: what the script knows, as JSON.
        parts: its controls and empty grids, HTML.
        words: what the still picture shows, in words.
        still: that picture, SVG.
        shared: scripts by name with what several pages need alike; the built site puts them into files (`book/_ext`).
    """

    kind: str
    title: str
    data: dict
    parts: str
    words: str
    still: str
    shared: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"{self.title}. {self.words}"

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self._repr_html_()}

    def _repr_html_(self) -> str:
        data = json.dumps(self.data, separators=(",", ":")).replace("<", "\\u003c")
        picture = base64.b64encode(self.still.encode()).decode()
        return (
            f'<div class="convit-explorer" data-kind="{self.kind}" role="group" '
            f'aria-label="{html.escape(self.title)}">\n'
            f"<style>\n{_source('explorers.css')}</style>\n<p><b>{html.escape(self.title)}</b></p>\n"
            f'<p class="still"><img class="dark-light" alt="{html.escape(self.words)}" '
            f'src="data:image/svg+xml;base64,{picture}"></p>\n'
            # In a script: where a notebook is not trusted, its controls are gone with what moves them.
            f'<script type="text/html">{self.parts}</script>\n'
            f'<script type="application/json">{data}</script>\n'
            + "".join(f'<script data-shared="{name}">{text}</script>\n' for name, text in self.shared.items())
            + f"<script>\n{_source('explorers.js')}{''.join(map(_source, SCRIPTS.get(self.kind, ())))}"
            "window.convitExplorers.start();\n</script>\n</div>"
        )


@lru_cache
def _source(name: str) -> str:
    return (resources.files(__package__) / "static" / name).read_text(encoding="utf-8")


# --- the closed form, as in the script


def positional_attention(v_pos: Sequence[float], grid: tuple[int, int], query: int) -> np.ndarray:
    """The positional attention of one query patch (Eq 5 after the softmax): (G_h * G_w,), float64.

    `v_pos` = (w_x, w_y, w_d) weighs dx, dy and dx² + dy².
    """
    v_pos = torch.as_tensor(v_pos, dtype=torch.float64)[None]  # (1, 3): one head
    rows, columns = axis_attention(lambda r: r @ v_pos.T, grid, dtype=torch.float64)  # (1, G_h, G_h), (1, G_w, G_w)
    row, column = divmod(query, grid[1])
    return torch.outer(rows[0, row], columns[0, column]).flatten().numpy()


def gaussian(strength: float, centre: Sequence[float]) -> tuple[float, float, float]:
    """v_pos of a head of this locality strength, centred at (x, y) patches from the query (Eq 5)."""
    return 2 * strength * centre[0], 2 * strength * centre[1], -strength


# --- the explorers


def positional_explorer(strength: float = 1.0, centre: Sequence[float] = (1, 0), grid: int = 7) -> Explorer:
    """Attention by position: strength, centre, heads, grid and query decide a map and the kernel that it equals.

    The kernel is what the middle patch of a 7 x 7 grid gives to each offset. Below, heads that are worth a number each
    act on a picture, beside the 3 x 3 convolution with these numbers. It opens with a head of this
    `strength` (0 to 4, in steps of 0.05) and `centre` (x, y; -3 to 3, halves) on `grid` x `grid` patches (3 to 14);
    ValueError for others.
    """
    inside = 0 <= strength <= 4 and len(centre) == 2 and max(map(abs, centre)) <= 3 and grid in range(3, 15)
    on_step = inside and all(abs(steps - round(steps)) < 1e-9 for steps in (20 * strength, *(2 * c for c in centre)))
    if not on_step:
        raise ValueError(
            "An explorer of positions opens with a strength from 0 to 4 in steps of 0.05, a centre (x, y) from -3 to 3 "
            f"in halves, and 3 to 14 patches a side, not with {strength}, {centre} and {grid}."
        )
    query = (grid // 2) * grid + grid // 2
    v_pos = gaussian(strength, centre)
    attention, kernel = positional_attention(v_pos, (grid, grid), query), positional_attention(v_pos, (7, 7), 24)
    nine = all(offset in (-1, 0, 1) for offset in centre)  # then one of the nine heads stands there
    head = int(3 * (centre[0] + 1) + centre[1] + 1) if nine else 0
    fashion = load("fashion_mnist_5k")
    images = [fashion.test_images[fashion.test_labels == label][0, 0] for label in range(fashion.num_classes)]
    controls = (
        _slider("strength", "Locality strength α", 0, 4, 0.05, strength),
        _choice("heads", "Heads", {1: "1, placed by hand"} | {n: str(n) for n in HEADS[1:]}, 9 if nine else 1),
        _choice("head", "Head", {h: str(h + 1) for h in range(16)} | {16: "mean of all"}, head),
        _slider("x", "Centre Δx, columns", -3, 3, 0.5, centre[0]),
        _slider("y", "Centre Δy, rows", -3, 3, 0.5, centre[1]),
        _slider("size", "Grid: patches a side", 3, 14, 1, grid),
        _choice("filter", "The heads together", {0: "this head alone", 1: "mean"} | dict(enumerate(FILTERS, start=2)),
                3 if nine else 0),
        _choice("picture", "Picture", dict(enumerate(fashion.classes)), PICTURE),
        _tick("common", "one colour scale for both maps"),
    )  # fmt: skip
    words = (
        f"Two heat maps. One head of locality strength {strength:g}, centred {centre[0]:+g} columns and {centre[1]:+g} "
        f"rows from its query, on {grid} × {grid} patches. The query in the middle gives most to "
        f"{_largest(attention, grid)}. The other map is the same as a kernel over offsets."
    )
    still = maps([("attention of the query", attention.reshape(grid, grid), query),
                   ("kernel, by offset", kernel.reshape(7, 7), 24)], _top(attention, kernel))  # fmt: skip
    grids = _grid("Query patch", "query"), _grid("Attention", "cursor"), _grid("Kernel, by offset", "near")
    data = {
        "grid": [grid, grid], "size": list(images[0].shape), "filters": [None, None, *FILTERS.values()],
        "pixels": base64.b64encode(torch.stack(images).numpy().tobytes()).decode(),
    }  # fmt: skip
    shots = ("Picture, each pixel a token", "What the heads make of it", "The 3 × 3 convolution")
    panels = "".join(f'<div class="panel shot"><span>{shot}</span><canvas></canvas></div>' for shot in shots)
    table = f'<table class="kernel"><caption>3 × 3 kernel of the heads</caption>{"<tr><td><td><td></tr>" * 3}</table>'
    parts = _parts(controls, grids) + f'<div class="panels">{panels}{table}</div><p class="compared"></p>'
    return Explorer("positional", "Explorer: attention by position", data, parts, words, still)


FORMS = {  # of the explorer of networks, with their titles
    "whole": "Explorer: ConViT and DeiT, computed in this page",
    "layer": "Explorer: one layer of a trained ConViT",
    "small": "Move the gates of a trained ConViT",
}


def network_explorer(
    form: str = "whole",
    picture: int = 0,
    layer: int = 0,
    head: int = 0,
    query: tuple[int, int] = (3, 3),
    scope: int = 0,
) -> Explorer:
    """The shipped ConViT and its DeiT, computed in the page: what they attend to and what they answer.

    The reader chooses or draws a picture and moves the query, gates, absolute positions and patches. `form` is "whole",
    with both networks, accuracy and the moments of training; "layer", one layer of the ConViT; or "small", one head and
    a wide slider for the gates. It opens with that `picture` of `networks.pictures`, that `layer` and `head`, both from
    0, the `query` (row, column), and the slider moving a head (0), a layer (1) or all gates (2).

    The weights travel with the output, 200 kB a network; the moments of training, 2 MB, only where somebody watches
    (see `train.progress_shown`): the built site has them in a file. ValueError for what there is not.
    """
    arms = {"convit": "ConViT", "deit": "DeiT"} if form == "whole" else {"convit": "ConViT"}
    models = {name: networks.rounded(records.checkpoint(name)) for name in arms}
    (rows, columns), data = models["convit"].grid, load("fashion_mnist_5k")
    shown = networks.pictures(data)
    L, H = len(locality.gpsa_layers(models["convit"])), models["convit"].config["num_heads"]
    depth = len(models["convit"].blocks) if form == "whole" else L
    inside = picture in range(len(shown["labels"])) and layer in range(depth) and head in range(H) and scope in range(3)
    if form not in FORMS or not inside or query[0] not in range(rows) or query[1] not in range(columns):
        raise ValueError(
            f"A network explorer is one of {', '.join(FORMS)}, with a picture below {len(shown['labels'])}, one of "
            f"{depth} layers, {H} heads and {rows} x {columns} patches, and scope 0 to 2, not "
            f"{form}, {picture}, {layer}, {head}, {query} and {scope}."
        )
    place = query[0] * columns + query[1]
    steps = [*records.moments("convit"), records.steps("convit")] if form == "whole" else []
    number = shown["numbers"][picture]
    image = data.test_images[number, 0].numpy()  # (h, w)
    x, rows_of = data.normalize(data.test_images[number][None]), {}
    for name, model in models.items():
        for kind, gate in (("mixture", None), ("content", 0), ("position", 1)) if name == "convit" else (("", None),):
            weights = _of_layer(model, x, layer, gate)[head]  # (N, N)
            rows_of[kind or "DeiT"] = weights[place - rows * columns, -rows * columns :].cpu().double().numpy()
    with torch.no_grad():
        answers = {arms[name]: data.classes[model(x).argmax()] for name, model in models.items()}
    says = ", ".join(f"{name} says {answer}" for name, answer in answers.items())
    words = (
        f"A picture, a {data.classes[shown['labels'][picture]]}, and heat maps for its patch in row {query[0] + 1}, "
        f"column {query[1] + 1}, in layer {layer + 1}, head {head + 1} of a trained network. "
        + " ".join(f"{kind} gives most to {_largest(values, columns)}." for kind, values in rows_of.items())
        + f" The trained {says}."
    )
    order = [kind for kind in ("position", "content", "mixture", "DeiT") if kind in rows_of]
    panels = [(kind, rows_of[kind].reshape(rows, columns), place) for kind in order]
    still = maps(panels, _top(*rows_of.values()), image)
    told = {
        "form": form, "networks": list(arms), "names": arms, "picture": picture, "layer": layer, "head": head,
        "query": place, "cursor": place + 1 if query[1] + 1 < columns else place - 1, "scope": scope, "steps": steps,
        "maps": {"whole": ["position", "content", "mixed", "other"], "layer": ["position", "content", "mixed"],
                 "small": ["mixed"]}[form],
    }  # fmt: skip
    scripts = {name: networks.packed(model) for name, model in models.items()} | {"pictures": shown}
    if form == "whole" and os.environ.get("CONVIT_EDU_PROGRESS") != "0":
        scripts["moments"] = networks.moments()
    parts = _small_parts(told) if form == "small" else _network_parts(told, shown, depth, H)
    scripts = {name: networks.script(name, value) for name, value in scripts.items()}
    return Explorer("network", FORMS[form], told, parts, words, still, scripts)


@torch.no_grad()
def _of_layer(model, x: torch.Tensor, layer: int, gate: float | None) -> torch.Tensor:
    """The attention (H, N, N) of a layer on its true input; its own gates at `gate`, or as learned where None."""
    model(x, trace := {})
    plain = layer >= len(locality.gpsa_layers(model))
    with nullcontext() if gate is None or plain else locality.gates_at(model, {layer: gate}):
        return model.attention_weights(trace, layer)[0]


def _network_grids(told: Mapping) -> str:
    """The grids of a form: the query's, and a map of each kind that it shows."""
    names = {"position": "By position", "content": "By content", "mixed": "Mixed", "other": "DeiT, same layer and head"}
    return _grid("Query patch", "query") + "".join(_grid(names[kind], "cursor") for kind in told["maps"])


def _small_parts(told: Mapping) -> str:
    wide = (
        f'<label class="wide"><span class="ends"><span>neighbours only</span><span>content only</span></span>'
        f'<input {OURS} type="range" name="wide" aria-label="Gates, from neighbours only to content only" min="0" '
        'max="1" step="0.01" value="0.5"></label>'
    )
    return (
        f'<div class="panels">{_network_grids(told)}</div>\n{wide}\n'
        f'<p class="beside"><button type="button" name="trained" {OURS}>as trained</button></p>\n{READING}'
    )


def _network_parts(told: Mapping, shown: Mapping, depth: int, heads: int) -> str:
    """Controls, grids and texts of the explorer of networks; `static/network.js` fills them."""
    form, steps, grids = told["form"], told["steps"], _network_grids(told)
    classes = [shown["classes"][label] for label in shown["labels"][: shown["shown"]]]
    gallery = "".join(
        f'<label><input {OURS} type="radio" name="picture" value="{k}" aria-label="{html.escape(name)} {k // 10 + 1}"'
        f'{" checked" * (k == told["picture"])}><canvas></canvas></label>' for k, name in enumerate(classes)
    )  # fmt: skip
    gallery += f'<label><input {OURS} type="radio" name="picture" value="-1"><span>draw</span></label>'
    pad = (
        f'<div class="pad" hidden><canvas tabindex="0" {OURS} role="application" aria-label="Draw: arrow keys move the '
        f'pen, the space bar makes a dot"></canvas><p class="beside">'
        f'<button type="button" name="clear" {OURS}>clear</button> <button type="button" name="copy" {OURS}>'
        f'take the last picture</button></p>{_tick("eraser", "erase")}</div>'
    )
    controls = [
        _choice("layer", "Layer", {n: str(n + 1) for n in range(depth)}, told["layer"]),
        _choice("head", "Head", {n: str(n + 1) for n in range(heads)}, told["head"]),
        _choice("scope", "The gate of", {0: "this head", 1: "this layer", 2: "all layers"}, told["scope"]),
        _slider("gate", "Gate, share of position", 0, 1, 0.01, 0.5),
        f'<span class="beside"><button type="button" name="trained" {OURS}>gates as trained</button></span>',
    ]
    boards = _board("Every head of this layer: by position, by content, mixed", 0)
    more = answers = ""
    if form == "whole":
        controls += [
            _slider("step", "Training", 0, len(steps) - 1, 1, len(steps) - 1),
            _choice("asks", "The query is", {0: "a patch", 1: "the class token"}),
            _choice("which", "Small maps", {0: "by position", 1: "by content", 2: "mixed"}, 2),
            _slider("x", "Patches shifted, columns", -3, 3, 1, 0),
            _slider("y", "Patches shifted, rows", -3, 3, 1, 0),
            _choice("shuffle", "Patches", {0: "in order", 1: "shuffled", 2: "shuffled anew", 3: "and anew"}),
            _tick("zero", "absolute positions set to zero"),
        ]
        arms = enumerate(told["names"].values())
        boards = "".join(_board(f"Every head of {name}, a row a layer", n) for n, name in arms)
        answers = '<table class="answers"></table><p class="score" aria-live="polite"></p>'
        more = '<span hidden data-moments=""></span><p class="later"></p>'
    controls.append(_tick("common", "one colour scale for all maps"))
    return (
        f'<fieldset class="gallery"><legend>Picture</legend>{gallery}</fieldset>{pad}\n'
        f'<div class="controls">{"".join(controls)}</div>{more}\n<div class="panels">{grids}</div>\n{BAR}\n'
        f'<div class="boards">{boards}</div>\n<p class="saying"></p>{answers}\n{HOW}\n<p class="summary"></p>{READING}'
    )


# --- what they share


def _top(*maps: np.ndarray) -> float:
    return max(float(values.max()) for values in maps)


def _largest(values: np.ndarray, columns: int) -> str:
    """Where a map is largest, in words."""
    row, column = divmod(int(values.argmax()), columns)
    return f"row {row + 1}, column {column + 1} ({values.max():.2f})"


# --- HTML

READING = '<p class="reading" role="status" aria-live="polite"></p>'
OURS = 'data-lm-suppress-shortcuts="true"'  # on what has the focus: JupyterLab leaves its keys alone


def _slider(name: str, label: str, low: float, high: float, step: float, value: float) -> str:
    return (
        f'<label><span>{label}: <b></b></span><input {OURS} type="range" name="{name}" '
        f'min="{low:g}" max="{high:g}" step="{step:g}" value="{value:g}"></label>'
    )


def _choice(name: str, label: str, entries: Mapping[int, str], chosen: int | None = None) -> str:
    options = "".join(
        f'<option value="{value}"{" selected" * (value == chosen)}>{html.escape(text)}</option>'
        for value, text in entries.items()
    )
    return f'<label><span>{label}</span><select {OURS} name="{name}">{options}</select></label>'


def _grid(title: str, moves: str) -> str:
    """An empty grid; `moves` says what choosing a cell of it does: "query", "cursor", or "near" of the kernel."""
    label = f'role="grid" aria-label="{title}" data-moves="{moves}"'
    return f'<div class="panel"><span>{title}</span><div {label}></div></div>'


def _tick(name: str, label: str) -> str:
    return f'<label class="tick"><input {OURS} type="checkbox" name="{name}"><span>{label}</span></label>'


def _board(title: str, network: int) -> str:
    """An empty grid of small maps, a head each."""
    grid = f'<div role="grid" aria-label="{title}" data-board="{network}"></div>'
    return f'<div class="board"><span>{title}</span>{grid}</div>'


_STRIP = f"linear-gradient(90deg,#{',#'.join(VIRIDIS)})"
BAR = f'<p class="bar">0 <i style="background:{_STRIP}"></i> <span class="largest"></span></p>'
HOW = "<p>The first grid chooses the query, the others are read: click, touch, or use the arrow keys.</p>"


def _parts(controls: Sequence[str], grids: Sequence[str]) -> str:
    return (
        f'<div class="controls">{"".join(controls)}</div>\n<div class="panels">{"".join(grids)}</div>\n{BAR}\n{HOW}\n'
        f'<p class="summary"></p>{READING}'
    )
