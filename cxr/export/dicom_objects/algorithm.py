"""Who found the boxes, as DICOM objects name it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import metadata

import pandas as pd
from pydicom.dataset import Dataset

from cxr import schema

NAME = "cxr"
MODEL = "Chest X-ray abnormality detector"


@dataclass(frozen=True)
class Algorithm:
    """The detectors and how they looked.

    Attributes:
        detectors: SHA-256 of each detector's file.
        parameters: How they looked, such as `score_threshold=0.05`.
    """

    detectors: tuple[str, ...]
    parameters: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """Version of this package."""
        return metadata.version("cxr")

    @property
    def described(self) -> tuple[str, ...]:
        """Detectors and parameters as text, for people."""
        return (*(f"detector_sha256={digest}" for digest in self.detectors), *self.parameters)

    @property
    def key(self) -> tuple[str, ...]:
        """What tells this algorithm from another."""
        return (self.version, *self.described)

    def key_of(self, source: Dataset, boxes: pd.DataFrame) -> tuple[str, ...]:
        """What tells this algorithm's answer on an image from another answer."""
        columns = [schema.CLASS_ID, schema.SCORE, *schema.BOX_COLUMNS]
        text = boxes[columns].round(4).to_csv(index=False)
        return (str(source.SOPInstanceUID), *self.key, hashlib.sha256(text.encode()).hexdigest())
