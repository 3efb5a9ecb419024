"""Findings of the pleura: fluid in the angle, air around the lung, thickening along the wall."""

from __future__ import annotations

import numpy as np

from cxr.phantom.findings.common import Box, choose_side, extent, lung_span
from cxr.phantom.scene import Scene


def effusion(scene: Scene, strength: float, rng: np.random.Generator) -> list[Box]:
    """Pleural effusion: fluid fills the angle and climbs the wall, its surface a meniscus."""
    canvas, anatomy = scene.canvas, scene.anatomy
    side = choose_side(scene, rng)
    _, base = lung_span(scene, side)
    height = rng.uniform(5.0, 10.5) * (0.4 + 0.6 * strength)
    x, y = canvas.centimetres
    outer = np.float32(12.8 * anatomy.width)
    t = np.clip(side * x / outer, 0, 1.1)
    surface = np.float32(base) - np.float32(height) * (np.float32(0.45) + np.float32(0.55) * t**4)
    fluid = np.clip((y - surface) / np.float32(0.45), 0, 1) * scene.lungs[side]
    fluid = fluid * np.clip((side * x - np.float32(1.5)) / 1.5, 0, 1)
    scene.tissue += fluid * (np.float32(0.4 + 0.6 * strength) * scene.air + np.float32(0.12))
    scene.vessels *= 1 - fluid
    scene.taken.append((side * 10.0, base - height / 2, max(2.5, height / 2)))
    return extent(fluid * scene.clear[side], 0.5)


def pneumothorax(scene: Scene, strength: float, rng: np.random.Generator) -> list[Box]:
    """Pneumothorax: the lung falls from the wall, a fine line at its edge, nothing beyond it."""
    canvas = scene.canvas
    side = choose_side(scene, rng)
    top, base = lung_span(scene, side)
    outline = scene.anatomy.lung(side)
    hilum = scene.anatomy.hilum(side)
    shrink = rng.uniform(0.22, 0.42) * (0.3 + 0.7 * strength)
    reach = rng.uniform(0.55, 0.8)
    # The fall is greatest at the apex and along the side, none towards the mediastinum and below `reach`.
    v = (outline[:, 1] - top) / (base - top)
    lateral = np.clip((side * outline[:, 0] - 2.5) / 4.0, 0, 1)
    fall = shrink * np.clip((reach - v) / reach, 0, 1) ** 0.6 * lateral
    edge = outline + (hilum - outline) * fall[:, None]
    collapsed = canvas.fill([edge]) * scene.lungs[side]
    free = np.clip(scene.lungs[side] - collapsed, 0, 1)
    # The visceral pleura is where both meet; the outer border of the lung field is not part of it.
    line = 4 * canvas.blur(free, 0.07) * canvas.blur(collapsed, 0.07)
    scene.vessels *= 1 - np.float32(min(1.0, 0.3 + strength)) * free
    scene.tissue -= np.float32(0.42 * (0.3 + 0.7 * strength)) * canvas.blur(free, 0.05)
    scene.tissue += np.float32(0.08 * strength) * collapsed
    scene.tissue += np.float32(0.1 + 0.38 * strength) * line
    scene.taken.append((side * 9.0, top + 5.0, 4.0))
    return extent(canvas.blur(free, 0.15), 0.6)


def thickening(scene: Scene, strength: float, rng: np.random.Generator) -> list[Box]:
    """Pleural thickening: a cap on the apex, or a band along the side wall."""
    canvas, anatomy = scene.canvas, scene.anatomy
    side = choose_side(scene, rng)
    top, base = lung_span(scene, side)
    x, y = canvas.centimetres
    uneven = 1 + np.float32(0.22) * canvas.texture(1.6, rng)
    if rng.random() < 0.65:
        reach = np.float32(rng.uniform(2.4, 3.6))
        thick = np.float32(rng.uniform(1.1, 1.6))
        where = np.clip((np.float32(top) + reach - y) / 0.8, 0, 1) * (side * x > 2.6 * anatomy.width)
        centre = (side * 6.0, top + 1.0, 2.0)
    else:
        middle, half = rng.uniform(0.4, 0.65) * (base - top) + top, rng.uniform(2.2, 3.6)
        thick = np.float32(rng.uniform(0.8, 1.25))
        where = np.sqrt(np.clip((np.float32(half) - np.abs(y - np.float32(middle))) / 2.0, 0, 1)) * (
            side * x > 7.0 * anatomy.width
        )
        centre = (side * 12.0, middle, half)
    band = (
        np.clip((thick * uneven * where - scene.depth[side]) / 0.2 + 0.5, 0, 1)
        * scene.lungs[side]
        * (where > 0)
    )
    scene.tissue += np.float32(0.85 * strength) * canvas.blur(band, 0.06)
    scene.vessels *= 1 - np.float32(0.8 * strength) * band
    scene.taken.append(centre)
    return extent(band, 0.45)
