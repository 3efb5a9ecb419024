"""Header facts of a radiograph, hospital by hospital, with or without the leak.

The competition's files came from a few hospitals, and which hospital sent a file says
much about whether a finding was in it. `HOSPITALS` says how often each one sends normal
and abnormal images; without the leak the hospital is drawn from the mixture of both, so
every header fact keeps its share and none knows the findings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
JPEG2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
CR_STORAGE = "1.2.840.10008.5.1.4.1.1.1"
DX_STORAGE = "1.2.840.10008.5.1.4.1.1.1.1"

T = TypeVar("T")


@dataclass(frozen=True)
class Hospital:
    """One source of files: its share among normal and abnormal images, and its habits.

    Attributes:
        normal: Share of the normal images that come from here.
        abnormal: Share of the abnormal images that come from here.
        version: Implementation Version Name its archive writes; may be empty.
        syntaxes: Transfer syntax UIDs and their shares.
        spacings: Pixel spacings in mm and their shares; None leaves the tag out.
        bits: Bits stored and their shares.
        inverted: Share of MONOCHROME1 files.
        dx: Share of DX rather than CR files.
    """

    normal: float
    abnormal: float
    version: str
    syntaxes: dict[str, float]
    spacings: dict[float | None, float]
    bits: dict[int, float]
    inverted: float
    dx: float


HOSPITALS = (
    Hospital(
        normal=0.26,
        abnormal=0.0,
        version="",
        syntaxes={IMPLICIT_LE: 1.0},
        spacings={0.125: 0.35, 0.175: 0.35, 0.15: 0.3},
        bits={12: 1.0},
        inverted=0.30,
        dx=0.35,
    ),
    Hospital(
        normal=0.31,
        abnormal=0.01,
        version="ARCHIVE-A 3.6",
        syntaxes={IMPLICIT_LE: 0.75, JPEG2000_LOSSLESS: 0.25},
        spacings={0.139: 0.7, 0.15: 0.3},
        bits={12: 0.72, 14: 0.28},
        inverted=0.06,
        dx=0.7,
    ),
    Hospital(
        normal=0.30,
        abnormal=0.08,
        version="ARCHIVE-B 1.2",
        syntaxes={IMPLICIT_LE: 0.42, JPEG2000_LOSSLESS: 0.58},
        spacings={0.168: 0.66, None: 0.335, 1.0: 0.005},
        bits={12: 0.6, 14: 0.32, 16: 0.08},
        inverted=0.12,
        dx=0.55,
    ),
    Hospital(
        normal=0.09,
        abnormal=0.33,
        version="ARCHIVE-C 5.0",
        syntaxes={JPEG2000_LOSSLESS: 1.0},
        spacings={0.143: 0.7, 0.148: 0.3},
        bits={12: 0.5, 14: 0.475, 10: 0.025},
        inverted=0.25,
        dx=0.8,
    ),
    Hospital(
        normal=0.04,
        abnormal=0.42,
        version="ARCHIVE-D 2.0",
        syntaxes={IMPLICIT_LE: 0.9, JPEG2000_LOSSLESS: 0.1},
        spacings={0.148: 0.55, None: 0.45},
        bits={12: 0.8, 14: 0.1, 16: 0.1},
        inverted=0.2,
        dx=0.6,
    ),
    Hospital(
        normal=0.0004,
        abnormal=0.16,
        version="ARCHIVE-E 4.1",
        syntaxes={EXPLICIT_LE: 1.0},
        spacings={0.2: 0.7, 0.194: 0.3},
        bits={12: 0.75, 16: 0.25},
        inverted=0.2,
        dx=0.5,
    ),
)
"""Invented names; shares such that a mixture with 70.7% normal images has the published marginals."""

NORMAL_SHARE = 10606 / 15000

SEXES = {"O": 5145, "M": 3840, "F": 3514, "": 2501}
"""Counts in the published header table, used as weights; so are the two below."""

ODD_AGES: dict[str | None, int] = {None: 9519, "000Y": 839, "Y": 701, "": 109, "000D": 66}
USABLE_AGES = 3766

NO_WINDOW = 423 / 15000
WIDE_WINDOW = 452 / 15000


@dataclass(frozen=True)
class Header:
    """Facts that stand in one file's header. None leaves an attribute out; empty keeps it without value.

    Attributes:
        transfer_syntax: Transfer Syntax UID.
        sop_class: SOP Class UID, CR or DX.
        version: Implementation Version Name.
        inverted: MONOCHROME1 rather than MONOCHROME2.
        bits_stored: 10, 12, 14 or 16 of the 16 bits allocated.
        sex: `O`, `M`, `F` or empty.
        age: Age string, often absent or impossible.
        pixel_spacing: Millimetres, the same both ways.
        window: Centre and width in stored values.
    """

    transfer_syntax: str
    sop_class: str
    version: str
    inverted: bool
    bits_stored: int
    sex: str
    age: str | None
    pixel_spacing: float | None
    window: tuple[int, int] | None


def draw_header(abnormal: bool, *, leak: bool, female: bool, rng: np.random.Generator) -> Header:
    """Draw the header of one image.

    Args:
        abnormal: Whether the image has findings; looked at only with `leak`.
        leak: Let the hospital depend on `abnormal`, as in the published files.
        female: Whether the body drawn is a woman's; a sex that is given agrees with it.
        rng: Source of randomness.
    """
    normal = np.array([h.normal for h in HOSPITALS])
    sick = np.array([h.abnormal for h in HOSPITALS])
    mixture = NORMAL_SHARE * normal + (1 - NORMAL_SHARE) * sick
    shares = (sick if abnormal else normal) if leak else mixture
    hospital = HOSPITALS[rng.choice(len(HOSPITALS), p=shares / shares.sum())]
    bits = _pick(hospital.bits, rng)
    sex = _pick(SEXES, rng)
    return Header(
        transfer_syntax=_pick(hospital.syntaxes, rng),
        sop_class=DX_STORAGE if rng.random() < hospital.dx else CR_STORAGE,
        version=hospital.version,
        inverted=bool(rng.random() < hospital.inverted),
        bits_stored=bits,
        sex=("F" if female else "M") if sex in ("F", "M") else sex,
        age=_age(rng),
        pixel_spacing=_pick(hospital.spacings, rng),
        window=_window(bits, rng),
    )


def _age(rng: np.random.Generator) -> str | None:
    odd = sum(ODD_AGES.values())
    if rng.random() < odd / (odd + USABLE_AGES):
        return _pick(ODD_AGES, rng)
    if rng.random() < 0.02:
        return f"{rng.integers(120, 239):03d}Y"
    return f"{int(np.clip(rng.normal(52, 17), 5, 97)):03d}Y"


def _window(bits: int, rng: np.random.Generator) -> tuple[int, int] | None:
    full = 1 << bits
    kind = rng.random()
    if kind < NO_WINDOW:
        return None
    if kind < NO_WINDOW + WIDE_WINDOW:
        if rng.random() < 0.5:
            return 1, 1
        return full // 2, int(full * rng.uniform(1.5, 16))
    return int(full * rng.uniform(0.46, 0.54)), int(full * rng.uniform(0.8, 1.0))


def _pick(shares: Mapping[T, float], rng: np.random.Generator) -> T:
    values = list(shares)
    weights = np.array([shares[v] for v in values], dtype=float)
    return values[rng.choice(len(values), p=weights / weights.sum())]
