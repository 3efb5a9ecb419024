"""Drawing in centimetres of the patient: outlines in, soft-edged maps in pixels out."""

from __future__ import annotations

from functools import cached_property

import cv2
import numpy as np
from numpy.typing import ArrayLike

_SHIFT = 4  # cv2 takes sub-pixel coordinates as fixed-point numbers with this many fraction bits
_COARSE_PX = 5.0

_TURN = np.linspace(0, 2 * np.pi, 40, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)


def spline(points: ArrayLike, *, closed: bool, per_segment: int = 8) -> np.ndarray:
    """Smooth curve through points (Catmull-Rom).

    Args:
        points: `(N, 2)` with N at least 3.
        closed: Join the last point to the first.
        per_segment: Points drawn between two given ones.

    Returns:
        `float64 (M, 2)`.
    """
    p = np.asarray(points, dtype=float)
    padded = np.vstack([p[-1:], p, p[:2]]) if closed else np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    t = np.linspace(0, 1, per_segment, endpoint=False)[None, :, None]
    a, b, c, d = (padded[k : len(padded) - 3 + k, None, :] for k in range(4))
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    curve = curve.reshape(-1, 2)
    return curve if closed else np.vstack([curve, p[-1:]])


def ribbon(centre: np.ndarray, width: np.ndarray | float) -> np.ndarray:
    """Outlines of bands of a given width along curves.

    Args:
        centre: `(..., N, 2)` points of the middle lines.
        width: Full width, `(..., N)` or what broadcasts to it.

    Returns:
        `float64 (..., 2 N, 2)`.
    """
    along = np.empty_like(centre)
    along[..., 1:-1, :] = centre[..., 2:, :] - centre[..., :-2, :]
    along[..., 0, :] = centre[..., 1, :] - centre[..., 0, :]
    along[..., -1, :] = centre[..., -1, :] - centre[..., -2, :]
    length = np.maximum(1e-9, np.hypot(along[..., 0], along[..., 1]))
    half = np.asarray(width, dtype=float) / 2 / length
    across = along[..., ::-1] * [-1, 1] * half[..., None]
    return np.concatenate([centre + across, (centre - across)[..., ::-1, :]], axis=-2)


def ellipse(x: float, y: float, half_width: float, half_height: float, angle: float = 0.0) -> np.ndarray:
    """Outline of an ellipse; `angle` in degrees, clockwise on the screen."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return _CIRCLE @ np.array([[half_width * c, half_width * s], [-half_height * s, half_height * c]]) + [
        x,
        y,
    ]


class Canvas:
    """The film plane: a similarity between the patient's centimetres and pixels.

    The origin is the patient's midline at the height of the lung apices, x grows to the
    right of the picture (the patient's left), y downwards.

    Args:
        shape: `(rows, columns)`.
        scale: Pixels per centimetre.
        origin: Pixel `(x, y)` of the patient's origin.
        tilt: Rotation of the patient in degrees, clockwise on the screen.
    """

    def __init__(
        self, shape: tuple[int, int], scale: float, origin: tuple[float, float], tilt: float
    ) -> None:
        self.shape = shape
        self.scale = scale
        self.origin = np.asarray(origin, dtype=float)
        c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
        self._turn = np.array([[c, -s], [s, c]])

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """Centimetres `(..., 2)` to pixels `(..., 2)`."""
        return np.asarray(points, dtype=float) @ self._turn.T * self.scale + self.origin

    @cached_property
    def centimetres(self) -> tuple[np.ndarray, np.ndarray]:
        """Maps `float32 (H, W)` of every pixel's x and y in centimetres."""
        rows, columns = self.shape
        u = (np.arange(columns, dtype=np.float32) + 0.5 - self.origin[0]) / self.scale
        v = (np.arange(rows, dtype=np.float32)[:, None] + 0.5 - self.origin[1]) / self.scale
        (a, b), (c, d) = self._turn.astype(np.float32)
        return a * u + c * v, b * u + d * v

    @property
    def heights(self) -> np.ndarray:
        """Height `y` of every row at the midline, cm, `float32 (H, 1)`."""
        return (
            (np.arange(self.shape[0], dtype=np.float32)[:, None] + 0.5) - np.float32(self.origin[1])
        ) / np.float32(self.scale)

    def fill(self, outlines: list[np.ndarray]) -> np.ndarray:
        """Union of filled outlines, `float32 (H, W)` in `[0, 1]` with smoothed edges."""
        mask, _ = self._filled(outlines)
        return mask * np.float32(1 / 255)

    def strokes(self, lines: np.ndarray, width: float, value: int, into: np.ndarray) -> None:
        """Draw open lines `(lines, points, 2)` of one width (cm) into a `uint8` map; thin ones fainter."""
        pixels = width * self.scale
        value = round(value * min(1.0, pixels))
        cv2.polylines(
            into, list(self._fixed(lines)), False, value, max(1, round(pixels)), cv2.LINE_AA, _SHIFT
        )

    def blur(self, image: np.ndarray, centimetres: float) -> np.ndarray:
        """Gaussian blur; wide ones are done on a smaller map, which nobody sees."""
        sigma = centimetres * self.scale
        if sigma < 0.3:
            return image
        factor = int(sigma // _COARSE_PX) + 1 if sigma > _COARSE_PX else 1
        if factor == 1:
            return cv2.GaussianBlur(image, (0, 0), sigma)
        rows, columns = image.shape
        small = (max(2, columns // factor), max(2, rows // factor))
        coarse = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        coarse = cv2.GaussianBlur(coarse, (0, 0), sigma / factor, borderType=cv2.BORDER_REPLICATE)
        return cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)

    def depth(self, mask: np.ndarray) -> np.ndarray:
        """Distance to the outside of a mask, in centimetres, `float32 (H, W)`."""
        inside = (mask > 0.5).astype(np.uint8)
        return cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_5) / np.float32(self.scale)

    def solid(self, outlines: list[np.ndarray], reach: float) -> np.ndarray:
        """Thickness map of round bodies: `round_profile` within their union, 0 outside, `float32 (H, W)`."""
        mask, every = self._filled(outlines)
        out = np.zeros(self.shape, np.float32)
        every = every >> _SHIFT
        left, top = np.maximum(every.min(axis=0) - 2, 0)
        right, bottom = np.maximum(every.max(axis=0) + 3, 0)
        part = mask[top:bottom, left:right]
        if part.size:
            inside = np.ascontiguousarray(part > 127).view(np.uint8)
            depth = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_5) * np.float32(1 / self.scale)
            out[top:bottom, left:right] = round_profile(depth, reach) * (part * np.float32(1 / 255))
        return out

    def glow(self, x: float, y: float, rx: float, ry: float) -> np.ndarray:
        """Gaussian blob of height 1 with deviations `rx`, `ry` cm, upright on the film, `float32 (H, W)`."""
        u, v = self.to_pixels(np.array([x, y]))
        rows, columns = self.shape
        across = np.exp(-0.5 * ((np.arange(columns) + 0.5 - u) / (rx * self.scale)) ** 2).astype(np.float32)
        down = np.exp(-0.5 * ((np.arange(rows) + 0.5 - v) / (ry * self.scale)) ** 2).astype(np.float32)
        return down[:, None] * across

    def texture(self, grain: float, rng: np.random.Generator) -> np.ndarray:
        """Smooth random field of mean 0 and deviation about 1, its blobs about `grain` cm wide."""
        rows, columns = self.shape
        step = max(1.0, grain * self.scale / 2)
        small = rng.standard_normal((int(rows / step) + 3, int(columns / step) + 3), dtype=np.float32)
        return cv2.resize(small, (columns, rows), interpolation=cv2.INTER_CUBIC) * np.float32(1.2)

    def _filled(self, outlines: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Union of outlines as `uint8 (H, W)`, and all their points in cv2's fixed-point pixels."""
        mask = np.zeros(self.shape, np.uint8)
        every = self._fixed(np.concatenate(outlines))
        # One by one: drawn together, two overlapping outlines would cut each other out.
        for outline in np.split(every, np.cumsum([len(o) for o in outlines])[:-1]):
            cv2.fillPoly(mask, [outline], 255, cv2.LINE_AA, _SHIFT)
        return mask, every

    def _fixed(self, points: np.ndarray) -> np.ndarray:
        # cv2 puts the centre of a pixel at whole numbers.
        return np.round((self.to_pixels(points) - 0.5) * (1 << _SHIFT)).astype(np.int32)


def round_profile(depth: np.ndarray, reach: float) -> np.ndarray:
    """Thickness across a round body, 0 at its edge and 1 from `reach` inwards."""
    t = np.minimum(depth, np.float32(reach))
    t *= np.float32(1 / reach)
    t *= 2 - t  # 1 - (1 - t) ** 2
    return np.sqrt(t, out=t)
