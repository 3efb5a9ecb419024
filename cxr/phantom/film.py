"""From attenuation to a picture: scatter, quantum noise, the machine's processing, marker and borders."""

from __future__ import annotations

import cv2
import numpy as np

from cxr.phantom.canvas import Canvas
from cxr.phantom.hardships import PLAIN, Hardship


def expose(
    attenuation: np.ndarray,
    canvas: Canvas,
    shape: tuple[int, int],
    rng: np.random.Generator,
    hardship: Hardship = PLAIN,
) -> np.ndarray:
    """Expose and process one radiograph.

    Args:
        attenuation: Natural logarithm of the beam's weakening, `float32`, on the canvas.
        canvas: Where `attenuation` was drawn.
        shape: `(rows, columns)` of the picture wanted.
        rng: Source of randomness.
        hardship: Its dose, fog, brightness and contrast count.

    Returns:
        `float32` of `shape` in `[0, 1]`, white is dense.
    """
    # The same exposure on smaller pixels: fewer quanta for each.
    dose = float(np.exp(rng.normal(np.log(11000), 0.35))) * (1100 / max(shape)) ** 2 * hardship.dose
    scatter = float(rng.uniform(0.05, 0.12)) + hardship.fog
    beam = np.exp(-attenuation)
    beam += np.float32(scatter) * np.minimum(canvas.blur(beam, 3.0), 0.5)
    beam = _resize(beam, shape)
    noise = rng.standard_normal(shape, dtype=np.float32)
    # The detector's glare correlates neighbours a little, as real noise is.
    noise = cv2.GaussianBlur(noise, (0, 0), 0.6) * np.float32(1.8)
    beam = np.maximum(beam, 1e-4)
    film = -np.log(beam)
    film += noise / np.sqrt(beam * np.float32(dose))

    low = cv2.resize(film, (max(2, shape[1] // 8), max(2, shape[0] // 8)), interpolation=cv2.INTER_AREA)
    sigma = max(shape) / 8 / 14
    low = cv2.resize(cv2.GaussianBlur(low, (0, 0), sigma), shape[::-1], interpolation=cv2.INTER_LINEAR)
    boost = float(rng.uniform(1.05, 1.5))
    film = low * np.float32(0.8) + (film - low) * np.float32(boost)

    # Automatic exposure looks at the middle of the film, where the chest is.
    rows, columns = shape
    middle = film[
        rows // 5 : rows * 7 // 10 : max(1, rows // 128),
        columns // 8 : -columns // 8 : max(1, columns // 128),
    ]
    lung, dense = np.percentile(middle, [15, 92])
    centre = (lung + dense) / 2 + rng.normal(0, 0.08) + hardship.brightness
    slope = hardship.contrast * float(rng.uniform(2.2, 3.4)) / max(0.6, dense - lung)
    curve = 1 / (1 + np.exp((np.float32(centre) - film) * np.float32(slope)))
    return np.clip((curve - np.float32(0.06)) / np.float32(0.9), 0, 1)


def finish(picture: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Put the side marker on and close the collimator, in place.

    Args:
        picture: `float32 (H, W)` in `[0, 1]`.
        scale: Pixels per centimetre.
        rng: Source of randomness.
    """
    rows, columns = picture.shape
    kind = rng.random()
    if kind < 0.16:
        edges = rng.uniform(0, 0.05, 4) * [rows, rows, columns, columns]
        top, bottom, left, right = (int(e) for e in edges)
        value = 0.0 if kind < 0.11 else 0.97
        picture[:top] = picture[rows - bottom :] = value
        picture[:, :left] = picture[:, columns - right :] = value
    if rng.random() < 0.85:
        left_side = rng.random() < 0.6
        letter = "L" if left_side else "R"
        height = 1.3 * scale
        font = height / 22
        x = columns * (0.93 if left_side else 0.03) - (0.5 * scale if left_side else 0)
        y = rows * rng.uniform(0.05, 0.12) + height
        ink = np.zeros(picture.shape, np.uint8)
        cv2.putText(
            ink,
            letter,
            (int(x), int(y)),
            cv2.FONT_HERSHEY_DUPLEX,
            font,
            255,
            max(1, round(font * 2.2)),
            cv2.LINE_AA,
        )
        np.maximum(picture, ink.astype(np.float32) / 255, out=picture)
    return picture


def _resize(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if image.shape == shape:
        return image
    method = cv2.INTER_AREA if shape[0] < image.shape[0] else cv2.INTER_CUBIC
    return cv2.resize(image, shape[::-1], interpolation=method)
