"""The report card as a page shows it: a forest plot, and a block for every claim, its comparisons folded under it.

Both are HTML with a style of their own (`static/cards.css`): right in light, in dark and on paper, on a phone, in the
built book and in a notebook. A verdict always has a sign, a colour and a word. Where HTML is not shown they are text.
"""

import html
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from ..lab import claims
from ..lab.claims import CLAIMS, SIGNS, Card, Part

KINDS = dict(zip(SIGNS, ("holds", "part", "open", "against", "none", "none")))  # a class of the style by verdict
SPAN = (-20, 30)  # points of accuracy: what lies beyond is an arrow at the edge
TICKS = range(SPAN[0], SPAN[1] + 1, 10)


@dataclass(frozen=True)
class Shown:
    """Something to show in a page: words, and the same as HTML. Show it as the last value of a cell."""

    words: str
    body: str

    def __repr__(self) -> str:
        return self.words

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/plain": self.words, "text/html": self._repr_html_()}

    def _repr_html_(self) -> str:
        return f'<div class="convit-card">\n<style>\n{_style()}</style>\n{self.body}\n</div>'


@lru_cache
def _style() -> str:
    return (resources.files(__package__) / "static" / "cards.css").read_text(encoding="utf-8")


def _written(words: str) -> str:
    """As HTML, numbers below 0 with a true minus."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", html.escape(words))


def _sign(of: str, words: str | None = None) -> str:
    return f'<span class="verdict {KINDS[of]}"><i>{SIGNS[of]}</i> {html.escape(words or of)}</span>'


# --- the claims


def show(card: Card) -> Shown:
    """The card: the claims grouped by verdict, each with the paper's number beside ours at every recorded scale."""
    groups = []
    for of, names in card.groups.items():
        title = f'<h3><i>{SIGNS[of]}</i> {of.capitalize()} <span class="count">({len(names)})</span></h3>'
        blocks = "\n".join(_claim(card, name, of) for name in names)
        groups.append(f'<div class="group {KINDS[of]}">\n{title}\n{blocks}\n</div>')
    return Shown(str(card), "\n".join(groups))


def _claim(card: Card, name: str, of: str) -> str:
    claim, found = CLAIMS[name], card.found(name)
    said = claims.speed_verdict(card.speed) if name == "C15" and card.speed else of
    statement = claim.statement[0].upper() + claim.statement[1:]
    link = f'<a href="{claim.chapter}.ipynb">chapter {claim.chapter[:2]}</a>'
    where = claim.where if claim.where == claims.NOT_THEIRS else f"the paper, {claim.where}"
    sides = [(html.escape(where), [_written(claim.said)])]
    if name == "C15":
        sides += [("here", [_written(line) for line in claims.speed_lines(card.speed)])] * bool(card.speed)
    for scale, parts in found.items():
        whole = f" {_sign(claims.verdict(parts))}" * (len(found) > 1)
        sides.append((f"here, scale {scale}{whole}", [_summary(part, len(parts) > 1) for part in parts]))
    numbers = "".join(
        f"<div><dt>{side}</dt>{''.join(f'<dd>{line}</dd>' for line in lines)}</div>" for side, lines in sides
    )
    folded = "\n".join(_comparisons(card, name, scale, parts, len(found) > 1) for scale, parts in found.items())
    count = sum(map(len, found.values()))
    if folded:
        words = f"{count} comparisons with their intervals" if count > 1 else "the comparison with its interval"
        folded = f"<details><summary>{words}</summary>\n{folded}\n</details>"
    return (
        f'<div class="claim">\n<p>{_sign(of, said)} <b>{name}</b> {html.escape(statement)} ({link})</p>\n'
        f"<dl>{numbers}</dl>\n{folded}</div>"
    )


def _summary(part: Part, several: bool) -> str:
    """The mean of a comparison; its name and sign where the claim has several."""
    mean = _written(claims.difference(part))
    if not several:
        return f"<b>{mean}</b>"
    sign = f'<i class="{KINDS[part.verdict]}" title="{part.verdict}">{SIGNS[part.verdict]}</i>'
    return f"{sign} <b>{mean}</b>, {_written(part.name)}"


def _comparisons(card: Card, name: str, scale: str, parts: Iterable[Part], named: bool) -> str:
    """A table of the comparisons at one scale; on a phone each of its rows is a block of lines."""
    facts = [(part.name, card.facts(scale, name, part)) for part in parts]
    headings = list(dict.fromkeys(heading for _, row in facts for heading in row))
    order = [heading for heading in claims.FACTS if heading in headings]
    head = "".join(f'<th scope="col">{html.escape(heading)}</th>' for heading in ("compared", *order))
    rows = "".join(
        f'<tr><th scope="row">{_written(compared)}</th>'
        + "".join(f'<td data-of="{html.escape(each)}">{_written(row.get(each, ""))}</td>' for each in order)
        + "</tr>\n"
        for compared, row in facts
    )
    caption = f"<caption>scale {scale}</caption>" * named
    return f"<table>{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table>"


# --- the forest plot


def forest(card: Card) -> Shown:
    """Every comparison in points: mean (dot), interval (line) and the paper's number (diamond), around 0.

    Claims stand in the order of the card, a line for each scale at which they are recorded.
    """
    several = len(card.recorded) > 1
    axis = _row("", [("", _axis(), "")], several)
    body, words = [], []
    for of, names in card.groups.items():
        rows = []
        for name in names:
            lines: dict[str, dict[str, Part]] = {}
            for scale, parts in card.found(name).items():
                for part in parts:
                    if part.unit == "points":
                        lines.setdefault(part.name, {})[scale] = part
            for compared, by_scale in lines.items():
                paper = CLAIMS[name].difference(compared)
                marks = [paper] + [None] * len(by_scale)  # the paper's number once
                bars = [(at, _bar(part, m), _mean(part, paper)) for (at, part), m in zip(by_scale.items(), marks)]
                rows.append(_row(f"<b>{name}</b> {_written(compared)}", bars, several))
                words += [
                    f"  {name}  {compared}, {scale}: {claims.difference(part)}{_more(part, paper)}"
                    for scale, part in by_scale.items()
                ]
        if rows:
            body.append(f'<p class="of {KINDS[of]}"><i>{SIGNS[of]}</i> {of.capitalize()}</p>\n' + "\n".join(rows))
    key = (
        '<p class="key"><span><svg width="46" height="14" aria-hidden="true"><line x1="3" x2="43" y1="7" y2="7"/>'
        '<circle cx="23" cy="7" r="4.5"/></svg> here: mean and 95 % interval</span> <span><svg width="16" height="14" '
        f'aria-hidden="true"><path class="paper" transform="translate(8 7)" d="{DIAMOND}"/></svg> the paper</span> '
        "<span>(in points of accuracy)</span></p>"
    )
    plot = "\n".join([key, axis, *body, axis])
    return Shown("\n".join(["Comparisons in points", *words]), f'<div class="forest">\n{plot}\n</div>')


DIAMOND = "M0 -6L6 0L0 6L-6 0Z"


def _row(label: str, bars: Iterable[tuple[str, str, str]], several: bool) -> str:
    lines = "".join(
        f'<div class="bar">{f"<span>{scale}</span>" * several}{drawn}<span class="mean">{mean}</span></div>'
        for scale, drawn, mean in bars
    )
    return f'<div class="pair"><div class="name">{label}</div><div>{lines}</div></div>'


def _mean(part: Part, paper: float | None) -> str:
    """Sign and mean; what the bar shows besides, for a screen reader and where no style is."""
    mean = _written(claims.signed(part.found.mean, 1))
    return (
        f'<i class="{KINDS[part.verdict]}">{SIGNS[part.verdict]}</i> {mean}<span>{_written(_more(part, paper))}</span>'
    )


def _more(part: Part, paper: float | None) -> str:
    interval = f" ({claims.interval(part)})" if part.found.n > 1 else ""
    return f"{interval}, {part.verdict}" + (f"; the paper {paper:+.1f}" if paper is not None else "")


def _place(value: float) -> float:
    """Where a value stands, in per cent of the axis, within its ends."""
    low, high = SPAN
    return round(100 * min(max((value - low) / (high - low), 0), 1), 2)


def _axis() -> str:
    places = {tick: _place(tick) for tick in TICKS}
    anchor = {0.0: "start", 100.0: "end"}
    ticks = "".join(
        f'<text x="{place}%" y="13" text-anchor="{anchor.get(place, "middle")}">'
        f"{_written(f'{tick:+d}') if tick else 0}</text>"
        for tick, place in places.items()
    )
    return f'<svg class="axis" width="100%" height="18" aria-hidden="true">{ticks}</svg>'


def _bar(part: Part, paper: float | None) -> str:
    found = part.found
    low, high = (found.low, found.high) if math.isfinite(found.half) else (found.mean, found.mean)
    grid = "".join(
        f'<line class="{"zero" if not tick else "tick"}" x1="{(x := _place(tick))}%" x2="{x}%" y1="0" y2="22"/>'
        for tick in TICKS
    )
    drawn = f'<line x1="{_place(low)}%" x2="{_place(high)}%" y1="11" y2="11"/>'
    for end, inward in ((low < SPAN[0], 1), (high > SPAN[1], -1)):
        edge = "0%" if inward == 1 else "100%"
        drawn += _at(edge, f'<path class="head" d="M{7 * inward} -5L0 0L{7 * inward} 5"/>') * end
    if SPAN[0] <= found.mean <= SPAN[1]:
        drawn += f'<circle cx="{_place(found.mean)}%" cy="11" r="4.5"/>'
    if paper is not None:
        beyond = paper > SPAN[1]
        drawn += _at(f"{_place(paper)}%", f'<path class="paper" d="{DIAMOND}"/>') * (not beyond)
        drawn += f'<text class="paper" x="100%" dx="-4" y="9" text-anchor="end">◇ {paper:+.1f} →</text>' * beyond
    return f'<svg class="{KINDS[part.verdict]}" width="100%" height="22" aria-hidden="true">{grid}{drawn}</svg>'


def _at(x: str, drawn: str) -> str:
    """A small drawing at a place that is given in per cent."""
    return f'<svg x="{x}" y="11" overflow="visible">{drawn}</svg>'
