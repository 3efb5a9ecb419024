"""What a campaign tried and what came of it, as rows of a table in the documentation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        tried: What was done to the software.
        number: How many times.
        outcome: What happened; a campaign raises where that is not what was promised.
    """

    tried: str
    number: int
    outcome: str


def counted(outcomes: dict[str, int]) -> str:
    """Outcomes and their counts, the most frequent first."""
    ordered = sorted(outcomes.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {number:,}" for name, number in ordered)


def markdown(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| tried | times | what happened |", "|---|---:|---|"]
    lines += [f"| {row.tried} | {row.number:,} | {row.outcome} |" for row in rows]
    return "\n".join(lines)
