"""What all findings share: finding a place in the lung, and the box around what was drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from cxr.phantom.anatomy import LEFT, RIGHT, Anatomy
from cxr.phantom.scene import Scene

Box = tuple[float, float, float, float]
"""`x_min, y_min, x_max, y_max` in pixels of the scene's canvas, edges exclusive."""

Prepare = Callable[[Anatomy, float, np.random.Generator], Anatomy]
"""Changes the body before it is drawn: `(anatomy, strength, rng)`."""

Draw = Callable[[Scene, float, np.random.Generator], list[Box]]
"""Draws into the scene and returns one box for each lesion: `(scene, strength, rng)`."""


@dataclass(frozen=True)
class Spot:
    """A place in one lung: side, centre in cm, and its pixel `(x, y)`."""

    side: int
    x: float
    y: float


def find_spot(
    scene: Scene,
    rng: np.random.Generator,
    *,
    across: tuple[float, float] = (0.25, 0.75),
    down: tuple[float, float] = (0.15, 0.85),
    radius: float = 3.0,
    side: int | None = None,
) -> Spot:
    """Find a place in the clear lung, away from earlier findings where that can be had.

    Args:
        scene: The patient; the place is noted in `scene.taken`.
        rng: Source of randomness.
        across: Range between the mediastinum (0) and the chest wall (1).
        down: Range between the apex (0) and the diaphragm (1).
        radius: Reach of the finding in cm.
        side: `LEFT` or `RIGHT`; either when None.
    """
    best, best_room = None, -np.inf
    for _ in range(8):
        chosen = (LEFT if rng.random() < 0.5 else RIGHT) if side is None else side
        u, v = rng.uniform(*across), rng.uniform(*down)
        x, y = _point(scene, chosen, u, v)
        room = min((np.hypot(x - a, y - b) - radius - r for a, b, r in scene.taken), default=1.0)
        if room > best_room:
            best, best_room = Spot(chosen, x, y), room
        if room > 0:
            break
    assert best is not None
    scene.taken.append((best.x, best.y, radius))
    return best


def choose_side(scene: Scene, rng: np.random.Generator) -> int:
    """The side with fewer findings so far, else either."""
    load = {side: sum(1 for x, _, _ in scene.taken if np.sign(x) == side) for side in (LEFT, RIGHT)}
    if load[LEFT] != load[RIGHT] and rng.random() < 0.7:
        return LEFT if load[LEFT] < load[RIGHT] else RIGHT
    return LEFT if rng.random() < 0.5 else RIGHT


def zone(scene: Scene, side: int, upper: float, lower: float, soft: float = 0.8) -> np.ndarray:
    """Band of one lung between two heights (0 apex, 1 diaphragm), soft at its borders, `float32`."""
    _, y = scene.canvas.centimetres
    top, base = lung_span(scene, side)
    a, b = (np.float32(top + (base - top) * h) for h in (upper, lower))
    soft = np.float32(soft)
    return np.clip((y - a) / soft + 0.5, 0, 1) * np.clip((b - y) / soft + 0.5, 0, 1)


def lung_span(scene: Scene, side: int) -> tuple[float, float]:
    """Heights (cm) of one lung's apex and of its costophrenic angle."""
    y = scene.anatomy.lung(side)[:, 1]
    return float(y.min()), float(y.max())


def irregular(
    scene: Scene, blob: np.ndarray, grain: float, amount: float, rng: np.random.Generator
) -> np.ndarray:
    """Give a blob an uneven border by a random field."""
    return np.clip(blob * (1 + np.float32(amount) * scene.canvas.texture(grain, rng)), 0, None)


def extent(drawn: np.ndarray, share: float = 0.3) -> list[Box]:
    """Box around what is stronger than a share of the strongest; empty when nothing was drawn."""
    strongest = float(drawn.max())
    if strongest <= 0:
        return []
    x, y, w, h = cv2.boundingRect((drawn > share * strongest).astype(np.uint8))
    return [(float(x), float(y), float(x + w), float(y + h))] if w and h else []


def outline_box(scene: Scene, outline: np.ndarray) -> Box:
    """Box around an outline in cm, within the picture."""
    pixels = scene.canvas.to_pixels(outline)
    rows, columns = scene.canvas.shape
    low = np.clip(pixels.min(axis=0), 0, [columns - 2, rows - 2])
    high = np.clip(pixels.max(axis=0), low + 2, [columns, rows])
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _point(scene: Scene, side: int, u: float, v: float) -> tuple[float, float]:
    top, base = lung_span(scene, side)
    y = top + (base - top) * v
    outer = float(scene.anatomy.wall(y / scene.anatomy.height)) * scene.anatomy.width
    heart = scene.anatomy.heart_outline()
    near = heart[np.abs(heart[:, 1] - y) < 1.0, 0] * side
    inner = max(2.6 * scene.anatomy.width, float(near.max()) + 0.4 if len(near) else 0.0)
    return side * (inner + (outer - inner) * u), y
