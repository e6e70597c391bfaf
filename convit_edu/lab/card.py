"""The report card: every claim, what the paper says of it, what was measured here, and the verdict.

The paper's side is typed from its tables and figures (`PAPER`); our side is computed from the records.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import claims, report
from .report import Table
from .scales import SCALES

# Chapters, as their files are called.
FAST, SAMPLES, INSIDE = "06-fast-gpsa", "08-sample-efficiency", "09-looking-inside"
ABLATIONS, TEACHER, RECAST = "10-ablations", "11-distillation", "12-from-cnn-to-convit"


@dataclass(frozen=True)
class Source:
    """Where the paper makes a claim and with what number, and the chapter that tests it.

    `differences` are the paper's numbers for our comparisons, in points, by the first or the last words of the
    comparison's name; none where the paper intervened otherwise. They come from other data, sizes and training
    lengths, and from single runs.
    """

    where: str
    said: str
    chapter: str
    differences: Mapping[str, float] = field(default_factory=dict)

    def difference(self, part: str) -> float | None:
        """The paper's number for a comparison of this name, or None."""
        found = (value for words, value in self.differences.items() if part.startswith(words) or part.endswith(words))
        return next(found, None)


NOT_THEIRS = "not in the paper"

PAPER: dict[str, Source] = {
    "C1": Source("Table 1", "+0.8, +3.2, +5.0 points (Ti+, S+, B+)", SAMPLES,
                 {"small": 0.8, "medium": 3.2, "large": 5.0}),
    "C2": Source("Table 2", "5 %: +13.0, 10 %: +11.6, 30 %: +7.6, 50 %: +3.6 points", SAMPLES,
                 {"5 %": 13.0, "10 %": 11.6, "30 %": 7.6, "50 %": 3.6}),
    "C3": Source("Table 2", "+13.0 points at 5 %, +1.5 at 100 %: +11.5", SAMPLES, {"5 %": 11.5}),
    "C4": Source("Figure 8b", "+16 points after 20 epochs, +5 after 295, read off: +11", SAMPLES, {"first": 11.0}),
    "C5": Source("Table 3, d - e", "+6.8 points at 10 %, +2.5 at 100 %", ABLATIONS, {", 10 %": 6.8, ", 100 %": 2.5}),
    "C6": Source("Table 3, b - d and c - d", "+2.8 and +2.3 points at 10 %", ABLATIONS, {"b - d": 2.8, "c - d": 2.3}),
    "C7": Source("Table 3, f - e and f - g", "+6.5 and +9.5 points at 10 %", ABLATIONS, {"f - e": 6.5, "f - g": 9.5}),
    "C8": Source("Figure 8a", "+1.6 points (strength 1 - 0.01), +2.6 (9 - 3 layers), read off; by strong inference "
                 "another intervention than ours", ABLATIONS),
    "C9": Source("Figure 9", "curves: ahead early, overtaken late", ABLATIONS),
    "C10": Source("Figure 5", "curves: local at the start, less local later, below DeiT at the end", INSIDE),
    "C11": Source("Figure 6", "curves: about 0 in layers 6 to 10, some heads of layers 1 to 5 high", INSIDE),
    "C12": Source("Table 5", "DeiT loses 33.9 points, ConViT 6.0: +27.9", INSIDE, {"loss of DeiT": 27.9}),
    "C13": Source("Table 6, 10 layers", "46.8 - 1.3 % left: +45.5 points", INSIDE, {"position masked": 45.5}),
    "C14": Source("Table 4, Figure 10", "DeiT-S +1.1 points, ConViT-S+ +0.7: +0.4; curves, probably by the shortcut: "
                  "distilled DeiT more local", TEACHER, {"gain of ConViT": 0.4}),
    "C15": Source("Table 1", "inference on a GPU: DeiT's images/s are 1.96 (Ti), 1.92 (S), 1.33 (B) times ConViT's",
                  FAST),
    "N1": Source(NOT_THEIRS, "its Table 3 changes both at once", ABLATIONS),
    "N2": Source(NOT_THEIRS, "its d - e changes the token's place too", ABLATIONS),
    "N3": Source(NOT_THEIRS, "Eq. 8 and the released code differ", INSIDE),
    "N4": Source(NOT_THEIRS, "a later paper: least mean distance at least 0.210 without CutMix, at most 0.024 with",
                 INSIDE),
    "N5": Source(NOT_THEIRS, "a later paper of theirs (T-CNN): +2.2 points for a ResNet50-RS", RECAST),
    "N6": Source(NOT_THEIRS, "the later paper: better than the hybrid from scratch, in less time", RECAST),
    "N7": Source(NOT_THEIRS, "two later papers: each better than the usual start on small data", RECAST),
    "N8": Source(NOT_THEIRS, "no paper that compares the three is known to us", RECAST),
}  # fmt: skip


def tested(scale: str = "laptop", folder: str | Path | None = None) -> dict[str, list[claims.Part]]:
    """The comparisons of every claim that is recorded at this scale, by the claim's name."""
    found = {name: claims.parts_of(name, scale, folder) for name in claims.CLAIMS}
    return {name: parts for name, parts in found.items() if parts}


def card(folder: str | Path | None = None) -> Table:
    """The report card: a row a claim, a column for each scale that anything is recorded at.

    What is measured stands as difference, 95 % interval and verdict, a line a comparison. `folder` is a folder of
    records, the shipped one where None.
    """
    scales = [name for name in SCALES if not name.endswith("-rehearsal")]
    recorded = {scale: tested(scale, folder) for scale in scales}
    recorded = {scale: found for scale, found in recorded.items() if found}
    rows = []
    for name, source in PAPER.items():
        statement = claims.CLAIMS[name].statement if name in claims.CLAIMS else report.SPEED
        link = f"[{name}]({source.chapter}.ipynb)"
        ours = [_speed(folder)] * len(recorded) if name == "C15" else [
            _measured(found.get(name, [])) for found in recorded.values()
        ]  # fmt: skip
        rows.append([link, statement, f"{source.where}: {source.said}", *ours])
    columns = ["claim", "statement", "the paper"]
    return Table("Report card", [*columns, *(_heading(scale, found) for scale, found in recorded.items())], rows)


def _heading(scale: str, found: Mapping[str, list[claims.Part]]) -> str:
    seeds = sorted({part.found.n for parts in found.values() for part in parts})
    return f"scale {scale}, {' or '.join(map(str, seeds))} seeds: difference (95 % interval)"


def _measured(parts: list[claims.Part]) -> str:
    if not parts:
        return "not measured"
    lines = [f"**{claims.verdict(parts)}**"]
    for each in parts:
        digits = 1 if each.unit == "points" else 2
        interval = f" ({each.found.low:+.{digits}f} to {each.found.high:+.{digits}f})" if each.found.n > 1 else ""
        verdict = f", {each.verdict}" if len(parts) > 1 else ""
        lines.append(f"{each.name}: {each.found.mean:+.{digits}f}{interval} {each.unit}".rstrip() + verdict)
    return "<br>".join(lines)


def _speed(folder: str | Path | None) -> str:
    """Claim C15 from the benchmarks, whichever machine they ran on; times have no seeds."""
    cases = report.timed(folder)
    if not cases:
        return "not measured"
    lines = [f"**{report.speed_verdict(cases)}**"]
    for mode in ("inference", "training"):
        models = [case for case in cases if case.mode == mode and not case.what.startswith("a layer")]
        spans = (
            f"{form} form {min(over):.2f} to {max(over):.2f}"
            for form in ("timm's", "fast")
            if (over := [case.over[form] for case in models])
        )
        lines.append(f"{mode}, ConViT's time over DeiT's: {', '.join(spans)}")
    return "<br>".join([*lines, "no seeds"])
