"""One patient between tube and film: attenuation maps of everything the beam goes through."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from cxr.phantom.anatomy import LEFT, RIGHT, Anatomy, Bands
from cxr.phantom.canvas import Canvas, ellipse, ribbon, round_profile

SOFT = 0.155
"""Attenuation of soft tissue per cm, natural logarithm, at chest energies and for a wide beam."""

TRUNK_CM = 20.0
LUNG_CM = 15.0
LUNG_AIR = 0.76
"""Thickness of a standard trunk, of the lung in it, and the lung's share of air."""


@dataclass
class Scene:
    """Attenuation of one patient, findings still to be added.

    Attributes:
        canvas: Where things are.
        anatomy: Whose chest it is.
        tissue: Attenuation of everything but the lungs' vessels, `float32 (H, W)`.
        vessels: Attenuation of the lungs' vessels and bronchi, `float32 (H, W)`.
        air: What the lungs' air takes from `tissue`, `float32 (H, W)`.
        lungs: Mask of each side's lung with soft edges, `float32 (H, W)`.
        clear: Lung as a radiologist sees it: lungs without what heart and mediastinum cover.
        depth: Distance of lung pixels to the pleura, cm, by side.
        taken: x, y and radius (cm) of the findings drawn so far.
    """

    canvas: Canvas
    anatomy: Anatomy
    tissue: np.ndarray
    vessels: np.ndarray
    air: np.ndarray
    lungs: dict[int, np.ndarray]
    clear: dict[int, np.ndarray]
    depth: dict[int, np.ndarray]
    taken: list[tuple[float, float, float]] = field(default_factory=list)


def build_scene(anatomy: Anatomy, canvas: Canvas) -> Scene:
    """Lay a patient's organs over one another.

    Args:
        anatomy: The patient.
        canvas: The film plane.
    """
    tissue = _trunk(anatomy, canvas)
    lungs, depth, clear = {}, {}, {}
    for side in (RIGHT, LEFT):
        lungs[side] = canvas.blur(canvas.fill([anatomy.lung(side)]), 0.06)
    cavity = np.maximum(lungs[RIGHT], lungs[LEFT])
    air = round_profile(canvas.depth(cavity), 7.0)
    # The chest is shallow at the apices and again where the lung thins out over the diaphragm.
    height = canvas.heights / np.float32(anatomy.height)
    deep = np.interp(height, [-2, 1, 7, 14, 22, 26], [0.5, 0.62, 0.92, 1.0, 0.9, 0.8]).astype(np.float32)
    air *= np.float32(LUNG_CM * SOFT * LUNG_AIR) * deep * cavity
    middle = _middle(anatomy, canvas)
    # Heart and vessels displace air; where there is none they add nothing, so they end at the diaphragm.
    air -= middle
    np.maximum(air, 0, out=air)
    tissue -= air
    if anatomy.female:
        tissue += _breasts(anatomy, canvas, cavity)
    uncovered = 1 - np.minimum(middle, np.float32(0.45)) / np.float32(0.45)
    for side in (RIGHT, LEFT):
        depth[side] = canvas.depth(lungs[side])
        clear[side] = lungs[side] * uncovered
    tissue -= np.float32(0.27) * canvas.blur(canvas.fill(anatomy.trachea()), 0.14)
    tissue += _bones(anatomy, canvas)
    tissue += _abdomen(anatomy, canvas, cavity)
    # Few of the vessels behind heart and mediastinum show.
    vessels = _vessels(anatomy, canvas)
    vessels *= cavity * (np.float32(0.35) + np.float32(0.65) * uncovered)
    return Scene(canvas, anatomy, tissue, vessels, air, lungs, clear, depth)


def _trunk(anatomy: Anatomy, canvas: Canvas) -> np.ndarray:
    thick = TRUNK_CM + 1.1 * anatomy.fat
    tissue = np.float32(SOFT * thick) * canvas.solid([anatomy.body()], 8.0)
    arms = np.float32(SOFT * 9) * canvas.solid([anatomy.arm(RIGHT), anatomy.arm(LEFT)], 3.2)
    np.maximum(tissue, arms, out=tissue)
    # Skin fold and muscle of the axilla, and slow unevenness that no two bodies share.
    rng = np.random.default_rng([*anatomy.detail_seed, 5])
    tissue *= 1 + np.float32(0.02) * canvas.texture(6.0, rng)
    return tissue


def _breasts(anatomy: Anatomy, canvas: Canvas, cavity: np.ndarray) -> np.ndarray:
    """A veil over the lower lungs, sharp below, lost above; over the abdomen it hardly shows."""
    rise = np.clip((canvas.heights - np.float32(11.5 * anatomy.height)) / 8, 0, 1)
    out = canvas.solid([anatomy.breast_outline(RIGHT), anatomy.breast_outline(LEFT)], 3.5)
    out *= (np.float32(0.25) + np.float32(0.75) * cavity) * (np.float32(0.24) * rise)
    return out


def _middle(anatomy: Anatomy, canvas: Canvas) -> np.ndarray:
    """Heart, great vessels and mediastinum, as attenuation above the lung they displace."""
    mediastinum = canvas.solid([anatomy.mediastinum()], 2.0)
    out = np.float32(1.3) * np.maximum(mediastinum, canvas.solid([anatomy.heart_outline()], 5.0))
    for outline, strength in (
        (anatomy.aortic_knob(), 1.0),
        (anatomy.descending_aorta(), 0.5),
        (anatomy.ascending_aorta(), 0.6),
    ):
        thick = np.float32(strength) * canvas.solid([outline], anatomy.knob)
        out = np.maximum(out, thick) + np.float32(0.25) * np.minimum(out, thick)
    return canvas.blur(out, 0.11)  # it beats during the exposure


def _bones(anatomy: Anatomy, canvas: Canvas) -> np.ndarray:
    bodies, posts = anatomy.vertebrae()
    back, front = anatomy.ribs()
    column = canvas.fill(bodies)
    # What lies far from the detector is blurred more.
    far = np.float32(0.22) * column - np.float32(0.08) * canvas.blur(column, 0.35)
    far += np.float32(0.09) * canvas.fill(posts)
    far += _tubes(canvas, front, 0.13, 0.14)
    near = _tubes(canvas, back, 0.13, 0.23)
    near += _tubes(canvas, anatomy.clavicles(), 0.18, 0.3)
    blades = canvas.fill([outline for side in (RIGHT, LEFT) for outline in anatomy.scapula(side)])
    near += np.float32(0.1) * blades + np.float32(0.15) * np.maximum(blades - canvas.blur(blades, 0.25), 0)
    near += np.float32(0.45) * canvas.solid([o for side in (RIGHT, LEFT) for o in anatomy.humerus(side)], 0.6)
    return canvas.blur(far, 0.12) + canvas.blur(near, 0.06)


def _tubes(canvas: Canvas, bones: Bands, cortex: float, dense: float) -> np.ndarray:
    """Hollow bones: the cortex shows as two bright edges, the marrow between them as a veil."""
    lines, width = bones
    outer = canvas.fill(list(ribbon(lines, width)))
    inner = canvas.fill(list(ribbon(lines, np.maximum(0.1, width - 2 * cortex))))
    outer -= np.float32(0.42) * inner
    outer *= np.float32(dense)
    return outer


def _abdomen(anatomy: Anatomy, canvas: Canvas, cavity: np.ndarray) -> np.ndarray:
    """What lies below the diaphragm: solid organs, and often the stomach's air bubble."""
    out = np.float32(0.25) * np.clip((canvas.heights / np.float32(anatomy.height) - 20) / 8, 0, 1)
    if anatomy.bubble:
        rng = np.random.default_rng([*anatomy.detail_seed, 6])
        cx, cy = anatomy.place([(6.2 + rng.normal(0, 1.0), 22.5 + anatomy.dome[1])])[0]
        b = anatomy.bubble
        outline = ellipse(cx, cy, b, rng.uniform(0.6, 0.9) * b, rng.uniform(-25, 25))
        # Standing patients have a fluid level, often, and not always at the same height.
        outline[:, 1] = np.minimum(outline[:, 1], cy + rng.uniform(0.1, 0.9) * b)
        out = out - np.float32(0.55) * canvas.blur(canvas.solid([outline], 0.6 * b), 0.12)
    return out * (1 - cavity)


def _vessels(anatomy: Anatomy, canvas: Canvas) -> np.ndarray:
    """Pulmonary vessels: trees from the hila, thinner with every fork, thicker towards the bases."""
    out = np.zeros(canvas.shape, np.uint8)
    rng = np.random.default_rng([*anatomy.detail_seed, 4])
    branches, widths = [], []
    for side in (RIGHT, LEFT):
        hilum = anatomy.hilum(side)
        roots = 15
        angle = np.linspace(-1.25, 1.5, roots) + rng.normal(0, 0.1, roots)
        point = (
            hilum
            + rng.normal(0, [0.35, 0.9], (roots, 2))
            + np.stack([0 * angle, 1.2 * np.sin(angle)], axis=1)
        )
        width = rng.uniform(0.2, 0.46, roots) * (1 + 0.25 * np.sin(angle))
        length = rng.uniform(1.5, 2.9, roots)
        for _ in range(6):
            bend = rng.normal(0, 0.26, len(angle))
            steps: list[np.ndarray] = []
            for step in range(4):
                turn = angle + bend * step / 2
                move = np.stack([side * np.cos(turn), np.sin(turn)], axis=1) * (length / 4)[:, None]
                steps.append(point if not steps else steps[-1] + move)
            end = steps[-1] + move
            branches.append(np.stack([*steps, end], axis=1))
            widths.append(width)
            fork = rng.uniform(0.22, 0.5, len(angle))
            angle = np.concatenate([turn - fork * rng.uniform(0.4, 1, len(fork)), turn + fork])
            point = np.concatenate([end, end])
            width = np.concatenate([width * 0.78, width * 0.68])
            length = np.concatenate([length, length]) * rng.uniform(0.62, 0.95, len(angle))
    lines, width = np.concatenate(branches), np.concatenate(widths)
    # Thin ones first: where two cross, the thicker shows.
    bins = np.geomspace(width.min(), width.max() + 1e-6, 15)
    for low, high in pairwise(bins):
        canvas.strokes(lines[(width >= low) & (width < high)], high, int(min(255, 60 + 420 * high)), out)
    tree = canvas.blur(out.astype(np.float32) / 255, 0.04)
    for side in (RIGHT, LEFT):
        x, y = anatomy.hilum(side)
        tree += np.float32(1.1) * canvas.glow(x - 0.2 * side, y, 0.9, 1.7)
        tree += np.float32(0.35) * canvas.glow(x + 0.6 * side, y + 1.0, 2.6, 3.6)
    tree *= np.float32(0.24)
    tree += np.float32(0.014) * canvas.texture(0.5, rng)
    return tree
