"""A fitted classifier as data: trees in UBJ, everything else in the model's own attributes."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xgboost as xgb
from numpy.typing import NDArray

from cxr import files, schema
from cxr.classifier.calibration import Calibrator
from cxr.errors import CheckpointError, DataError

_log = logging.getLogger("cxr")
_ATTRIBUTE = "cxr"
_FORMAT = 1


@dataclass(frozen=True)
class Classifier:
    """Trees, their calibration, and what they must be fed.

    Attributes:
        booster: The XGBoost trees.
        feature_names: The features it needs, in the order it was fitted with.
        outputs: Names of the probabilities it gives: `("p_abnormal",)`, or `p_<class_id>` a finding.
        calibrators: One an output.
        groups: Feature groups it was fitted on ("pixel", "header", "detector").
        images: Number of training images.
        positives: Training images of each output's class.
        rounds: Number of boosting rounds.
        parameters: What was chosen or searched: learning rate, depth and so on.
        message: Empty, or why an output is constant, in plain words.
    """

    booster: xgb.Booster
    feature_names: tuple[str, ...]
    outputs: tuple[str, ...]
    calibrators: tuple[Calibrator, ...]
    groups: tuple[str, ...]
    images: int
    positives: tuple[int, ...]
    rounds: int
    parameters: dict[str, float]
    message: str = ""

    def margin(self, features: pd.DataFrame) -> NDArray[np.float64]:
        """Uncalibrated log-odds, shape `(N, outputs)`.

        Raises:
            DataError: The table lacks a feature.
        """
        values = self.booster.predict(self._matrix(features), output_margin=True)
        return values.reshape(len(features), len(self.outputs)).astype(np.float64)

    def predict(self, features: pd.DataFrame) -> pd.DataFrame:
        """Calibrated probabilities.

        Args:
            features: `image_id` and at least `feature_names`, in any order; NaN is missing.

        Returns:
            One row an image in the table's order: `image_id` and `outputs`, each in [0, 1].

        Raises:
            DataError: The table lacks a feature.
        """
        margin = self.margin(features)
        table = pd.DataFrame(
            {
                name: calibrate(margin[:, column])
                for column, (name, calibrate) in enumerate(zip(self.outputs, self.calibrators, strict=True))
            }
        )
        table.insert(0, schema.IMAGE_ID, features[schema.IMAGE_ID].to_numpy())
        return table

    def contributions(self, features: pd.DataFrame, *, output: int = 0) -> NDArray[np.float64]:
        """How much each feature moves an image's log-odds (SHAP values of the trees).

        Returns:
            `float64` of shape `(N, len(feature_names) + 1)`; the last column is the base value, a
            row's sum is the margin.

        References:
            Lundberg et al., Nature Machine Intelligence 2, 2020 (TreeSHAP).
        """
        values = self.booster.predict(self._matrix(features), pred_contribs=True).astype(np.float64)
        return values.reshape(len(features), len(self.outputs), -1)[:, output]

    def _matrix(self, features: pd.DataFrame) -> xgb.DMatrix:
        lacking = [name for name in self.feature_names if name not in features.columns]
        if lacking:
            raise DataError(
                f"classifier: expected {len(self.feature_names)} features, got a table without "
                f"{', '.join(lacking[:5])}{' and more' if len(lacking) > 5 else ''}"
            )
        values = features[list(self.feature_names)].to_numpy(np.float32, na_value=np.nan)
        threads = int(self.parameters.get("threads", 1))
        return xgb.DMatrix(values, feature_names=list(self.feature_names), nthread=threads)


def save(model: Classifier, path: Path) -> str:
    """Write a classifier as UBJ, complete or not at all, and its hash beside it (`<name>.sha256`).

    Args:
        model: The classifier.
        path: A file whose name ends in `.ubj`.

    Returns:
        The SHA-256 of the file, for a manifest: XGBoost loads a file with a flipped bit silently.
    """
    path = Path(path)
    about = {
        "format": _FORMAT,
        "feature_names": model.feature_names,
        "outputs": model.outputs,
        "calibrators": [asdict(calibrator) for calibrator in model.calibrators],
        "groups": model.groups,
        "images": model.images,
        "positives": model.positives,
        "rounds": model.rounds,
        "parameters": model.parameters,
        "message": model.message,
    }
    booster = model.booster.copy()
    booster.set_attr(**{_ATTRIBUTE: json.dumps(about)})
    content = bytes(booster.save_raw("ubj"))
    files.write_bytes(path, content, hashed=True)
    return hashlib.sha256(content).hexdigest()


def load(path: Path, *, sha256: str | None = None, feature_names: Sequence[str] | None = None) -> Classifier:
    """Read a classifier back, and refuse a damaged or foreign file.

    Args:
        path: A file that `save` wrote.
        sha256: Expected hash; without it that of `<name>.sha256`, if such a file lies beside it.
        feature_names: Features that the caller will feed, in order; compared if given.

    Raises:
        CheckpointError: No such file, another hash, not a classifier of this project, or features
            that differ in name or order.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such classifier file")
    if not (sha256 or files.sidecar(path).is_file()):
        _log.warning("%s: no hash given and none beside it; a damaged file may load without a word", path)
    files.check_sha256(path, sha256 or "", error=CheckpointError)
    content = path.read_bytes()
    if not content.startswith(b"{"):  # of nothing XGBoost ends the process
        raise CheckpointError(
            f"{path}: expected an XGBoost model in UBJ, got {'another file' if content else 'an empty file'}"
        )
    try:
        booster = xgb.Booster()
        booster.load_model(bytearray(content))
        about = json.loads(booster.attr(_ATTRIBUTE) or "{}")
    except (xgb.core.XGBoostError, ValueError, TypeError) as error:
        said = re.sub(r"^\[\S+\] \S+: ", "", str(error).splitlines()[0])  # time and line of its source
        raise CheckpointError(f"{path}: expected an XGBoost model in UBJ, got {said}") from None
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: expected a classifier of this project, got a plain XGBoost model")
    try:
        model = _described(booster, about)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: expected the description that `save` writes, got a broken one ({error!r})"
        ) from None
    _check_names(path, model.feature_names, booster.feature_names or (), "in the trees")
    if feature_names is not None:
        _check_names(path, model.feature_names, feature_names, "in the features given")
    return model


def _described(booster: xgb.Booster, about: Mapping[str, Any]) -> Classifier:
    return Classifier(
        booster=booster,
        feature_names=_names(about["feature_names"]),
        outputs=_names(about["outputs"]),
        calibrators=tuple(
            Calibrator(entry["method"], tuple(map(float, entry["x"])), tuple(map(float, entry["y"])))
            for entry in about["calibrators"]
        ),
        groups=_names(about["groups"]),
        images=int(about["images"]),
        positives=tuple(map(int, about["positives"])),
        rounds=int(about["rounds"]),
        parameters=dict(about["parameters"]),
        message=str(about["message"]),
    )


def _names(listed: Any) -> tuple[str, ...]:
    if not isinstance(listed, list):
        raise TypeError(f"expected a list of names, got {type(listed).__name__}")
    return tuple(map(str, listed))


def _check_names(path: Path, expected: Sequence[str], got: Sequence[str], where: str) -> None:
    if list(expected) == list(got):
        return
    if len(expected) != len(got):
        raise CheckpointError(f"{path}: expected {len(expected)} features, got {len(got)} {where}")
    place, wanted, found = next(
        (place, a, b) for place, (a, b) in enumerate(zip(expected, got, strict=True)) if a != b
    )
    raise CheckpointError(f"{path}: expected feature {place} to be {wanted!r}, got {found!r} {where}")
