"""Which image gets which findings: class shares, company they keep, doubtful extras."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxr.schema import VINBIGDATA

CLASS_SHARES = (0.36, 0.13, 0.15, 0.31, 0.13, 0.12, 0.14, 0.17, 0.16, 0.16, 0.17, 0.20, 0.12, 0.16)
"""Share of the abnormal images that show each finding, by class id.

The order of the common ones is life's; the rare ones are far commoner than there, or a
set of a few hundred images could not teach them.
"""

BLOCK = 20
"""Abnormal images come in blocks of this many; each block holds every class in its share."""

DOUBTFUL_MEAN = 3.3
"""Mean number of faint findings an abnormal image has besides: one reader marks it, the next does not."""

NEVER_SUBTLE = (2, 9)
"""Chalk and metal: calcification and most other lesions strike the eye or are not there."""

STREAM_TRAIN, STREAM_TEST = 0, 1


@dataclass(frozen=True)
class Patient:
    """One image to make.

    Attributes:
        seed: Seed of everything about it.
        findings: Class id, strength of drawing and visibility to readers; empty when normal.
    """

    seed: tuple[int, int, int]
    findings: tuple[tuple[int, float, float], ...]

    @property
    def abnormal(self) -> bool:
        """Whether anything is there to be found."""
        return bool(self.findings)


def plan_patient(index: int, *, split: int, seed: int, abnormal_fraction: float) -> Patient:
    """Decide what one patient has; it depends on the index, not on how many patients there are.

    Args:
        index: Number of the image in its split, from 0.
        split: `STREAM_TRAIN` or `STREAM_TEST`.
        seed: Seed of the data set.
        abnormal_fraction: Share of abnormal images, kept exactly over any run of images.
    """
    own = (seed, split, index)
    phase = np.random.default_rng([seed, split, 901]).random()
    before = int(np.floor(index * abnormal_fraction + phase))
    if int(np.floor((index + 1) * abnormal_fraction + phase)) == before:
        return Patient(own, ())
    classes = _block(before // BLOCK, split, seed)[before % BLOCK]
    rng = np.random.default_rng([*own, 902])
    findings = [(c, *_clarity(c, rng)) for c in classes]
    for _ in range(rng.poisson(DOUBTFUL_MEAN)):
        others = [c for c in VINBIGDATA.finding_ids if c not in {f[0] for f in findings}]
        if len(others) < 6:
            break
        shares = np.array([CLASS_SHARES[c] for c in others])
        doubtful = int(rng.choice(others, p=shares / shares.sum()))
        findings.append((doubtful, float(rng.uniform(0.12, 0.32)), float(rng.beta(4, 16))))
    return Patient(own, tuple(findings))


def _clarity(class_id: int, rng: np.random.Generator) -> tuple[float, float]:
    """Strength of drawing and visibility of a definite finding; a quarter of them are subtle."""
    if rng.random() < 0.25 and class_id not in NEVER_SUBTLE:
        return float(rng.uniform(0.55, 0.75)), float(rng.beta(5, 3))
    return float(rng.uniform(0.75, 1.0)), float(rng.beta(20, 1.5))


def _block(number: int, split: int, seed: int) -> list[list[int]]:
    """Classes of the images of one block, every class in its share, the heart and the aorta together."""
    rng = np.random.default_rng([seed, split, 903, number])
    company = rng.random(BLOCK)
    present = np.zeros((BLOCK, len(CLASS_SHARES)), dtype=bool)
    for class_id, share in enumerate(CLASS_SHARES):
        exact = BLOCK * share
        count = int(exact) + int(rng.random() < exact - int(exact))
        # Age brings a wide aorta and a big heart to the same patients.
        order = np.argsort(rng.random(BLOCK) + (0.6 * company if class_id in (0, 3) else 0.0))
        present[order[:count], class_id] = True
    for row in np.flatnonzero(~present.any(axis=1)):
        shares = np.array(CLASS_SHARES)
        present[row, rng.choice(len(shares), p=shares / shares.sum())] = True
    return [[int(c) for c in np.flatnonzero(row)] for row in present]
