"""The bodies: outlines of one patient's organs, in centimetres, different from patient to patient.

x grows to the right of the picture, which is the patient's left (`side` +1); y grows
downwards from the lung apices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cxr.phantom.canvas import ellipse, ribbon, spline

RIGHT, LEFT = -1, 1
"""Sides of the patient, as the sign of x."""

Bands = tuple[np.ndarray, np.ndarray]
"""Middle lines `(bands, points, 2)` in cm and the width at each point, `(points,)`."""


@dataclass(frozen=True)
class Anatomy:
    """Measures of one patient.

    Attributes:
        female: Draw breasts.
        width, height: Factors on the chest's width and height.
        dome: How much lower (cm) the diaphragm stands, right and left: inspiration.
        heart: Half of the heart's width as a share of half of the chest's: the cardiothoracic ratio.
        heart_turn: Degrees the heart's axis is turned towards lying.
        knob: Radius of the aortic knob in cm.
        unfolding: How far (cm) the aorta bulges beyond the mediastinum.
        curve: Sideways bend of the spine in cm.
        shift: Sideways shift (cm) of the mediastinum by a patient standing askew.
        fat: Thickness of the chest wall in cm.
        arms: How far the arms stand off.
        breast: Size of the breasts in cm.
        bubble: Half width of the stomach's air bubble in cm; 0 for none.
        detail_seed: Seed of ribs' and vessels' small variations.
    """

    female: bool
    width: float
    height: float
    dome: tuple[float, float]
    heart: float
    heart_turn: float
    knob: float
    unfolding: float
    curve: float
    shift: float
    fat: float
    arms: float
    breast: float
    bubble: float
    detail_seed: tuple[int, ...]

    # -- thorax ----------------------------------------------------------------------------------

    def place(self, points: ArrayLike, *, follow: float = 0.0) -> np.ndarray:
        """Points of the standard chest, moved to where they are in this patient.

        Args:
            points: `(N, 2)`, cm.
            follow: Share of the mediastinum's sideways shift that they go along with.
        """
        return np.asarray(points, dtype=float) * [self.width, self.height] + np.array(
            [follow * self.shift, 0.0]
        )

    def lung(self, side: int) -> np.ndarray:
        """Outline of one lung as it shows, the costophrenic angle included."""
        low = self.dome[0 if side == RIGHT else 1]
        points = [
            *((x, y) for x, y in _LUNG_LATERAL[:-1]),
            (13.0, 22.3 + 0.6 * low),
            (12.9, 23.6 + 0.75 * low),
            (12.4, 23.3 + 0.8 * low),
            (11.3, 21.9 + low),
            (9.3, 20.7 + low),
            (7.0, 20.2 + low),
            (4.6, 20.5 + low),
            (2.4, 21.4 + low),
            (0.2, 21.8 + low),
            *((x, y) for x, y in _LUNG_MEDIAL),
        ]
        outline = spline(points, closed=True)
        return self.place(outline * [side, 1])

    def wall(self, y: np.ndarray | float) -> np.ndarray | float:
        """Distance of the inner chest wall from the midline at a height (standard chest, cm)."""
        lateral = np.asarray(_LUNG_LATERAL)
        return np.interp(y, lateral[:, 1], lateral[:, 0]) + 0.15

    def body(self) -> np.ndarray:
        """Outline of neck, shoulders and trunk."""
        w = 13.4 + self.fat
        half = [
            (4.6, -12), (4.7, -5.5), (6.4, -3.4), (11.5, -1.9), (16.0, -1.0), (19.5, 1.6), (20.2, 5.5),
            (18.6 + 0.3 * self.fat, 8.5), (w + 1.4, 11.0), (w + 0.2, 15.0), (w - 0.1, 20), (w - 0.2, 26),
            (w, 34), (w, 48),
        ]  # fmt: skip
        right = [(-x, y) for x, y in half]
        return self.place(spline([*half, *right[::-1]], closed=True))

    def arm(self, side: int) -> np.ndarray:
        """Outline of one upper arm."""
        a = self.arms
        line = spline(
            [(18.5, 1.5), (19.8 + 0.4 * a, 6), (20.4 + a, 13), (21.2 + 1.6 * a, 22), (22 + 2.2 * a, 36)],
            closed=False,
        )
        return self.place(ribbon(line, np.linspace(6.0, 7.0, len(line))) * [side, 1])

    # -- middle ----------------------------------------------------------------------------------

    def mediastinum(self) -> np.ndarray:
        """Outline of the vessels and tissue between the lungs, from neck to diaphragm."""
        return self.place(spline(_MEDIASTINUM, closed=True), follow=0.6)

    def heart_outline(self) -> np.ndarray:
        """Outline of the heart with its great vessels' root."""
        points = np.array(_HEART)
        span = (points[:, 0].max() - points[:, 0].min()) / 2
        factor = self.heart * 13.0 / span
        middle = np.array([0.6, 21.6])
        # A big heart grows sideways and down more than upwards.
        points = (points - middle) * [factor, 0.62 + 0.38 * factor] + middle
        lean = np.radians(self.heart_turn)
        turned = points - middle
        turned = turned @ np.array([[np.cos(lean), -np.sin(lean)], [np.sin(lean), np.cos(lean)]]).T + middle
        turned[:, 1] += 0.9 * self.dome[1] - 0.1  # it lies on the diaphragm
        return self.place(spline(turned, closed=True), follow=1.0)

    def knob_centre(self) -> tuple[float, float]:
        """Centre of the aortic knob, cm."""
        out = 1.75 + 0.5 * self.unfolding + 0.35 * (self.knob - 1.5)
        x, y = self.place([(out, 5.9)], follow=0.6)[0]
        return float(x), float(y)

    def aortic_knob(self) -> np.ndarray:
        """Outline of the arch seen end on."""
        x, y = self.knob_centre()
        return ellipse(x, y, self.knob * 1.02, self.knob * 1.1)

    def descending_aorta(self) -> np.ndarray:
        """Band of the descending aorta along the spine."""
        bulge = self.unfolding
        line = spline(
            [(1.9 + bulge, 6), (2.1 + bulge, 9), (1.9 + bulge, 13), (1.5 + 0.6 * bulge, 17), (0.9, 23)],
            closed=False,
        )
        return ribbon(self.place(line, follow=0.6), 1.5 * self.knob)

    def ascending_aorta(self) -> np.ndarray:
        """Band of the ascending aorta on the right border."""
        bulge = 0.35 * self.unfolding
        line = spline([(-0.6, 12.5), (-1.45 - bulge, 10), (-1.4 - bulge, 7.8), (-0.4, 6)], closed=False)
        return ribbon(self.place(line, follow=0.7), 1.55 * self.knob)

    def trachea(self) -> list[np.ndarray]:
        """Outlines of the air column and the main bronchi."""
        s = self.shift
        carina = (0.1 + 0.5 * s, 7.6)
        tube = spline(
            [(0.0, -12), (0.0, -4), (-0.1 + 0.2 * s, 2), (-0.1 + 0.4 * s, 5.2), carina], closed=False
        )
        right = spline([carina, (-1.3 + 0.5 * s, 8.9), (-2.4 + 0.5 * s, 10.2)], closed=False)
        left = spline([carina, (1.4 + 0.5 * s, 8.7), (2.7 + 0.5 * s, 9.5)], closed=False)
        return [ribbon(self.place(tube), 1.6), ribbon(self.place(right), 0.95), ribbon(self.place(left), 0.8)]

    def hilum(self, side: int) -> np.ndarray:
        """Centre of one hilum; the left stands higher."""
        return self.place([(side * 3.1, 9.9 if side == RIGHT else 9.2)], follow=0.7)[0]

    # -- bones -----------------------------------------------------------------------------------

    def spine_x(self, y: np.ndarray | float) -> np.ndarray | float:
        """Where the spine's middle is at a height."""
        return self.curve * np.sin((np.asarray(y) + 4) / 9.0)

    def vertebrae(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Outlines of the vertebral bodies, and of pedicles and spinous processes."""
        bodies, posts = [], []
        y = -10.0
        for number in range(19):
            tall = 1.65 + 0.055 * number
            half = 1.25 + 0.04 * number
            x, mid = float(self.spine_x(y)), y + tall / 2
            waist = 0.88 * half
            base = y + tall
            box = [
                (x - half, y + 0.08), (x, y), (x + half, y + 0.08), (x + waist, mid),
                (x + half, base - 0.08), (x, base), (x - half, base - 0.08), (x - waist, mid),
            ]  # fmt: skip
            bodies.append(self.place(spline(box, closed=True, per_segment=4)))
            for side in (RIGHT, LEFT):
                posts.append(self.place(ellipse(x + side * 0.72 * half, mid - 0.15, 0.24, 0.36)))
            posts.append(self.place(ellipse(x + 0.1, y + tall + 0.1, 0.26, 0.62)))
            y += tall + 0.34
        return bodies, posts

    def ribs(self) -> tuple[Bands, Bands]:
        """Posterior and anterior ribs of both sides."""
        rng = np.random.default_rng([*self.detail_seed, 1])
        back, front = [], []
        steep = rng.normal(0, 0.25)
        t = np.linspace(0, 1, 22)
        for number in range(11):
            jitter = rng.normal(0, 0.08)
            for side in (RIGHT, LEFT):
                y0 = -1.1 + 1.98 * number + jitter + rng.normal(0, 0.05)
                drop = min(2.6 + 0.75 * number, 6.6) + steep
                end_y = y0 + drop
                end_x = self.wall(end_y) + 0.25
                x = 1.9 + (end_x - 1.9) * np.sin(t * np.pi / 2) ** 0.92
                y = y0 + drop * t**1.9 - 0.75 * np.sin(np.pi * t**0.8) * (1 if number else 0.3)
                x = x + self.spine_x(y0) * side * (1 - t)
                back.append((side * x, y))
                if number > 7:
                    continue
                inner_x = (3.1, 3.6, 4.3, 5.0, 5.8, 7.0, 8.4, 9.6)[number]
                fall = (2.3, 3.0, 3.5, 3.9, 4.2, 4.2, 3.8, 3.2)[number] + 0.5 * steep
                turn = t * np.pi / 2
                x = end_x - (end_x - inner_x) * (1 - np.cos(turn) ** 0.9)
                y = end_y + fall * np.sin(turn) ** 0.9
                front.append((side * x, y))
        lines = [self.place(np.swapaxes(np.array(part), 1, 2)) for part in (back, front)]
        return (lines[0], 0.95 + 0.3 * t), (lines[1], 1.05 + 0.35 * t)

    def clavicles(self) -> Bands:
        """Both collar bones."""
        rise = np.random.default_rng([*self.detail_seed, 2]).normal(0, 0.45)
        points = [
            (1.6, 2.7), (3.6, 2.3), (6.6, 1.25 + 0.4 * rise),
            (9.6, 0.1 + rise), (12.6, -0.5 + rise), (15.6, 0.0 + rise),
        ]  # fmt: skip
        line = spline(points, closed=False)
        width = np.interp(np.linspace(0, 1, len(line)), [0, 0.1, 0.5, 1], [1.9, 1.35, 1.1, 1.5])
        return self.place(np.stack([line * [RIGHT, 1], line]), follow=0.4), width

    def scapula(self, side: int) -> list[np.ndarray]:
        """Outlines of blade and its spine."""
        off = np.random.default_rng([*self.detail_seed, 3]).normal(0.6, 0.5)
        blade = spline(np.array(_BLADE) + np.array([off, 0.0]), closed=True)
        ridge = ribbon(spline([(12.2 + off, 4.6), (14.4 + off, 2.9), (16.6 + off, 1.0)], closed=False), 0.9)
        return [self.place(blade * [side, 1]), self.place(ridge * [side, 1])]

    def humerus(self, side: int) -> list[np.ndarray]:
        """Outlines of the humeral head and shaft."""
        a = self.arms
        shaft = ribbon(
            spline([(18.0, 3.5), (19.6 + 0.5 * a, 9), (20.6 + a, 16), (21.5 + 1.6 * a, 30)], closed=False),
            2.3,
        )
        return [self.place(ellipse(17.6, 2.6, 2.3, 2.4) * [side, 1]), self.place(shaft * [side, 1])]

    def breast_outline(self, side: int) -> np.ndarray:
        """Outline of one breast's shadow."""
        b = self.breast
        return self.place(ellipse(side * 8.4, 15.6 + 0.5 * b, 0.95 * b, 1.05 * b, side * -14))


_LUNG_LATERAL = (
    (5.0, -0.1), (7.4, 0.75), (9.6, 3.0), (11.1, 6.6), (12.1, 11.0), (12.7, 15.5), (13.0, 19.5), (13.0, 24.0),
)  # fmt: skip
"""Outer border of the standard lung from apex to base, cm."""

_LUNG_MEDIAL = ((-0.1, 19), (-0.1, 14), (-0.1, 9), (0.2, 6), (1.4, 3.2), (2.9, 0.7))
"""Inner border of the standard lung from base to apex, cm; heart and mediastinum cover most of it."""

_MEDIASTINUM = (
    (-2.6, -9), (-2.3, -3), (-2.5, 0.5), (-2.6, 3.5), (-2.5, 7), (-2.7, 10), (-2.2, 14), (-2.2, 20),
    (-2.6, 24), (2.6, 24), (2.0, 18), (2.2, 12), (2.6, 8.5), (2.2, 5), (2.4, 2), (2.5, -1), (2.4, -4),
    (2.6, -9),
)  # fmt: skip

_HEART = (
    (-2.5, 9.6), (-3.3, 11.6), (-4.1, 14.0), (-4.4, 16.6), (-3.8, 19.2), (-2.4, 21.0), (0.5, 22.0),
    (4.2, 22.5), (7.4, 22.2), (9.0, 20.6), (8.8, 18.4), (7.6, 15.6), (5.9, 12.8), (4.4, 10.6), (3.5, 9.0),
    (2.0, 8.3), (-0.8, 8.4),
)  # fmt: skip

_BLADE = (
    (12.0, 1.2), (11.9, 5), (12.4, 9.5), (13.4, 13.2), (14.3, 12.4), (15.0, 7.5), (16.0, 4.2), (14.4, 1.6),
)  # fmt: skip


def draw_anatomy(*, female: bool, seed: tuple[int, ...]) -> Anatomy:
    """Draw the measures of a healthy patient.

    Args:
        female: Women are smaller and have breasts.
        seed: Seed of the patient.
    """
    rng = np.random.default_rng([*seed, 11])
    base = 0.95 if female else 1.02
    breath = rng.normal(0, 0.9)
    return Anatomy(
        female=female,
        width=float(base * rng.normal(1, 0.045)),
        height=float(base * rng.normal(1, 0.05)),
        dome=(float(breath + rng.normal(0, 0.3)), float(breath + 1.0 + rng.normal(0, 0.4))),
        heart=float(np.clip(rng.normal(0.435, 0.025), 0.38, 0.485)),
        heart_turn=float(rng.normal(0, 4)),
        knob=float(np.clip(rng.normal(1.42, 0.12), 1.15, 1.65)),
        unfolding=float(np.clip(rng.normal(0.1, 0.15), -0.15, 0.4)),
        curve=float(rng.normal(0, 0.22)),
        shift=float(rng.normal(0, 0.25)),
        fat=float(np.clip(rng.gamma(4, 0.5) + 0.4, 1.0, 5)),
        arms=float(rng.uniform(0.2, 2.5)),
        breast=float(rng.uniform(4.6, 6.4)) if female else 0.0,
        bubble=float(rng.uniform(1.0, 2.8)) if rng.random() < 0.65 else 0.0,
        detail_seed=(*seed, 12),
    )
