"""What a form of data is read into, before anything is checked: rows, classes, images, and notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from cxr.errors import printable
from cxr.schema import BOX_COLUMNS, CLASS_NAME, RAD_ID

REFERENCE = "image"
"""Column of a part's rows: what the form calls an image, a path or an id."""

ROW_COLUMNS = [REFERENCE, RAD_ID, CLASS_NAME, *BOX_COLUMNS]

Row = tuple[str, str, str, float, float, float, float]
"""One row in the order of `ROW_COLUMNS`."""

ONE_READER = "R1"
"""The reader that is assumed where a form names none."""

NORMAL = "No finding"
"""Name of the normal class where a form has none of its own."""

_EXAMPLES = 3


@dataclass(frozen=True)
class Part:
    """The images of one part, `train` or `test`, and what was drawn on them.

    Attributes:
        rows: `ROW_COLUMNS`. One row a box and reader, the right and bottom edge exclusive; a reader who
            saw nothing has one row of the normal class with NaN coordinates.
        images: References of images that belong to the part, drawn on or not.
        folder: Word that a path of this part's images holds (`val`, `train`), to tell images of one name
            apart.
        sizes: (rows, columns) of the pixels that the boxes are in, by reference, where the form says.
        rescale: Whether a file of another size than `sizes` is a smaller copy, whose boxes shrink along.
        relative: The boxes are shares of the image's width and height, not pixels.
    """

    rows: pd.DataFrame
    images: tuple[str, ...] = ()
    folder: str = ""
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    rescale: bool = True
    relative: bool = False


@dataclass(frozen=True)
class Layout:
    """A data set as its form tells it.

    Attributes:
        train: Parts to learn from, readers and consensus alike.
        test: Parts to answer for.
        findings: Class names in the order of their ids, the normal class left out.
        normal: Name of the normal class.
        whole: All images of the folders count, not only those named: what has no row is unknown, not lost.
    """

    train: tuple[Part, ...]
    test: tuple[Part, ...] = ()
    findings: tuple[str, ...] = ()
    normal: str = NORMAL
    whole: bool = False


class Notes:
    """What was taken for what, what was mended and what was left out, with counts and first names.

    Attributes:
        taken: Lines in the order they came.
        mended: Number of cases of each kind of mending.
        left_out: Number of cases of each kind that was left out.
        examples: First names of each kind.
    """

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.mended: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def take(self, line: str) -> None:
        """Say what was taken for what; a line that was said is not repeated."""
        if line not in self.taken:
            self.taken.append(line)

    def mend(self, kind: str, names: list[str], count: int | None = None) -> None:
        """Count cases that were mended; `names` says where, the first ones are kept."""
        self._add(self.mended, kind, names, count)

    def leave(self, kind: str, names: list[str], count: int | None = None) -> None:
        """Count cases that were left out; `names` says where, the first ones are kept."""
        self._add(self.left_out, kind, names, count)

    def _add(self, counter: Counter[str], kind: str, names: list[str], count: int | None) -> None:
        if count is None:
            count = len(names)
        if count:
            counter[kind] += count
            kept = self.examples.setdefault(kind, [])
            kept += [printable(name) for name in names[: _EXAMPLES - len(kept)]]

    def lines(self) -> list[str]:
        """Everything, a line each."""
        lines = [f"took {line}" for line in self.taken]
        for word, counter in (("mended", self.mended), ("left out", self.left_out)):
            for kind, count in counter.items():
                first = ", ".join(self.examples[kind])
                more = ", ..." if count > len(self.examples[kind]) else ""
                lines.append(
                    f"{word} {count:,}: {kind} ({first}{more})" if first else f"{word} {count:,}: {kind}"
                )
        return lines


def rows_table(rows: Sequence[Row]) -> pd.DataFrame:
    """Tuples in the order of `ROW_COLUMNS` as a table."""
    table = pd.DataFrame(rows, columns=ROW_COLUMNS)
    return table.astype({name: float for name in BOX_COLUMNS})


def normal_row(image: str, normal: str = NORMAL, reader: str = ONE_READER) -> Row:
    """The row of a reader who saw nothing."""
    nothing = float("nan")
    return (image, reader, normal, nothing, nothing, nothing, nothing)
