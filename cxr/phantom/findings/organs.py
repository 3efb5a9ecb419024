"""Findings of heart and aorta, and those that belong to no class of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cxr.phantom.anatomy import LEFT, RIGHT, Anatomy
from cxr.phantom.canvas import ellipse, ribbon, round_profile, spline
from cxr.phantom.findings.common import Box, extent, find_spot, irregular, outline_box
from cxr.phantom.scene import Scene


def widen_aorta(anatomy: Anatomy, strength: float, rng: np.random.Generator) -> Anatomy:
    """Aortic enlargement: a bigger knob, and the aorta unfolded beyond the mediastinum."""
    return replace(
        anatomy,
        knob=anatomy.knob + strength * float(rng.uniform(0.75, 1.25)),
        unfolding=anatomy.unfolding + strength * float(rng.uniform(0.5, 1.2)),
    )


def box_aorta(scene: Scene, strength: float, rng: np.random.Generator) -> list[Box]:
    """The box stands around the arch."""
    x, y = scene.anatomy.knob_centre()
    scene.taken.append((x, y, scene.anatomy.knob))
    return [outline_box(scene, ellipse(x - 0.15, y, scene.anatomy.knob * 1.15, scene.anatomy.knob * 1.2))]


def enlarge_heart(anatomy: Anatomy, strength: float, rng: np.random.Generator) -> Anatomy:
    """Cardiomegaly: a cardiothoracic ratio above one half."""
    ratio = 0.50 + strength * float(rng.uniform(0.06, 0.15))
    return replace(anatomy, heart=max(anatomy.heart, ratio), heart_turn=anatomy.heart_turn + 3.0 * strength)


def box_heart(scene: Scene, strength: float, rng: np.random.Generator) -> list[Box]:
    """The box stands around the heart, from the level of the hila to the diaphragm."""
    outline = scene.anatomy.heart_outline()
    base = (21.6 + max(scene.anatomy.dome)) * scene.anatomy.height
    seen = outline[outline[:, 1] > 9.2 * scene.anatomy.height]
    return [outline_box(scene, np.minimum(seen, [np.inf, base]))]


def other_lesion(scene: Scene, strength: float, rng: np.random.Generator) -> list[Box]:
    """Other lesion: a pacemaker, a cavity, or a hernia behind the heart."""
    kind = rng.random()
    if kind < 0.55 and strength > 0.5:  # metal is never faint
        return _pacemaker(scene, strength, rng)
    if kind < 0.85:
        return _cavity(scene, strength, rng)
    return _hernia(scene, strength, rng)


def _pacemaker(scene: Scene, strength: float, rng: np.random.Generator) -> list[Box]:
    canvas, anatomy = scene.canvas, scene.anatomy
    side = LEFT if rng.random() < 0.75 else RIGHT
    x, y = side * rng.uniform(8.2, 10.2) * anatomy.width, rng.uniform(3.0, 5.5) * anatomy.height
    can = spline(
        [
            (-2.1, -1.0),
            (-1.2, -1.6),
            (1.3, -1.6),
            (2.1, -0.9),
            (2.1, 0.9),
            (1.2, 1.6),
            (-1.2, 1.6),
            (-2.1, 1.0),
        ],
        closed=True,
    )
    angle = np.radians(rng.uniform(-35, 35))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    can = can @ turn.T * rng.uniform(0.85, 1.1) + [x, y]
    body = canvas.fill([can])
    inner = canvas.fill([(can - [x, y]) * 0.55 + [x, y]])
    lead = spline(
        [
            (x - side * 1.5, y - 0.5),
            (x - side * 5, y - 2.2),
            (side * 1.2, 3.2),
            (-1.8, 9.0),
            (-1.5, 15.5),
            (3.0, 19.0),
        ],
        closed=False,
    )
    wire = canvas.fill([ribbon(anatomy.place(lead / [anatomy.width, anatomy.height]), 0.16)])
    metal = np.float32(0.4 + 1.6 * strength)
    scene.tissue += metal * (body * np.float32(0.75) + inner * np.float32(0.45))
    scene.tissue += np.float32(0.6 * strength) * wire * (1 - body)
    scene.taken.append((x, y, 2.2))
    return extent(body, 0.5)


def _cavity(scene: Scene, strength: float, rng: np.random.Generator) -> list[Box]:
    canvas = scene.canvas
    radius = rng.uniform(1.4, 2.4)
    spot = find_spot(scene, rng, across=(0.25, 0.7), down=(0.12, 0.5), radius=radius)
    ring = canvas.fill([ellipse(spot.x, spot.y, radius, 0.9 * radius, rng.uniform(0, 90))])
    hole = canvas.fill(
        [ellipse(spot.x + 0.1, spot.y - 0.1, 0.62 * radius, 0.55 * radius, rng.uniform(0, 90))]
    )
    hole = canvas.blur(hole, 0.12)
    shell = canvas.blur(irregular(scene, ring, 0.8, 0.15, rng), 0.15) - hole
    scene.tissue += np.float32(0.7 * strength) * np.maximum(shell, 0) - np.float32(0.06 * strength) * hole
    scene.vessels *= 1 - np.float32(0.8 * strength) * hole
    return extent(ring, 0.5)


def _hernia(scene: Scene, strength: float, rng: np.random.Generator) -> list[Box]:
    canvas, anatomy = scene.canvas, scene.anatomy
    x, y = anatomy.place([(rng.uniform(0.8, 2.0), 18.6 + 0.7 * sum(anatomy.dome) / 2)])[0]
    radius = rng.uniform(2.3, 3.2)
    sac = canvas.fill([ellipse(x, y, radius, 0.85 * radius)])
    _, gy = canvas.centimetres
    gas = canvas.fill([ellipse(x, y, 0.82 * radius, 0.68 * radius)]) * np.clip((y + 0.1 - gy) / 0.12, 0, 1)
    wall = round_profile(canvas.depth(sac), radius) * sac
    scene.tissue += np.float32(0.5 * strength) * wall - np.float32(0.85 * strength) * canvas.blur(gas, 0.08)
    scene.taken.append((x, y, radius))
    return extent(sac, 0.5)
