"""The radiograph of one synthetic patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxr.phantom import film
from cxr.phantom.anatomy import draw_anatomy
from cxr.phantom.canvas import Canvas
from cxr.phantom.findings import DRAW, PREPARE, Box
from cxr.phantom.hardships import PLAIN, Hardship, put_on
from cxr.phantom.scene import build_scene

WORKING_PX = (384, 800)
"""Least and largest longer side at which anatomy is drawn; what is larger has finer noise only."""


@dataclass(frozen=True)
class Picture:
    """A radiograph as drawn.

    Attributes:
        density: `float32 (H, W)` in `[0, 1]`, white is dense.
        boxes: For each finding asked for its boxes in pixels of `density`: one, or one a lesion.
    """

    density: np.ndarray
    boxes: list[list[Box]]


def draw(
    size: tuple[int, int],
    findings: list[tuple[int, float]],
    *,
    female: bool,
    seed: tuple[int, ...],
    hardship: Hardship = PLAIN,
) -> Picture:
    """Draw one patient.

    Args:
        size: `(rows, columns)`.
        findings: Class id and strength in `(0, 1]` of each finding.
        female: Draw a woman.
        seed: Seed of everything drawn.
        hardship: What makes it harder than a good radiograph.
    """
    canvas = _canvas(size, hardship, np.random.default_rng([*seed, 1]))
    anatomy = draw_anatomy(female=female, seed=seed)
    for class_id, strength in findings:
        if class_id in PREPARE:
            anatomy = PREPARE[class_id](anatomy, strength, np.random.default_rng([*seed, 5, class_id]))
    scene = build_scene(anatomy, canvas)
    boxes = []
    for class_id, strength in findings:
        drawn = DRAW[class_id](scene, strength, np.random.default_rng([*seed, 5, class_id]))
        boxes.append([_in_picture(box, canvas.shape, size) for box in drawn])
        if hardship.crowded:
            scene.taken.clear()
    put_on(scene, hardship, np.random.default_rng([*seed, 8]))
    exposure = np.random.default_rng([*seed, 3])
    density = film.expose(scene.tissue + scene.vessels, canvas, size, exposure, hardship)
    film.finish(density, canvas.scale * size[0] / canvas.shape[0], exposure)
    return Picture(1 - density if hardship.inverted else density, boxes)


def _in_picture(box: Box, drawn: tuple[int, int], size: tuple[int, int]) -> Box:
    """A box from pixels of the canvas to whole pixels of the picture."""
    factor = np.array([size[1] / drawn[1], size[0] / drawn[0]] * 2)
    x_min, y_min, x_max, y_max = np.round(np.asarray(box) * factor)
    return (
        float(np.clip(x_min, 0, size[1] - 1)),
        float(np.clip(y_min, 0, size[0] - 1)),
        float(np.clip(x_max, x_min + 1, size[1])),
        float(np.clip(y_max, y_min + 1, size[0])),
    )


def _canvas(size: tuple[int, int], hardship: Hardship, rng: np.random.Generator) -> Canvas:
    """The film plane: the chest fills it, never quite straight and never quite in the middle."""
    factor = float(np.clip(max(size), *WORKING_PX)) / max(size)
    rows, columns = (round(s * factor) for s in size)
    scale = min(rows / 32.0, columns / 29.0) * rng.uniform(0.93, 1.07) * hardship.zoom
    x = columns / 2 + (rng.normal(0, 0.6) + hardship.shift[0]) * scale
    y = rows / 2 - (11.4 + rng.normal(0, 0.7) - hardship.shift[1]) * scale
    return Canvas((rows, columns), scale, (x, y), float(rng.normal(0, 1.6)) + hardship.tilt)
