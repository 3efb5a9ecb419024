"""From a model's margin to a probability that means what it says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special
from sklearn.isotonic import IsotonicRegression

from cxr.errors import ParameterError

CALIBRATIONS = ("sigmoid", "isotonic", "none")
LEAST_ISOTONIC = 1000
"""Images from which an isotonic calibration is more than the noise of its steps."""
LEAST_PROBABILITY = 1e-4
"""No calibrated probability is closer to 0 or 1: a step that ends at 0 would silence whole images."""


@dataclass(frozen=True)
class Calibrator:
    """A monotone map from margin (log-odds) to probability.

    Attributes:
        method: "sigmoid", "isotonic", "none" (the plain logistic function) or "constant".
        x: Sigmoid: the slope. Isotonic: margins of the break points, rising. Else empty.
        y: Sigmoid: the intercept. Isotonic: probabilities there. Constant: the probability.
    """

    method: str
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()

    def __call__(self, margin: NDArray[np.floating]) -> NDArray[np.float64]:
        """Probabilities in (0, 1), `float64` of the margins' shape."""
        values = np.asarray(margin, dtype=np.float64)
        if self.method == "constant":
            return np.full(values.shape, self.y[0])
        if self.method == "isotonic":
            probability = np.interp(values, self.x, self.y)
        elif self.method == "sigmoid":
            probability = special.expit(self.x[0] * values + self.y[0])
        else:
            probability = special.expit(values)
        return np.clip(probability, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)


def fit_calibrator(margin: NDArray[np.floating], labels: NDArray[np.integer], *, method: str) -> Calibrator:
    """Fit a calibration on margins that the model gave to images it was not trained on.

    The map never falls: margins that rank images the wrong way round carry no information, and
    become the prevalence.

    Args:
        margin: `(N,)`, log-odds.
        labels: `(N,)`, 0 or 1.
        method: "sigmoid" (Platt: keeps the order of images), "isotonic" (needs at least
            `LEAST_ISOTONIC` images, makes ties) or "none".

    Raises:
        ParameterError: Another method, or "isotonic" with too few images.

    References:
        Platt, Advances in Large Margin Classifiers, 1999 (the softened targets); Zadrozny and Elkan,
        KDD 2002 (isotonic); Niculescu-Mizil and Caruana, ICML 2005 (isotonic overfits below about
        1,000 images).
    """
    if method not in CALIBRATIONS:
        raise ParameterError(f"calibration: expected one of {', '.join(CALIBRATIONS)}, got {method!r}")
    margin, labels = np.asarray(margin, dtype=np.float64), np.asarray(labels)
    if method == "none":
        return Calibrator("none")
    if method == "isotonic":
        if len(margin) < LEAST_ISOTONIC:
            raise ParameterError(
                f"calibration: isotonic needs at least {LEAST_ISOTONIC:,} training images, "
                f"got {len(margin):,}; sigmoid does with fewer"
            )
        fitted = IsotonicRegression(y_min=0.0, y_max=1.0).fit(margin, labels)
        return Calibrator(
            "isotonic", tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist())
        )
    positives = int(labels.sum())
    negatives = len(labels) - positives
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logit = parameters[0] * margin + parameters[1]
        residual = special.expit(logit) - target
        value = np.logaddexp(0, logit).sum() - target @ logit
        return value, np.array([residual @ margin, residual.sum()])

    start = np.array([1.0, np.log((positives + 1) / (negatives + 1))])
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)])
    return Calibrator("sigmoid", (float(found.x[0]),), (float(found.x[1]),))
