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
        figure.colorbar(image, ax=list(axes.flat[:places]), shrink=0.8, label=label)
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


def forest(rows: Mapping[str, Mapping], xlabel: str, marks: Mapping[str, Mapping] | None = None, mark="") -> Figure:
    """Differences with intervals, a line a name and 0 as a dashed line: `rows[name][series]` is (mean, half-width).

    `marks[name][series]` are values to compare with, hollow diamonds in the colour of the series, `mark` their name.
    """
    marks = marks or {}
    series = list(dict.fromkeys(one for row in rows.values() for one in row))
    colours = dict(zip(series, itertools.cycle(("#009E73", "#CC79A7", "#777777"))))
    size = (7, 1 + 0.2 * len(rows) * (1 + len(series)))
    figure, axis = plt.subplots(figsize=size, layout="constrained", facecolor="white")
    for line, name in enumerate(rows):
        for one, (mean, half) in rows[name].items():
            y, colour = line + 0.26 * (series.index(one) - (len(series) - 1) / 2), colours[one]
            axis.errorbar(mean, y, xerr=np.nan_to_num(half), fmt="o", markersize=5, capsize=3, color=colour)
            if one in marks.get(name, {}):
                axis.plot(marks[name][one], y, "D", markersize=6, markerfacecolor="none", color=colour, alpha=0.8)
    axis.axvline(0, color="black", linestyle="--", linewidth=0.8)
    axis.set_yticks(range(len(rows)), list(rows))
    axis.set_ylim(len(rows) - 0.4, -0.6)  # the first line on top
    keys = [axis.plot([], [], "o-", color=colours[one], label=one)[0] for one in series if len(series) > 1]
    if mark:
        keys += axis.plot([], [], "D", markerfacecolor="none", color="black", label=mark)
    if keys:
        figure.legend(handles=keys, loc="outside upper center", ncols=len(keys), frameon=False)
    axis.set_xlabel(xlabel)
    axis.grid(axis="x", alpha=0.3)
    return figure


def numbers(values, rows: Sequence[str], columns: Sequence[str], words, xlabel: str, ylabel: str, label: str) -> Figure:
    """A table as a heat map: `values` (rows, columns) as colours, `words` of the same shape written into the cells."""
    values = array(values)
    size = (2 + 1.35 * len(columns), 1.2 + 0.6 * len(rows))
    figure, axis = plt.subplots(figsize=size, layout="constrained", facecolor="white")
    image = axis.imshow(values, cmap=HEAT, aspect="auto")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (row, column), value in np.ndenumerate(values):
        ink = "black" if value > middle else "white"
        axis.text(column, row, words[row][column], ha="center", va="center", color=ink, fontsize=10)
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    figure.colorbar(image, ax=axis, label=label)
    return figure


def intervals(
    panels: Mapping[str, Mapping[str, tuple]], xlabels: Sequence[str], ylabel: str, log="", zero=False, size=(4, 3.8)
) -> Figure:
    """Lines with their intervals as bars, panels side by side on one vertical axis: `panels[title][name]` is
    (x, mean, half-width), points each, with None for a half-width where there is none.

    What stands in a name before the first comma gives the colour, as in `curves`; a second line of a colour is dashed,
    a third dotted. `size` is a panel's; `zero` marks 0. On a logarithmic axis lines stand 2 % apart.
    """
    names = dict.fromkeys(name.split(",")[0] for lines in panels.values() for name in lines)
    left = itertools.cycle(value for key, value in COLOURS.items() if key not in ("ConViT", "DeiT"))
    colours = {name: COLOURS.get(name) or next(left) for name in names}
    width, height = size
    figure, axes = plt.subplots(
        1, len(panels), figsize=(width * len(panels), height), sharey=True, squeeze=False, layout="constrained",
        facecolor="white",
    )  # fmt: skip
    for axis, (title, lines), xlabel in zip(axes.flat, panels.items(), xlabels):
        drawn, points = [], sorted({float(value) for x, _, _ in lines.values() for value in x})
        for number, (name, (x, mean, half)) in enumerate(lines.items()):
            key = name.split(",")[0]
            dashes = ("-", "--", ":")[drawn.count(key) % 3]
            drawn.append(key)
            bars = None if half is None else np.nan_to_num(array(half))
            apart = 1.02 ** (number - (len(lines) - 1) / 2) if "x" in log else 1  # so that bars can be told apart
            axis.errorbar(apart * array(x), array(mean), yerr=bars, marker="o", markersize=4, capsize=2, elinewidth=1,
                          linestyle=dashes, color=colours[key], label=name)  # fmt: skip
        if zero:
            axis.axhline(0, color="black", linestyle="--", linewidth=0.8)
        if "x" in log:
            axis.set_xscale("log")
        if len(points) > 5 and "x" in log:
            round_numbers = [m * 10.0**e for e in range(-3, 7) for m in (1, 2, 5)]
            points = [point for point in round_numbers if points[0] <= point <= points[-1]]
        if len(points) < 8:  # few enough to be named
            axis.set_xticks(points, [f"{point:g}" for point in points])
            axis.set_xticks([], minor=True)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(xlabel)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=min(3, -(-len(lines) // 2)))
    axes[0, 0].set_ylabel(ylabel)
    return figure


def small_multiples(
    groups: Mapping[str, Mapping[str, tuple]],
    xlabel: str,
    ylabel: str,
    reference: tuple[str, float] | None = None,
    size=(3.6, 3.2),
) -> Figure:
    """Panels side by side on one vertical axis: `groups[title][name]` is (x, y), y being (points,) or (runs, points).

    Of several runs each is drawn thin and their mean thick. The lines of a panel go from dark to light in their
    order, unless they are in the palette. `reference` = (label, value) is a dashed line in every panel.
    """
    width, height = size
    figure, axes = plt.subplots(
        1, len(groups), figsize=(width * len(groups), height), sharey=True, squeeze=False, layout="constrained",
        facecolor="white",
    )  # fmt: skip
    drawn = {}  # one key for all panels
    for axis, (title, lines) in zip(axes.flat, groups.items()):
        shades = plt.get_cmap(HEAT)(np.linspace(0, 0.85, len(lines)))
        for (name, (x, y)), shade in zip(lines.items(), shades):
            x, y = array(x), np.atleast_2d(array(y))
            colour = next((value for key, value in COLOURS.items() if name.startswith(key)), shade)
            axis.plot(x, y.T, color=colour, linewidth=0.7, alpha=0.4 * (len(y) > 1))
            drawn[name] = axis.plot(x, y.mean(0), color=colour, marker="o", markersize=3.5, linewidth=2, label=name)[0]
        if reference is not None:
            label, value = reference
            drawn[label] = axis.axhline(value, color=COLOURS["reference"], linestyle="--", label=label)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(xlabel)
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel(ylabel)
    figure.legend(handles=list(drawn.values()), loc="outside upper center", ncols=min(len(drawn), 6), frameon=False)
    return figure


def bars(groups: Mapping[str, Mapping[str, Sequence[float]]], ylabel: str, size=(5.5, 3.2)) -> Figure:
    """Groups of bars: `groups[name][bar]` are the values of the runs, drawn as dots on the bar of their mean."""
    names = list(dict.fromkeys(bar for group in groups.values() for bar in group))
    left = itertools.cycle(value for key, value in COLOURS.items() if key not in ("ConViT", "DeiT", *names))
    figure, axis = plt.subplots(figsize=size, layout="constrained", facecolor="white")
    for number, name in enumerate(names):
        found = [array(group.get(name, [np.nan])) for group in groups.values()]
        places = np.arange(len(groups)) + 0.8 * ((number + 0.5) / len(names) - 0.5)
        colour = COLOURS.get(name) or next(left)
        axis.bar(places, [values.mean() for values in found], 0.76 / len(names), color=colour, alpha=0.6, label=name)
        for place, values in zip(places, found):
            axis.plot(np.full(len(values), place), values, ".", color="black", markersize=4)
    axis.set_xticks(range(len(groups)), list(groups))
    axis.set_ylabel(ylabel)
    axis.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=len(names), frameon=False)
    return figure
