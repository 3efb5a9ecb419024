"""Findings inside the lung: what is dense, patchy, streaky, reticular, round or calcified."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cxr.phantom.anatomy import LEFT, RIGHT, Anatomy
from cxr.phantom.canvas import ellipse, ribbon, round_profile, spline
from cxr.phantom.findings.common import Box, choose_side, extent, find_spot, irregular, zone
from cxr.phantom.scene import Scene


def lose_volume(anatomy: Anatomy, strength: float, rng: np.random.Generator) -> Anatomy:
    """Atelectasis: the diaphragm stands higher on one side; `plates` draws on the same side."""
    right, left = anatomy.dome
    lift = 1.3 * strength
    return replace(anatomy, dome=(right - lift, left) if rng.random() < 0.5 else (right, left - lift))


def plates(scene: Scene, strength: float, rng: np.random.Generator) -> list[Box]:
    """Atelectasis: plates of airless lung, flat bands above the diaphragm."""
    side = RIGHT if rng.random() < 0.5 else LEFT  # the first draw, as in lose_volume
    canvas = scene.canvas
    length = rng.uniform(4.5, 7.0)
    spot = find_spot(scene, rng, across=(0.42, 0.58), down=(0.62, 0.72), radius=length / 2, side=side)
    drawn = np.zeros(canvas.shape, np.float32)
    tilt = rng.uniform(-0.22, 0.22)
    for number in range(rng.integers(2, 4)):
        reach = length * rng.uniform(0.75, 1.0) / 2
        y = spot.y + 0.95 * (number - 0.8) + rng.normal(0, 0.1)
        lean = tilt + rng.normal(0, 0.05)
        line = spline(
            [(spot.x - reach, y - lean * reach), (spot.x, y - 0.15), (spot.x + reach, y + lean * reach)],
            closed=False,
        )
        width = rng.uniform(0.4, 0.62) * np.interp(
            np.linspace(0, 1, len(line)), [0, 0.25, 0.75, 1], [0.4, 1, 1, 0.4]
        )
        drawn = np.maximum(drawn, canvas.blur(canvas.fill([ribbon(line, width)]), 0.07))
    drawn *= scene.clear[side]
    scene.tissue += np.float32(0.52 * strength) * drawn
    return extent(drawn, 0.35)


def calcification(scene: Scene, strength: float, rng: np.random.Generator) -> list[Box]:
    """Calcification: a cluster of small chalk-white grains."""
    canvas = scene.canvas
    radius = rng.uniform(0.7, 1.2) * (0.5 + 0.5 * strength)
    spot = find_spot(scene, rng, across=(0.15, 0.6), down=(0.15, 0.6), radius=radius)
    count = rng.integers(5, 9)
    angle, far = rng.uniform(0, 2 * np.pi, count), radius * np.sqrt(rng.random(count))
    grains = [
        ellipse(
            spot.x + f * np.cos(a),
            spot.y + f * np.sin(a),
            rng.uniform(0.14, 0.4),
            rng.uniform(0.14, 0.4),
            rng.uniform(0, 180),
        )
        for a, f in zip(angle, far, strict=True)
    ]
    drawn = canvas.blur(canvas.fill(grains), 0.05)
    scene.tissue += np.float32(1.1 * strength) * drawn
    return extent(drawn, 0.4)


def consolidation(scene: Scene, strength: float, rng: np.random.Generator) -> list[Box]:
    """Consolidation: a lobe's dense wedge with a straight fissure and air bronchograms in it."""
    canvas = scene.canvas
    across, tall = rng.uniform(2.5, 4.0), rng.uniform(2.0, 3.2)
    spot = find_spot(scene, rng, across=(0.4, 0.6), down=(0.3, 0.66), radius=across)
    x, y = spot.x, spot.y
    above = rng.random() < 0.5  # of the fissure, or below it
    sign = -1 if above else 1
    slope = rng.uniform(-0.12, 0.12)
    outline = spline([
        (x - across, y - slope * across), (x - across, y + sign * 0.2),
        (x - 0.95 * across, y + sign * 0.9 * tall), (x - 0.3 * across, y + sign * 1.7 * tall),
        (x + 0.5 * across, y + sign * 1.75 * tall), (x + across, y + sign * 0.8 * tall),
        (x + across, y + sign * 0.2), (x + across, y + slope * across), (x, y),
    ], closed=True)  # fmt: skip
    outline[:, 1] -= sign * 0.85 * tall
    block = canvas.fill([outline])
    dense = irregular(scene, canvas.blur(block, 0.3), 1.3, 0.12, rng) * scene.clear[spot.side]
    bronchi = []
    hilum = scene.anatomy.hilum(spot.side)
    start = np.array([x, y]) + 0.62 * (hilum - [x, y]) * min(1.0, 2.2 / max(0.1, np.hypot(*(hilum - [x, y]))))
    for turn in np.linspace(-0.75, 0.75, 4) + rng.normal(0, 0.1, 4):
        heading = np.arctan2(y - hilum[1], x - hilum[0]) + turn
        end = start + 1.35 * across * np.array([np.cos(heading), np.sin(heading)])
        middle = (start + end) / 2 + rng.normal(0, 0.25, 2)
        bronchi.append(ribbon(spline([start, middle, end], closed=False), np.linspace(0.3, 0.12, 17)))
    gaps = canvas.blur(canvas.fill(bronchi), 0.05)
    scene.tissue += np.float32(0.85 * strength) * dense * (1 - np.float32(0.4) * gaps)
    scene.vessels *= 1 - np.float32(0.85 * strength) * dense
    return extent(dense, 0.4)


def infiltration(scene: Scene, strength: float, rng: np.random.Generator) -> list[Box]:
    """Infiltration: fluffy patches that run together, no sharp border."""
    reach = rng.uniform(2.6, 3.6)
    spot = find_spot(scene, rng, across=(0.35, 0.6), down=(0.35, 0.75), radius=reach)
    drawn = np.zeros(scene.canvas.shape, np.float32)
    for _ in range(rng.integers(9, 14)):
        angle, far = rng.uniform(0, 2 * np.pi), reach * np.sqrt(rng.random())
        x, y = spot.x + 0.8 * far * np.cos(angle), spot.y + far * np.sin(angle)
        radius, dense = rng.uniform(0.4, 0.75), rng.uniform(0.65, 1)
        drawn = np.maximum(drawn, np.float32(dense) * scene.canvas.glow(x, y, radius, radius))
    drawn = irregular(scene, drawn, 0.5, 0.15, rng) * scene.clear[spot.side]
    scene.tissue += np.float32(0.82 * strength) * drawn
    return extent(drawn, 0.35)


def opacity(scene: Scene, strength: float, rng: np.random.Generator) -> list[Box]:
    """Lung Opacity: one hazy veil through which the vessels still show."""
    across, tall = rng.uniform(1.5, 2.1), rng.uniform(1.7, 2.5)
    spot = find_spot(scene, rng, across=(0.4, 0.65), down=(0.3, 0.72), radius=1.6 * across)
    blob = scene.canvas.glow(spot.x, spot.y, across, tall)
    drawn = np.minimum(1, np.float32(1.5) * irregular(scene, blob, 2.5, 0.12, rng)) * scene.clear[spot.side]
    scene.tissue += np.float32(0.62 * strength) * drawn
    return extent(drawn, 0.35)


def nodule(scene: Scene, strength: float, rng: np.random.Generator) -> list[Box]:
    """Nodule or mass: round, well defined; now and then two or three of them."""
    canvas = scene.canvas
    boxes = []
    for _ in range(1 if rng.random() < 0.7 else rng.integers(2, 4)):
        radius = rng.uniform(0.9, 2.2)
        spot = find_spot(scene, rng, across=(0.25, 0.8), down=(0.2, 0.78), radius=radius)
        t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        bumps = 1 + 0.06 * np.cos(3 * t + rng.uniform(0, 6)) + 0.05 * np.cos(5 * t + rng.uniform(0, 6))
        outline = np.stack([spot.x + radius * bumps * np.cos(t), spot.y + radius * bumps * np.sin(t)], axis=1)
        ball = canvas.fill([outline])
        drawn = canvas.blur(round_profile(canvas.depth(ball), radius) * ball, 0.06) * scene.lungs[spot.side]
        scene.tissue += np.float32((0.55 + 0.16 * radius) * strength) * drawn
        boxes += extent(drawn, 0.25)
    return boxes


def interstitial(scene: Scene, strength: float, rng: np.random.Generator) -> list[Box]:
    """ILD: a net of fine lines over both bases."""
    boxes = []
    upper = rng.uniform(0.5, 0.6)
    canvas = scene.canvas
    field = canvas.texture(0.62, rng)
    net = np.exp(
        -np.square(field / np.float32(0.32))
    )  # ridges along the field's zero crossings make the meshes
    net += np.float32(0.5) * np.exp(-np.square(canvas.texture(0.9, rng) / np.float32(0.3)))
    for side in (RIGHT, LEFT):
        region = zone(scene, side, upper, 1.05, soft=1.6) * scene.clear[side]
        drawn = region * net
        scene.tissue += np.float32(0.33 * strength) * drawn + np.float32(0.08 * strength) * region
        boxes += extent(region, 0.45)
        x = side * 8.0
        scene.taken.append((x, 18.0, 4.0))
    return boxes


def fibrosis(scene: Scene, strength: float, rng: np.random.Generator) -> list[Box]:
    """Pulmonary fibrosis: coarse strands from the hilum to the apex, the upper lobe drawn in."""
    canvas = scene.canvas
    side = choose_side(scene, rng)
    spot = find_spot(scene, rng, across=(0.42, 0.58), down=(0.14, 0.24), radius=2.6, side=side)
    hilum = scene.anatomy.hilum(side) + np.array([side * 0.8, -2.4])
    strands = []
    for _ in range(rng.integers(18, 26)):
        end = np.array([spot.x, spot.y]) + rng.normal(0, [1.6, 1.3])
        start = hilum + rng.normal(0, [0.9, 0.8])
        begin = start + (end - start) * rng.uniform(0.15, 0.55)
        middle = (begin + end) / 2 + rng.normal(0, 0.35, 2)
        line = spline([begin, middle, end + rng.normal(0, 0.5, 2)], closed=False)
        strands.append(ribbon(line, np.linspace(rng.uniform(0.16, 0.3), 0.08, len(line))))
    drawn = canvas.blur(canvas.fill(strands), 0.05) * scene.clear[side]
    veil = scene.canvas.glow(spot.x, spot.y + 0.8, 1.7, 2.0) * scene.clear[side]
    scene.tissue += np.float32(0.46 * strength) * drawn + np.float32(0.26 * strength) * veil
    return extent(drawn, 0.35)
