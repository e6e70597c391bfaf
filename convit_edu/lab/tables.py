"""The one printer of tables: as plain text, and as Markdown in a notebook."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A small table of text: prints as plain text, and shows as Markdown in a notebook.

    The last cell of a row with fewer cells than columns may reach over the columns that it leaves out.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        lines = [[cell.replace("**", "") for cell in line] for line in (self.columns, *self.rows)]
        widths = [max(len(line[k]) for line in lines if len(line) > min(k + 1, len(self.columns) - 1))
                  for k in range(len(self.columns))]  # fmt: skip
        text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
        return "\n".join([self.title, *("  " + line for line in text)])

    def __repr__(self) -> str:
        return str(self)

    def _repr_markdown_(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        full = [[*line, *[""] * (len(self.columns) - len(line))] for line in lines]
        return "\n".join("| " + " | ".join(line) + " |" for line in full)


def percent(fraction: float) -> str:
    return f"{100 * fraction:g} %"
