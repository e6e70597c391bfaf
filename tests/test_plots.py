"""Figures are judged by eye; here only that they can be drawn, and hold what they should."""

import numpy as np

from convit_edu.book import plots


def test_maps_whose_last_row_is_not_full_have_a_colour_bar():
    figure = plots.maps([np.eye(3)] * 5, list("abcde"), columns=3, query=(1, 1))
    assert [axis.get_title() for axis in figure.axes[:5]] == list("abcde")
    assert len(figure.axes) == 6 and figure.axes[5].get_ylabel() == "attention"
    figure.canvas.draw()  # lays out, which is where a removed axis would fail
    plots.plt.close(figure)


def test_differences_without_an_interval_are_drawn_too():
    figure = plots.forest({"one seed": {"10 %": (2.0, float("nan"))}, "five": {"10 %": (1.0, 0.5)}}, "points")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["one seed", "five"]
    figure.canvas.draw()
    plots.plt.close(figure)
