"""Explorers: pictures of attention and of learning curves that a reader can move, with no kernel and no network.

Arrays in, an `Explorer` out. As the last value of a cell it stands alone wherever its HTML goes: in the built book,
JupyterLab and Colab, and from a file. Its controls are native ones, its maps are grids for the arrow keys, and a live
sentence says what is under the cursor. Where no script runs, and in print, it is a still picture with a description.
`static/explorers.js` moves it, and knows the same closed forms as this module.
"""

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
import torch

from ..lab.packing import as_text, pack, unpack
from ..positions import axis_attention
from .stills import ACROSS, HIGH, LEFT, LINES, VIRIDIS, WIDE, array, chart, charts_in_rows, maps, png

HEADS = (1, 4, 9, 16)


@dataclass(frozen=True)
class Explorer:
    """Something to move in a page. Show it as the last value of a cell.

    Attributes:
        kind, title: which script moves it, and what it is called.
        data: what the script knows, as JSON.
        parts: its controls and empty grids, HTML.
        words: what the still picture shows, in words.
        still: that picture, SVG.
    """

    kind: str
    title: str
    data: dict
    parts: str
    words: str
    still: str

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
            f"<script>\n{_source('explorers.js')}</script>\n</div>"
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

    The kernel is what the middle patch of a 7 x 7 grid gives to each offset. It opens with one head of this
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
    controls = (
        _slider("strength", "Locality strength α", 0, 4, 0.05, strength),
        _choice("heads", "Heads", {1: "1, placed by hand"} | {number: str(number) for number in HEADS[1:]}),
        _choice("head", "Head", {h: str(h + 1) for h in range(16)} | {16: "mean of all"}),
        _slider("x", "Centre Δx, columns", -3, 3, 0.5, centre[0]),
        _slider("y", "Centre Δy, rows", -3, 3, 0.5, centre[1]),
        _slider("size", "Grid: patches a side", 3, 14, 1, grid),
    )
    words = (
        f"Two heat maps. One head of locality strength {strength:g}, centred {centre[0]:+g} columns and {centre[1]:+g} "
        f"rows from its query, on {grid} × {grid} patches. The query in the middle gives most to "
        f"{_largest(attention, grid)}. The other map is the same as a kernel over offsets."
    )
    still = maps([("attention of the query", attention.reshape(grid, grid), query),
                   ("kernel, by offset", kernel.reshape(7, 7), 24)], _top(attention, kernel))  # fmt: skip
    grids = _grid("Query patch", "query"), _grid("Attention", "cursor"), _grid("Kernel, by offset", "near")
    data = {"grid": [grid, grid]}
    return Explorer("positional", "Explorer: attention by position", data, _parts(controls, grids), words, still)


def gate_explorer(picture, content, position, gates, grid: tuple[int, int] | None = None) -> Explorer:
    """Content, position and their mixture in the GPSA layers of a model, on one picture; the gate is the reader's.

    Args:
        picture: grey, (h, w), 0 to 255.
        content: the softmax of the content scores, (L, H, N, N); shown at 8 bits a value.
        position: `pos_proj.weight` of each layer, (L, H, 3); its attention is computed in the page.
        gates: sigma(lambda), (L, H): where the slider stands for each head at first.
        grid: (G_h, G_w) of the N patches; square where None.

    Raises ValueError if the shapes do not fit each other.
    """
    content, position, gates = (array(value) for value in (content, position, gates))
    shape = content.shape
    if len(shape) != 4 or shape[2] != shape[3] or (position.shape, gates.shape) != ((*shape[:2], 3), shape[:2]):
        raise ValueError(
            "The gate explorer needs content (L, H, N, N), position (L, H, 3) and gates (L, H), not "
            f"{shape}, {position.shape} and {gates.shape}."
        )
    grid = _fitting(grid, shape[-1])
    query = _middle(grid)
    packed = [pack(layer, 8) for layer in content]
    seen = unpack(packed[0], shape[-1], 8)[0, query]
    stood, gate = positional_attention(position[0, 0], grid, query), round(float(gates[0, 0]), 3)
    mixture = (1 - gate) * seen + gate * stood
    controls = (
        _choice("layer", "Layer", {layer: str(layer + 1) for layer in range(shape[0])}),
        _choice("head", "Head", {head: str(head + 1) for head in range(shape[1])}),
        _slider("gate", "Gate σ(λ), share of position", 0, 1, 0.001, gate),
    )
    words = (
        f"A picture and three heat maps for the patch in its middle: layer 1, head 1, with the learned gate {gate:g}. "
        + " ".join(f"{name} gives most to {_largest(values, grid[1])}."
                   for name, values in (("Content", seen), ("Position", stood), ("The mixture", mixture)))
    )  # fmt: skip
    panels = [(name, values.reshape(grid), query)
              for name, values in (("content", seen), ("position", stood), ("mixture", mixture))]  # fmt: skip
    still = maps(panels, _top(seen, stood), picture)
    grids = [_grid("Query patch", "query", picture)]
    grids += [_grid(name, "cursor") for name in ("Content", "Position", "Mixture")]
    data = {
        "grid": list(grid), "bits": 8, "content": [as_text(layer) for layer in packed],
        "position": position.round(9).tolist(), "gates": gates.round(3).tolist(),
    }  # fmt: skip
    return Explorer("gate", "Explorer: content, position and the gate", data, _parts(controls, grids), words, still)


def trained_explorer(
    picture, models: Mapping[str, Mapping[int, Sequence]], grid: tuple[int, int] | None = None
) -> Explorer:
    """Recorded attention of trained models on one picture: model, training step, layer, head and query to choose.

    Args:
        picture: grey, (h, w), 0 to 255.
        models: by name and by number of training steps done, a list of layers, each (H, N, N) with a query a row; N is
            the number of patches, and one more, in front, where there is a class token. Shown at 4 bits a value.
        grid: (G_h, G_w) of the patches; square where None.

    Raises ValueError if the models differ in steps or in the number of layers, or if a layer does not fit the grid.
    """
    layers = {name: {step: list(map(array, found)) for step, found in steps.items()} for name, steps in models.items()}
    extents = {(tuple(steps), len(found)) for steps in layers.values() for found in steps.values()}
    if len(extents) != 1:
        raise ValueError("The models of one explorer need the same training steps and the same number of layers.")
    ((steps, depth),) = extents
    fewest = min(a.shape[-1] for by_step in layers.values() for a in by_step[steps[0]])
    grid = _fitting(grid, fewest if grid is None else grid[0] * grid[1])
    patches, data = grid[0] * grid[1], []
    for name, by_step in layers.items():
        heads, tokens = by_step[steps[0]][0].shape[0], [a.shape[-1] for a in by_step[steps[0]]]
        for found in by_step.values():
            shapes = [a.shape for a in found]
            if shapes != [(heads, n, n) for n in tokens] or not set(tokens) <= {patches, patches + 1}:
                raise ValueError(
                    f"The attention of {name} must be (H, N, N) in every layer, H the same and N being {patches} or "
                    f"{patches + 1}, not {', '.join(map(str, shapes))}."
                )
        texts = [[as_text(pack(a)) for a in found] for found in by_step.values()]
        data.append({"name": name, "heads": heads, "tokens": tokens, "maps": texts})
    most, query = max(model["heads"] for model in data), _middle(grid)
    controls = (
        _choice("model", "Model", dict(enumerate(layers))),
        _choice("step", "Training", {k: f"after {step} steps" for k, step in enumerate(steps)}, len(steps) - 1),
        _choice("layer", "Layer", {layer: str(layer + 1) for layer in range(depth)}),
        _choice("head", "Head", {head: str(head + 1) for head in range(most)} | {most: "mean of all"}),
        _choice("query", "The query is", {0: "a patch", 1: "the class token"}),
    )
    panels = []
    for name, by_step in layers.items():
        for step, found in by_step.items():
            row = unpack(pack(found[0]), found[0].shape[-1])[0, query - patches][-patches:]
            panels.append((f"{name}, {step} steps", row.reshape(grid), query))
    words = (
        f"A picture and, for the patch in its middle, heat maps of head 1 of the first layer of {' and '.join(layers)} "
        f"after {', '.join(map(str, steps))} training steps. "
        + " ".join(f"{name}: most at {_largest(values.ravel(), grid[1])}." for name, values, _ in panels)
    )
    still = maps(panels, _top(*(values for _, values, _ in panels)), picture)
    grids = _grid("Query patch", "query", picture), _grid("Attention", "cursor")
    whole = {"grid": list(grid), "bits": 4, "models": data}
    return Explorer("trained", "Explorer: what trained models attend to", whole, _parts(controls, grids), words, still)


def curves_explorer(cells: Mapping[tuple[int, float], tuple[Sequence[int], Mapping[str, Sequence]]]) -> Explorer:
    """Learning curves by number of training steps and share of the images, each with its interval, and their gap.

    Args:
        cells: by (steps, fraction), the steps at which accuracy was measured, P of them, and the lines: "ConViT",
            "DeiT" and "gap", each (P, 2) with the mean, in per cent or points, and half its 95 % interval.

    Raises ValueError if a line is missing or not as long as the steps, or if the cells were not measured equally often.
    """
    wanted, number = {*LINES, "gap"}, {len(x) for x, _ in cells.values()}
    if len(number) != 1:
        raise ValueError("An explorer of curves needs a cell, and the same number of evaluations in all of them.")
    (number,) = number
    arrays = {key: (x, {name: array(line) for name, line in lines.items()}) for key, (x, lines) in cells.items()}
    for key, (_, lines) in arrays.items():
        if set(lines) != wanted or any(line.shape != (number, 2) for line in lines.values()):
            raise ValueError(
                f"Cell {key} needs the lines {', '.join(sorted(wanted))}, each with a mean and half an interval for "
                f"every evaluation, ({number}, 2), not { {name: line.shape for name, line in lines.items()} }."
            )
    ranges = _span(arrays, LINES), _span(arrays, ["gap"])  # the same for all cells
    shares = sorted({fraction for _, fraction in arrays})
    budgets = list(dict.fromkeys(steps for steps, _ in arrays))
    data, charts = [], []
    for (steps, fraction), (x, lines) in arrays.items():
        charts.append(chart(steps, x, lines, *ranges))
        rounded = {name: [[round(m, 6), None if math.isnan(h) else round(h, 6)] for m, h in line.tolist()]
                   for name, line in lines.items()}  # fmt: skip
        said = [{name: line[k] for name, line in rounded.items()} for k in range(number)]
        data.append({
            "steps": steps, "share": shares.index(fraction), "x": list(map(int, x)), "values": said,
            "words": [_said(step, steps, fraction, values) for step, values in zip(x, said)],
        })  # fmt: skip
    drawn = "".join(
        f'<svg class="chart" viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="{_over(*key)}: accuracy in per cent '
        f'against training steps" hidden>{content}</svg>' for key, content in zip(arrays, charts)
    )  # fmt: skip
    controls = (
        _choice("steps", "Training steps", {steps: f"{steps:,}" for steps in budgets}, budgets[-1]),
        _choice("share", "Training images", {k: _percent(fraction) for k, fraction in enumerate(shares)}),
        _slider("when", "Evaluation", 1, number, 1, number),
    )
    chosen = f'<div class="charts">{drawn}<i class="line"></i></div>'
    parts = f'<div class="controls">{"".join(controls)}</div>\n{chosen}\n{READING}'
    words = "Learning curves of ConViT and DeiT with 95 % intervals. At the end of each: " + " ".join(
        cell["words"][-1] for cell in data
    )
    whole = {"cells": data, "left": 100 * LEFT / WIDE, "width": 100 * ACROSS / WIDE}
    still = charts_in_rows([_over(*key) for key in arrays], charts)
    return Explorer("curves", "Explorer: less data or fewer steps", whole, parts, words, still)


# --- what they share


def _fitting(grid: tuple[int, int] | None, tokens: int) -> tuple[int, int]:
    side = math.isqrt(tokens)
    grid = (side, side) if grid is None else (int(grid[0]), int(grid[1]))
    if grid[0] * grid[1] != tokens:
        raise ValueError(f"{tokens} patches do not fill a grid of {grid[0]} x {grid[1]}; pass grid=(rows, columns).")
    return grid


def _middle(grid: tuple[int, int]) -> int:
    return grid[0] // 2 * grid[1] + grid[1] // 2


def _top(*maps: np.ndarray) -> float:
    return max(float(values.max()) for values in maps)


def _largest(values: np.ndarray, columns: int) -> str:
    """Where a map is largest, in words."""
    row, column = divmod(int(values.argmax()), columns)
    return f"row {row + 1}, column {column + 1} ({values.max():.2f})"


def _span(cells: Mapping, names: Sequence[str]) -> tuple[int, int]:
    """The tens between which lines lie with their intervals."""
    lines = np.stack([lines[name] for _, lines in cells.values() for name in names])  # (.., P, 2)
    mean, half = lines[..., 0], np.nan_to_num(lines[..., 1])
    return 10 * math.floor((mean - half).min() / 10), 10 * math.ceil((mean + half).max() / 10)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:g} %"


def _over(steps: int, fraction: float) -> str:
    return f"{steps:,} steps, {_percent(fraction)} of the images"


def _said(step: int, steps: int, fraction: float, values: Mapping[str, Sequence[float]]) -> str:
    def shown(name: str, sign: str = "") -> str:
        mean, half = values[name]
        return f"{mean:{sign}.1f}" + (f" ± {half:.1f}" if half is not None else "")

    arms = ", ".join(f"{name} {shown(name)} %" for name in LINES)
    return f"After {step:,} of {_over(steps, fraction)}: {arms}; gap {shown('gap', '+')} points."


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


def _grid(title: str, moves: str, picture=None) -> str:
    """An empty grid; `moves` says what choosing a cell of it does: "query", "cursor", or "near" of the kernel."""
    ground = "" if picture is None else f' style="background-image:url({png(picture)})"'
    label = f'role="grid" aria-label="{title}" data-moves="{moves}"'
    return f'<div class="panel"><span>{title}</span><div {label}{ground}></div></div>'


def _parts(controls: Sequence[str], grids: Sequence[str]) -> str:
    strip = f"linear-gradient(90deg,#{',#'.join(VIRIDIS)})"
    return (
        f'<div class="controls">{"".join(controls)}</div>\n<div class="panels">{"".join(grids)}</div>\n'
        f'<p class="bar">0 <i style="background:{strip}"></i> <span class="largest"></span></p>\n'
        "<p>The first grid chooses the query, the others are read: click, touch, or use the arrow keys.</p>\n"
        f'<p class="summary"></p>{READING}'
    )
