"""What makes real radiographs harder than the plain phantom: poor films, faint findings, things worn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxr.phantom.anatomy import LEFT, RIGHT
from cxr.phantom.canvas import ellipse, ribbon, spline
from cxr.phantom.scene import Scene


@dataclass(frozen=True)
class Hardship:
    """How far one radiograph is from a good one; the defaults are the plain phantom's.

    Attributes:
        tilt: Further rotation of the patient, degrees.
        zoom: Further magnification; above 1 parts of the chest lie outside of the film.
        shift: The chest's place off the middle, cm (x, y).
        clarity: Factor of every finding's strength; its square is that of its visibility to readers.
        crowded: Findings may lie over one another.
        fog: Further share of scattered rays.
        dose: Factor of the exposure; less is noisier.
        brightness: Shift of the film's curve, in natural logarithms of attenuation.
        contrast: Factor of the film's slope.
        inverted: The picture is stored black for white, and the header does not say so.
        things: Names of what is worn or implanted, see `THINGS`.
    """

    tilt: float = 0.0
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    clarity: float = 1.0
    crowded: bool = False
    fog: float = 0.0
    dose: float = 1.0
    brightness: float = 0.0
    contrast: float = 1.0
    inverted: bool = False
    things: tuple[str, ...] = ()


PLAIN = Hardship()


def draw_hardship(rng: np.random.Generator) -> Hardship:
    """Draw what is wrong with one radiograph; each thing with most of them is little."""
    return Hardship(
        tilt=float(rng.normal(0, 4.0)),
        zoom=float(np.exp(rng.normal(0.04, 0.12))),
        shift=(float(rng.normal(0, 1.2)), float(rng.normal(0, 1.2))),
        clarity=float(rng.uniform(0.45, 1.0)),
        crowded=bool(rng.random() < 0.5),
        fog=float(rng.exponential(0.08)),
        dose=float(np.exp(rng.uniform(np.log(0.15), 0.0))),
        brightness=float(rng.normal(0, 0.25)),
        contrast=float(np.exp(rng.normal(0, 0.25))),
        inverted=bool(rng.random() < 0.04),
        things=tuple(name for name, (share, _) in THINGS.items() if rng.random() < share),
    )


# -- what is worn or implanted: metal and plastic, added to the attenuation -------------------------------


def _line(scene: Scene, points: list[tuple[float, float]], width: float, dense: float) -> None:
    band = ribbon(spline(points, closed=False), width)
    scene.tissue += np.float32(dense) * scene.canvas.fill([band])


def _discs(scene: Scene, places: np.ndarray, radius: float, dense: float) -> None:
    outlines = [ellipse(x, y, radius, radius) for x, y in places]
    scene.tissue += np.float32(dense) * scene.canvas.fill(outlines)


def _electrodes(scene: Scene, rng: np.random.Generator) -> None:
    """Electrodes of a monitor, each with its cable."""
    places = np.stack([rng.uniform(-12, 12, 4), rng.uniform(0, 20, 4)], axis=1)
    _discs(scene, places, float(rng.uniform(0.35, 0.9)), float(rng.uniform(0.3, 1.4)))
    exit_x = float(rng.uniform(-12, 12))
    for x, y in places:
        middle = ((x + exit_x) / 2 + rng.normal(0, 2), (y + 27) / 2 + rng.normal(0, 2))
        _line(scene, [(x, y), middle, (exit_x, 27.0)], 0.14, float(rng.uniform(0.2, 0.6)))


def _pacemaker(scene: Scene, rng: np.random.Generator) -> None:
    """A generator under the skin of the chest wall, its lead through the great veins into the heart."""
    side = LEFT if rng.random() < 0.8 else RIGHT
    x, y = side * rng.uniform(7.5, 10), rng.uniform(1.5, 4.5)
    case = ellipse(x, y, rng.uniform(1.9, 2.5), rng.uniform(1.6, 2.3), rng.uniform(-30, 30))
    scene.tissue += np.float32(2.2) * scene.canvas.fill([case])
    tip = (rng.uniform(2, 5), rng.uniform(14, 17))
    for end in [tip] if rng.random() < 0.5 else [tip, (-1.5, rng.uniform(10, 12))]:
        _line(scene, [(x, y - 1), (side * 3.0, 1.0), (-1.8, 5.0), (-1.2, 10.5), end], 0.17, 0.9)


def _catheter(scene: Scene, rng: np.random.Generator) -> None:
    """A venous catheter from the neck or below the clavicle."""
    side = RIGHT if rng.random() < 0.7 else LEFT
    start = (side * rng.uniform(1, 7), -rng.uniform(1, 4))
    _line(scene, [start, (side * 2.2, 2.0), (-1.8, 5.0), (-1.8, rng.uniform(7, 10))], 0.22, 0.35)


def _tube(scene: Scene, rng: np.random.Generator) -> None:
    """A stomach tube, down the middle and over the diaphragm."""
    bend = float(rng.normal(0.3, 0.3))
    _line(scene, [(0, -5), (bend, 6), (0.6, 16), (rng.uniform(2, 6), 23)], 0.4, 0.25)


def _sternal_wires(scene: Scene, rng: np.random.Generator) -> None:
    """Wire loops of a closed sternum."""
    for y in np.arange(4, 15, rng.uniform(1.7, 2.4)):
        x, wide = rng.normal(0, 0.2), rng.uniform(0.5, 0.9)
        _line(scene, [(x - wide, y), (x, y - 0.5), (x + wide, y), (x, y + 0.4), (x - wide, y)], 0.1, 1.5)


def _necklace(scene: Scene, rng: np.random.Generator) -> None:
    """A chain around the neck, plain or with a pendant."""
    deep, wide = rng.uniform(1, 7), rng.uniform(3, 6)
    _line(scene, [(-wide, -5), (-wide * 0.6, deep * 0.5), (0, deep)], 0.16, 1.2)
    _line(scene, [(0, deep), (wide * 0.6, deep * 0.5), (wide, -5)], 0.16, 1.2)
    if rng.random() < 0.6:
        _discs(scene, np.array([[0.0, deep + 0.5]]), float(rng.uniform(0.3, 0.9)), 1.5)


def _buttons(scene: Scene, rng: np.random.Generator) -> None:
    """Buttons and hooks of clothes that were not taken off."""
    count = int(rng.integers(2, 6))
    x = rng.normal(0, 3) + rng.normal(0, 0.3, count)
    places = np.stack([x, np.linspace(rng.uniform(0, 5), rng.uniform(12, 22), count)], axis=1)
    _discs(scene, places, float(rng.uniform(0.3, 0.6)), float(rng.uniform(0.2, 0.9)))


THINGS = {
    "electrodes": (0.15, _electrodes),
    "pacemaker": (0.06, _pacemaker),
    "catheter": (0.1, _catheter),
    "tube": (0.06, _tube),
    "sternal wires": (0.05, _sternal_wires),
    "necklace": (0.06, _necklace),
    "buttons": (0.1, _buttons),
}
"""Share of patients that have each thing, and what draws it. No reader marks any of them."""


def put_on(scene: Scene, hardship: Hardship, rng: np.random.Generator) -> None:
    """Draw what the patient wears or has implanted over everything else."""
    for name in hardship.things:
        THINGS[name][1](scene, rng)
