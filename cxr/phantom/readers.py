"""The radiologists: who reads which image, what each of them misses, moves and names otherwise."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from cxr.schema import DOMINANT_READERS

NORMAL_READER_ROWS = {
    "R1": 1995,
    "R2": 3118,
    "R3": 2285,
    "R4": 1513,
    "R5": 2783,
    "R6": 2041,
    "R7": 1733,
    "R8": 2436,
    "R9": 1979,
    "R10": 2321,
    "R11": 1413,
    "R12": 1580,
    "R13": 1505,
    "R14": 1300,
    "R15": 1508,
    "R16": 1565,
    "R17": 743,
}
"""How often each reader reads a normal image, as counted in the published table."""

OTHER_READERS = tuple(f"R{i}" for i in range(11, 18))
"""Readers of the few abnormal images that the dominant three did not read."""

DOMINANT_SHARE = 4146 / 4394
CONSENSUS_READERS = 5
CONSENSUS_NAME = "consensus"

RENAMES: dict[int, tuple[int, ...]] = {
    0: (9,),
    1: (7, 4),
    2: (8, 9),
    3: (9,),
    4: (6, 7),
    5: (13, 6),
    6: (7, 4),
    7: (6, 4),
    8: (9, 7),
    9: (8, 2),
    10: (11, 7),
    11: (13, 10),
    12: (9,),
    13: (11, 5),
}
"""What else a reader may call a finding of each class; neighbours in appearance first."""

RENAME_PROBABILITY = {0: 0.01, 3: 0.01, 4: 0.15, 6: 0.16, 7: 0.16}
DEFAULT_RENAME_PROBABILITY = 0.06


@dataclass(frozen=True)
class Finding:
    """One abnormality as drawn.

    Attributes:
        class_id: Its true class.
        box: `x_min, y_min, x_max, y_max` in original pixels.
        visibility: Probability in `[0, 1]` that a careful reader marks it.
    """

    class_id: int
    box: tuple[float, float, float, float]
    visibility: float


@dataclass(frozen=True)
class Mark:
    """One box as one reader drew it, and the finding it stands for."""

    finding: int
    reader: str
    class_id: int
    box: tuple[float, float, float, float]


def choose_readers(abnormal: bool, rng: np.random.Generator, count: int = 3) -> list[str]:
    """Draw the readers of one image.

    Args:
        abnormal: Whether the image has findings; R1 to R7 only ever read normal ones.
        rng: Source of randomness.
        count: Number of different readers.

    Returns:
        Names of `count` readers, in random order.
    """
    if not abnormal:
        names = list(NORMAL_READER_ROWS)
        weights = np.array(list(NORMAL_READER_ROWS.values()), dtype=float)
        return [str(n) for n in rng.choice(names, size=count, replace=False, p=weights / weights.sum())]
    if rng.random() < DOMINANT_SHARE:
        others = rng.choice(OTHER_READERS, size=max(0, count - len(DOMINANT_READERS)), replace=False)
        pool = [*DOMINANT_READERS, *others][:count]
    else:
        pool = list(rng.choice(OTHER_READERS, size=count, replace=False))
    return [str(n) for n in rng.permutation(pool)]


def reader_habits(reader: str) -> tuple[float, float, float]:
    """Habits of one reader: eagerness to mark, box scale, and carelessness of the box edges.

    Returns:
        Odds factor on marking a finding, factor on the box's sides, and standard
        deviation of an edge as a share of the side.
    """
    number = int(reader[1:])
    eager = {8: 1.0, 9: 1.5, 10: 0.75}.get(number, 0.6 + 0.1 * (number % 5))
    return eager, 0.98 + 0.02 * (number % 4), 0.035 + 0.005 * (number % 3)


def read_image(
    findings: list[Finding], readers: list[str], size: tuple[int, int], rng: np.random.Generator
) -> list[Mark]:
    """Let each reader mark the findings of one image.

    Every reader of an abnormal image marks at least one finding, and the most visible
    finding is marked by a majority, as in the competition's data.

    Args:
        findings: What is really there; empty for a normal image.
        readers: Names of the image's readers.
        size: `(rows, columns)` of the original image; boxes are clipped to it.
        rng: Source of randomness.

    Returns:
        The marks of all readers, none for a normal image.
    """
    if not findings:
        return []
    clearest = int(np.argmax([f.visibility for f in findings]))
    marks = []
    for reader in readers:
        eager, scale, spread = reader_habits(reader)
        odds = np.array([f.visibility / max(1e-6, 1 - f.visibility) for f in findings]) * eager
        seen = rng.random(len(findings)) < odds / (1 + odds)
        if not seen.any():
            seen[clearest] = True
        for index in np.flatnonzero(seen):
            finding = findings[index]
            box = _jitter(finding.box, scale, spread, size, rng)
            marks.append(Mark(int(index), reader, _name(finding.class_id, rng), box))
    return marks


def consensus(findings: list[Finding], marks: list[Mark], n_readers: int) -> list[Finding]:
    """Findings that a majority of the readers marked, with their mean box and commonest name.

    Args:
        findings: What is really there.
        marks: All readers' marks of the same image.
        n_readers: How many readers read it.

    Returns:
        The agreed findings; never empty where `findings` is not: the one marked by most stays.
    """
    by_finding: dict[int, list[Mark]] = {}
    for mark in marks:
        by_finding.setdefault(mark.finding, []).append(mark)
    if not by_finding:
        return []
    most = max(len(m) for m in by_finding.values())
    needed = min(most, n_readers // 2 + 1)
    agreed = []
    for index, group in sorted(by_finding.items()):
        if len(group) < needed:
            continue
        names = Counter(m.class_id for m in group)
        # A tie goes to the true name: the panel's discussion ends well.
        class_id = max(names, key=lambda c: (names[c], c == findings[index].class_id))
        left, top, right, bottom = np.mean([m.box for m in group], axis=0).round().tolist()
        agreed.append(Finding(class_id, (left, top, right, bottom), len(group) / n_readers))
    return agreed


def _name(class_id: int, rng: np.random.Generator) -> int:
    chance = RENAME_PROBABILITY.get(class_id, DEFAULT_RENAME_PROBABILITY)
    if rng.random() >= chance:
        return class_id
    return int(rng.choice(RENAMES[class_id]))


def _jitter(
    box: tuple[float, float, float, float],
    scale: float,
    spread: float,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[float, float, float, float]:
    x_min, y_min, x_max, y_max = box
    width, height = x_max - x_min, y_max - y_min
    grow = (scale - 1) / 2
    edges = np.array(
        [x_min - grow * width, y_min - grow * height, x_max + grow * width, y_max + grow * height]
    )
    edges += rng.normal(0, spread, 4) * np.array([width, height, width, height])
    edges += rng.normal(0, 0.0015, 4) * max(size)  # the hand on the mouse, whatever the box
    rows, columns = size
    edges = np.clip(np.round(edges), 0, [columns, rows, columns, rows])
    least = max(3, round(max(size) / 150))
    for low, high, limit in ((0, 2, columns), (1, 3, rows)):
        if edges[high] - edges[low] < least:
            edges[low] = min(max(0, edges[low]), limit - least)
            edges[high] = edges[low] + least
    left, top, right, bottom = edges.tolist()
    return left, top, right, bottom
