"""Arrays in, Figure out. One palette, chosen so that colour-blind readers can tell its colours apart.

Figures have an opaque white ground, which the built book keeps in dark mode too, so that heat maps show their
true colours. Each function's docstring says what its picture shows; a chapter adds the alternative text.
"""

import itertools
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

COLOURS = {
    "ConViT": "#0072B2", "DeiT": "#D55E00", "position": "#009E73", "content": "#CC79A7",
    "mixture": "#000000", "reference": "#777777",
}  # fmt: skip
HEAT = "viridis"


def array(values) -> np.ndarray:
    """A numpy array from a tensor (on any device, with a gradient or not), a list or an array."""
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def maps(
    panels: Sequence,
    titles: Sequence[str],
    query: tuple[int, int] | None = None,
    columns: int | None = None,
    vmax: float | None = None,
    label: str = "attention",
    picture=None,
    one_scale: bool = True,
) -> Figure:
    """Heat maps side by side, all on one colour scale from 0 to `vmax` (the largest value where None).

    With `one_scale=False` each map is drawn from 0 to its own largest value, and there is no colour bar.
    `panels` are (G_h, G_w); `query` = (row, column) is marked by a cross in each. A grey `picture` (h, w), values
    0 to 255, is drawn before them with the query's patch framed.
    """
    panels = [array(panel) for panel in panels]
    places = len(panels) + (picture is not None)
    columns = columns or places
    rows = -(-places // columns)
    vmax = vmax or max(panel.max() for panel in panels)
    size = (0.8 + 1.6 * columns, 1.75 * rows)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, squeeze=False, layout="constrained", facecolor="white"
    )
    for axis in axes.flat[places:]:
        axis.remove()
    for axis in axes.flat[:places]:
        axis.set_xticks([])
        axis.set_yticks([])
    if picture is not None:
        _framed(axes.flat[0], array(picture), query, panels[0].shape)
    for axis, panel, title in zip(axes.flat[places - len(panels) :], panels, titles, strict=False):
        image = axis.imshow(panel, cmap=HEAT, vmin=0, vmax=vmax if one_scale else panel.max())
        axis.set_title(title, fontsize=9)
        if query is not None:
            axis.plot(query[1], query[0], marker="x", color="white", markersize=7, markeredgewidth=2)
    if one_scale:
        figure.colorbar(image, ax=axes, shrink=0.8, label=label)
    return figure


def _framed(axis, picture: np.ndarray, query: tuple[int, int] | None, grid: tuple[int, int]) -> None:
    """A grey picture with one patch of its grid framed."""
    axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
    axis.set_title("image and query", fontsize=9)
    if query is not None:
        high, wide = picture.shape[0] / grid[0], picture.shape[1] / grid[1]
        corner = (query[1] * wide - 0.5, query[0] * high - 0.5)
        axis.add_patch(Rectangle(corner, wide, high, fill=False, edgecolor="#E69F00", linewidth=2))


def curves(
    series: Mapping[str, tuple], xlabel: str, ylabel: str, band: bool = True, log: str = "", size=(5.5, 3.2)
) -> Figure:
    """Lines by name: each is (x, y) with y (points,) or (runs, points); for several runs the mean and every run.

    A name that begins with a palette entry ("ConViT, 4 heads") takes its colour; others take what is left.
    """
    taken = {key for key in COLOURS for name in series if name.startswith(key)}
    left = itertools.cycle(value for key, value in COLOURS.items() if key not in taken)
    figure, axis = plt.subplots(figsize=size, layout="constrained", facecolor="white")
    for name, (x, y) in series.items():
        x, y = array(x), np.atleast_2d(array(y))
        colour = next((value for key, value in COLOURS.items() if name.startswith(key)), None) or next(left)
        (line,) = axis.plot(x, y.mean(0), marker="o", markersize=4, label=name, color=colour)
        if band and len(y) > 1:
            for run in y:
                axis.plot(x, run, linewidth=0.8, alpha=0.4, color=line.get_color())
    if "x" in log:
        axis.set_xscale("log")
    if "y" in log:
        axis.set_yscale("log")
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def pictures(images: Sequence, titles: Sequence[str], columns: int = 10) -> Figure:
    """Images (C, h, w) with values in 0 to 255, grey or colour, with a title over each."""
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(0.95 * columns, 1.2 * rows), squeeze=False, layout="constrained", facecolor="white"
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        axis.imshow(array(image).transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=255)
        axis.set_title(title, fontsize=8)
    return figure
