"""Predictions on a user's own files: a table, a JSON document, and a picture of each image."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd

from cxr import dicom, plots, schema
from cxr.errors import printable
from cxr.files import replacing
from cxr.rundir import write_json
from cxr.schema import ClassTable

PREDICTIONS_CSV = "predictions.csv"
PREDICTIONS_JSON = "predictions.json"
FAILURES_CSV = "failures.csv"
PICTURE_SIZE = 1024
"""Longer side of the pictures, in pixels."""

SECONDS_BETWEEN_WRITES = 20.0
"""A process that is killed loses at most what was found in so long."""

_DECIMALS = {**dict.fromkeys(schema.BOX_COLUMNS, 2), schema.SCORE: 5}
_SHARE_OF_TIME = 0.05  # most of the time that may go into writing what is not complete yet


class PredictionWriter:
    """Writes what a detector finds as it comes.

    The files are whole at any time, and hold what was found up to 20 seconds ago. `"complete"` in the
    JSON document says whether that is all. Leaving the block, however it ends, writes what has come.

    Attributes:
        files: Path of each image read so far, by image id; one without a box counts.
    """

    def __init__(self, out: Path, *, classes: ClassTable, pictures: bool = False) -> None:
        """Prepare a folder.

        Args:
            out: Folder for `predictions.csv`, `predictions.json`, `failures.csv` (where there are any)
                and `pictures/`.
            classes: The detector's classes.
            pictures: Also draw each image with its boxes.
        """
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.classes, self.pictures = out, classes, pictures
        self._tables: list[pd.DataFrame] = []
        self._failures: list[pd.DataFrame] = []
        self._images: list[dict[str, Any]] = []
        self.files: dict[str, Path] = {}
        self._complete = False
        self._due = time.monotonic() + SECONDS_BETWEEN_WRITES

    @property
    def detections(self) -> pd.DataFrame:
        """All boxes found so far, `schema.DETECTION_COLUMNS`."""
        return pd.concat(self._tables, ignore_index=True)[schema.DETECTION_COLUMNS]

    @property
    def boxes(self) -> int:
        """Number of boxes found so far."""
        return sum(map(len, self._tables))

    @property
    def failed(self) -> int:
        """Number of files that could not be read so far."""
        return sum(map(len, self._failures))

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._complete = kind is None
        self._write()

    def add(self, detections: pd.DataFrame, failures: pd.DataFrame, files: Mapping[str, Path]) -> None:
        """Take what was found on some files.

        Args:
            detections: `schema.DETECTION_COLUMNS`, boxes in pixels of the original files.
            failures: `file, reason, message` of the files that could not be read.
            files: Path of every image that was read, by image id.
        """
        table = detections.sort_values([schema.IMAGE_ID, schema.SCORE], ascending=[True, False])
        table.insert(1, "file", table[schema.IMAGE_ID].map(lambda image_id: printable(files[image_id])))
        table.insert(3, schema.CLASS_NAME, table[schema.CLASS_ID].map(self.classes.name))
        self._tables.append(table)
        self._failures.append(failures)
        self.files |= files
        by_image = dict(tuple(table.groupby(schema.IMAGE_ID)))
        for image_id, path in files.items():
            rows = by_image.get(image_id, table.iloc[:0])
            self._images.append(_image(image_id, path, rows))
            if self.pictures:
                _draw(path, rows, self.out / "pictures" / f"{image_id}.png", self.classes)
        if time.monotonic() >= self._due:
            self._write()

    def _write(self) -> None:
        start = time.monotonic()
        if self._tables:
            table = pd.concat(self._tables, ignore_index=True)
            table = table.sort_values([schema.IMAGE_ID, schema.SCORE], ascending=[True, False], kind="stable")
            failures = pd.concat(self._failures, ignore_index=True)
            with replacing(self.out / PREDICTIONS_CSV) as temporary:
                table.round(_DECIMALS).to_csv(temporary, index=False)
            document = {
                "complete": self._complete,
                "classes": list(self.classes.names),
                "images": sorted(self._images, key=lambda image: image["image_id"]),
                "failures": failures.to_dict("records"),
            }
            write_json(self.out / PREDICTIONS_JSON, document)
            if len(failures):
                with replacing(self.out / FAILURES_CSV) as temporary:
                    failures.to_csv(temporary, index=False)
            else:
                (self.out / FAILURES_CSV).unlink(missing_ok=True)
        now = time.monotonic()
        self._due = now + max(SECONDS_BETWEEN_WRITES, (now - start) / _SHARE_OF_TIME)


def write_predictions(
    detections: pd.DataFrame,
    failures: pd.DataFrame,
    files: Mapping[str, Path],
    out: Path,
    *,
    classes: ClassTable,
    pictures: bool = False,
) -> int:
    """Write what a detector found on a set of files, see `PredictionWriter`.

    Args:
        detections: `schema.DETECTION_COLUMNS`, boxes in pixels of the original files.
        failures: `file, reason, message` of the files that could not be read.
        files: Path of every file asked for, by image id.
        out: Folder to write to.
        classes: The detector's classes.
        pictures: Also draw each image with its boxes.

    Returns:
        Number of images that were read; one without a box is in the JSON document all the same.
    """
    failed = set(failures["file"])
    read = {image_id: path for image_id, path in files.items() if printable(path) not in failed}
    with PredictionWriter(out, classes=classes, pictures=pictures) as writer:
        writer.add(detections, failures, read)
    return len(writer.files)


def _image(image_id: str, path: Path, rows: pd.DataFrame) -> dict[str, Any]:
    columns = [schema.CLASS_ID, schema.CLASS_NAME, schema.SCORE, *schema.BOX_COLUMNS]
    boxes = json.loads(rows[columns].to_json(orient="records", double_precision=5))
    return {"image_id": image_id, "file": _path_text(path), "boxes": boxes}


def _path_text(path: Path) -> str:
    """A path as JSON can hold it; only bytes that are no UTF-8 are written out."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return printable(path)
    return str(path)


def _draw(path: Path, rows: pd.DataFrame, picture: Path, classes: ClassTable) -> None:
    radiograph = dicom.load_radiograph(path, longest_side=PICTURE_SIZE)
    marks = plots.class_marks(rows, radiograph.original_size, radiograph.pixels.shape, classes=classes)
    figure = plots.gallery([plots.Panel(radiograph.pixels, path.name, marks)], columns=1, cell=8.0)
    with replacing(picture) as temporary:
        figure.savefig(temporary, dpi=110)
