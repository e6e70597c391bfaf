"""Arrays in, Figure out. One palette, chosen so that colour-blind readers can tell its colours apart.

Figures have an opaque white ground, which the built book keeps in dark mode too, so that heat maps show their
true colours. None is wider than `WIDE`: on a phone its letters are then at least half as large as the page's. A
notebook stores marks as SVG, and pictures and heat maps as PNG at twice the density (`store_figures`). Each function's
docstring says what its picture shows; a chapter adds the alternative text.
"""

import itertools
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

COLOURS = {
    "ConViT": "#0072B2", "DeiT": "#D55E00", "position": "#009E73", "content": "#CC79A7",
    "mixture": "#000000", "reference": "#777777",
}  # fmt: skip
HEAT = "viridis"
WIDE = 6.0  # inches
MANY = 6000  # points: more make an SVG heavier than the PNG
plt.rcParams.update({
    "font.size": 11, "axes.titlesize": 11, "legend.fontsize": 10.5,
    # A browser writes the letters of an SVG itself; Verdana is as wide as DejaVu, by which they were set.
    "svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans", "Verdana"], "svg.hashsalt": "convit_edu",
})  # fmt: skip

# --- how a notebook stores a figure


def marks_only(figure: Figure) -> bool:
    """Lines, bars and words, not too many: no picture, no heat map."""
    points = sum(len(line.get_xdata()) for axis in figure.axes for line in axis.lines)
    return points <= MANY and not figure.findobj(AxesImage) and not figure.findobj(QuadMesh)


def as_svg(figure: Figure) -> str | None:
    """A figure of marks as SVG, the same text for the same figure; None for another."""
    from IPython.core.pylabtools import print_figure

    if not marks_only(figure):
        return None
    text = print_figure(figure, "svg", metadata={"Date": None, "Creator": None})
    text = re.sub(r"<!DOCTYPE.*?>\s*|<!--.*?-->\s*|<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r" ?font-family: [^;\"]*;?", "", text)  # said once, for all: mathematics would name DejaVu alone
    text = text.replace("<svg ", "<svg font-family=\"'DejaVu Sans', Verdana, sans-serif\" ", 1)
    # A hundredth of a point is enough, in the tags: the letters between them stay.
    return re.sub(r"<[^>]+>", lambda tag: re.sub(r"-?\d+\.\d{3,}", lambda n: f"{float(n[0]):.2f}", tag[0]), text)


def as_png(figure: Figure):
    """Any other figure as PNG, twice as dense as it is shown, in base64, and the size to show it at."""
    from IPython.core.pylabtools import retina_figure

    return None if marks_only(figure) else retina_figure(figure, base64=True)


def store_figures() -> None:
    """Where the kernel of a notebook draws into the page, let it store figures by `as_svg` and `as_png`."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or "inline" not in matplotlib.get_backend():
        return
    plt.switch_backend(matplotlib.get_backend())  # which sets formats of its own, once
    formats = shell.display_formatter.formatters

    def ours(*_) -> None:
        formats["image/svg+xml"].for_type(Figure, as_svg)
        formats["image/png"].for_type(Figure, as_png)

    def after_the_first_cell(*_) -> None:  # when ipykernel 6 sets its own once more
        ours()
        shell.events.unregister("post_run_cell", after_the_first_cell)

    ours()
    shell.events.register("post_run_cell", after_the_first_cell)


store_figures()

# --- what figures share


def array(values) -> np.ndarray:
    """A numpy array from a tensor (on any device, with a gradient or not), a list or an array."""
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def _axes(size: tuple[float, float], rows: int = 1, columns: int = 1, **options):
    """A figure of at most `WIDE` inches and the axes of its panels (rows, columns), on a white ground."""
    size = (min(size[0], WIDE), size[1])
    return plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", facecolor="white", **options)


def _colour(name: str) -> str | None:
    """The colour of the palette entry that a name begins with."""
    return next((colour for key, colour in COLOURS.items() if name.startswith(key)), None)


def _wrapped(texts: Sequence[str], width: int) -> list[str]:
    """In lines of at most so many characters where words allow it: first after a comma or colon, and then in all."""
    if max(len(line) for text in texts for line in text.split("\n")) > width:
        texts = [re.sub(r"([,:]) ", r"\1\n", text, count=1) for text in texts]
    return ["\n".join(textwrap.fill(line, width, break_long_words=False) for line in t.split("\n")) for t in texts]


def _columns(labels: Sequence[str], width: float) -> int:
    """How many labels of a key stand side by side in so many inches."""
    long = [0.7 + 0.077 * len(label) for label in labels]  # a handle, its letters and the space to the next
    fit = len(long) if sum(long) <= width + 0.3 else max(1, int((width + 0.3) / max(long)))
    return -(-len(long) // -(-len(long) // fit))  # full rows: four labels as two and two, not three and one


def key(axis) -> None:
    """The names of the lines of an axis, above it: there they hide no line."""
    handles, labels = axis.get_legend_handles_labels()
    columns = _columns(labels, axis.figure.get_figwidth() - 0.8)
    axis.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=columns, borderaxespad=0.2,
                frameon=False)  # fmt: skip


def _key_of_all(figure: Figure, handles: Sequence) -> None:
    """One key above all panels."""
    columns = _columns([handle.get_label() for handle in handles], figure.get_figwidth())
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False)


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
    titles = [*["image and query"] * (picture is not None), *titles]
    places = len(panels) + (picture is not None)
    columns = columns or places
    rows = -(-places // columns)
    vmax = vmax or max(panel.max() for panel in panels)
    bar = 0.8 * one_scale
    wide = min(1.6, (WIDE - bar) / columns)
    letters = 10.5 if columns < 5 else 9
    titles = _wrapped(titles[:places], int(110 * wide / letters))
    above = 0.2 * max(title.count("\n") + 1 for title in titles)
    figure, axes = _axes((bar + wide * columns, (wide + above) * rows), rows, columns)
    for axis in axes.flat[places:]:
        axis.remove()
    for axis, title in zip(axes.flat, titles):
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=letters)
    if picture is not None:
        _framed(axes.flat[0], array(picture), query, panels[0].shape)
    for axis, panel in zip(axes.flat[places - len(panels) :], panels):
        image = axis.imshow(panel, cmap=HEAT, vmin=0, vmax=vmax if one_scale else panel.max())
        if query is not None:
            axis.plot(query[1], query[0], marker="x", color="white", markersize=7, markeredgewidth=2)
    if one_scale:
        figure.colorbar(image, ax=list(axes.flat[:places]), shrink=0.8, label=label)
    return figure


def _framed(axis, picture: np.ndarray, query: tuple[int, int] | None, grid: tuple[int, int]) -> None:
    """A grey picture with one patch of its grid framed."""
    axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
    if query is not None:
        high, wide = picture.shape[0] / grid[0], picture.shape[1] / grid[1]
        corner = (query[1] * wide - 0.5, query[0] * high - 0.5)
        axis.add_patch(Rectangle(corner, wide, high, fill=False, edgecolor="#E69F00", linewidth=2))


def curves(series: Mapping[str, tuple], xlabel: str, ylabel: str, log: str = "", size=(5, 3.2)) -> Figure:
    """Lines by name: each is (x, y) with y (points,) or (runs, points); for several runs the mean and every run.

    A name that begins with a palette entry ("ConViT, 4 heads") takes its colour; others take what is left.
    """
    taken = {key for key in COLOURS for name in series if name.startswith(key)}
    left = itertools.cycle(value for key, value in COLOURS.items() if key not in taken)
    figure, ((axis,),) = _axes(size)
    for name, (x, y) in series.items():
        x, y = array(x), np.atleast_2d(array(y))
        colour = _colour(name) or next(left)
        axis.plot(x, y.mean(0), marker="o", markersize=4, label=name, color=colour)
        for run in y if len(y) > 1 else ():
            axis.plot(x, run, linewidth=0.8, alpha=0.4, color=colour)
    axis.set(xlabel=xlabel, ylabel=ylabel, **{f"{which}scale": "log" for which in log})
    axis.grid(alpha=0.3)
    key(axis)
    return figure


def pictures(images: Sequence, titles: Sequence[str], columns: int = 5) -> Figure:
    """Images (C, h, w) with values in 0 to 255, grey or colour, with a title over each; of over 5 columns half."""
    columns = columns if columns <= 5 else -(-columns // 2)
    rows = -(-len(images) // columns)
    lines = max(title.count("\n") + 1 for title in titles)
    figure, axes = _axes((1.15 * columns, (1.1 + 0.18 * lines) * rows), rows, columns)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        axis.imshow(array(image).transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=255)
        axis.set_title(title, fontsize=10)
    return figure


def forest(rows: Mapping[str, Mapping], xlabel: str, marks: Mapping[str, Mapping] | None = None, mark="") -> Figure:
    """Differences with intervals, a line a name and 0 as a dashed line: `rows[name][series]` is (mean, half-width).

    `marks[name][series]` are values to compare with, hollow diamonds in the colour of the series, `mark` their name.
    """
    marks = marks or {}
    series = list(dict.fromkeys(one for row in rows.values() for one in row))
    colours = dict(zip(series, itertools.cycle(("#009E73", "#CC79A7", "#777777"))))
    names = _wrapped(list(rows), 21)
    lines = max(len(series), *(name.count("\n") + 1 for name in names))
    figure, ((axis,),) = _axes((5.6, 1 + (0.18 + 0.18 * lines) * len(rows)))
    for line, name in enumerate(rows):
        for one, (mean, half) in rows[name].items():
            y, colour = line + 0.26 * (series.index(one) - (len(series) - 1) / 2), colours[one]
            axis.errorbar(mean, y, xerr=np.nan_to_num(half), fmt="o", markersize=5, capsize=3, color=colour)
            if one in marks.get(name, {}):
                axis.plot(marks[name][one], y, "D", markersize=6, markerfacecolor="none", color=colour, alpha=0.8)
    axis.axvline(0, color="black", linestyle="--", linewidth=0.8)
    axis.set_yticks(range(len(rows)), names, linespacing=1)
    axis.set_ylim(len(rows) - 0.4, -0.6)  # the first line on top
    keys = [axis.plot([], [], "o-", color=colours[one], label=one)[0] for one in series if len(series) > 1]
    if mark:
        keys += axis.plot([], [], "D", markerfacecolor="none", color="black", label=mark)
    if keys:
        _key_of_all(figure, keys)
    axis.set_xlabel(xlabel)
    axis.grid(axis="x", alpha=0.3)
    return figure


def numbers(values, rows: Sequence[str], columns: Sequence[str], words, xlabel: str, ylabel: str, label: str) -> Figure:
    """A table as a heat map: `values` (rows, columns) as colours, `words` of the same shape written into the cells.

    `label` is that of the colour bar; without one there is no bar.
    """
    values = array(values)
    figure, ((axis,),) = _axes((2 + 1.2 * len(columns), 1.2 + 0.5 * len(rows)))
    image = axis.imshow(values, cmap=HEAT, aspect="auto")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (row, column), value in np.ndenumerate(values):
        ink = "black" if value > middle else "white"
        axis.text(column, row, words[row][column], ha="center", va="center", color=ink)
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), rows)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    if label:
        figure.colorbar(image, ax=axis, label=label)
    return figure


def intervals(
    panels: Mapping[str, Mapping[str, tuple]], xlabels: Sequence[str], ylabel: str, log="", zero=False, size=(5, 3.4)
) -> Figure:
    """Lines with their intervals as bars, panels side by side on one vertical axis: `panels[title][name]` is
    (x, mean, half-width), points each, with None for a half-width where there is none.

    What stands in a name before the first comma gives the colour, as in `curves`; a second line of a colour is dashed,
    a third dotted. `size` is a panel's, if all fit into `WIDE`; `zero` marks 0. On a logarithmic axis lines stand 2 %
    apart.
    """
    names = dict.fromkeys(name.split(",")[0] for lines in panels.values() for name in lines)
    left = itertools.cycle(value for key, value in COLOURS.items() if key not in ("ConViT", "DeiT"))
    colours = {name: COLOURS.get(name) or next(left) for name in names}
    figure, axes = _axes((size[0] * len(panels), size[1]), 1, len(panels), sharey=True)
    alike = len({tuple(lines) for lines in panels.values()}) == 1  # one key for all
    for axis, (title, lines), xlabel in zip(axes.flat, panels.items(), xlabels):
        drawn, points = [], sorted({float(value) for x, _, _ in lines.values() for value in x})
        handles = []
        for number, (name, (x, mean, half)) in enumerate(lines.items()):
            family = name.split(",")[0]
            dashes = ("-", "--", ":")[drawn.count(family) % 3]
            drawn.append(family)
            bars = None if half is None else np.nan_to_num(array(half))
            apart = 1.02 ** (number - (len(lines) - 1) / 2) if "x" in log else 1  # so that bars can be told apart
            handles.append(
                axis.errorbar(apart * array(x), array(mean), yerr=bars, marker="o", markersize=4, capsize=2,
                              elinewidth=1, linestyle=dashes, color=colours[family], label=name)
            )  # fmt: skip
        if zero:
            axis.axhline(0, color="black", linestyle="--", linewidth=0.8)
        axis.set(**{f"{which}scale": "log" for which in log})
        if len(points) > 5 and "x" in log:
            round_numbers = [m * 10.0**e for e in range(-3, 7) for m in (1, 2, 5)]
            points = [point for point in round_numbers if points[0] <= point <= points[-1]]
        if len(points) < 8:  # few enough to be named
            axis.set_xticks(points, [f"{point:g}" for point in points])
            axis.set_xticks([], minor=True)
        axis.set(title=title, xlabel=xlabel)
        axis.grid(alpha=0.3)
        if not alike:
            columns = _columns(list(lines), figure.get_figwidth() / len(panels) - 0.3)
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=columns, frameon=False)
    if alike:
        _key_of_all(figure, handles)
    axes[0, 0].set_ylabel(ylabel)
    return figure


def small_multiples(
    groups: Mapping[str, Mapping[str, tuple]],
    xlabel: str,
    ylabel: str,
    reference: tuple[str, float] | None = None,
    size=(3, 2.9),
) -> Figure:
    """Panels on one vertical axis, at most three in a row: `groups[title][name]` is (x, y), y being (points,) or
    (runs, points).

    Of several runs each is drawn thin and their mean thick. The lines of a panel go from dark to light in their
    order, unless they are in the palette. `reference` = (label, value) is a dashed line in every panel.
    """
    rows = -(-len(groups) // 3)
    columns = -(-len(groups) // rows)
    figure, axes = _axes((size[0] * columns, size[1] * rows), rows, columns, sharex=True, sharey=True)
    drawn = {}  # one key for all panels
    for axis in axes.flat[len(groups) :]:
        axis.remove()
    for axis, (title, lines) in zip(axes.flat, groups.items()):
        shades = plt.get_cmap(HEAT)(np.linspace(0, 0.85, len(lines)))
        for (name, (x, y)), shade in zip(lines.items(), shades):
            x, y = array(x), np.atleast_2d(array(y))
            colour = _colour(name) or shade
            axis.plot(x, y.T, color=colour, linewidth=0.7, alpha=0.4 * (len(y) > 1))
            drawn[name] = axis.plot(x, y.mean(0), color=colour, marker="o", markersize=3.5, linewidth=2, label=name)[0]
        if reference is not None:
            label, value = reference
            drawn[label] = axis.axhline(value, color=COLOURS["reference"], linestyle="--", label=label)
        axis.set(title=title, xlabel=xlabel)
        axis.locator_params(axis="x", nbins=5)
        axis.tick_params(labelbottom=True)
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel(ylabel)
    _key_of_all(figure, list(drawn.values()))
    return figure


def bars(groups: Mapping[str, Mapping[str, Sequence[float]]], ylabel: str, size=(5, 3.2)) -> Figure:
    """Groups of bars: `groups[name][bar]` are the values of the runs, drawn as dots on the bar of their mean."""
    names = list(dict.fromkeys(bar for group in groups.values() for bar in group))
    left = itertools.cycle(value for key, value in COLOURS.items() if key not in ("ConViT", "DeiT", *names))
    figure, ((axis,),) = _axes(size)
    drawn = []
    for number, name in enumerate(names):
        found = [array(group.get(name, [np.nan])) for group in groups.values()]
        places = np.arange(len(groups)) + 0.8 * ((number + 0.5) / len(names) - 0.5)
        colour = COLOURS.get(name) or next(left)
        means = [values.mean() for values in found]
        drawn.append(axis.bar(places, means, 0.76 / len(names), color=colour, alpha=0.6, label=name))
        for place, values in zip(places, found):
            axis.plot(np.full(len(values), place), values, ".", color="black", markersize=4)
    axis.set_xticks(range(len(groups)), list(groups))
    axis.set_ylabel(ylabel)
    axis.grid(axis="y", alpha=0.3)
    _key_of_all(figure, drawn)
    return figure
