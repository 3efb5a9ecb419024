"""What detectors found on a user's files, for other tools: COCO results and DICOM objects."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from cxr import dicom, schema
from cxr.errors import DataError, ParameterError
from cxr.export import coco
from cxr.export.dicom_objects import KINDS, Algorithm, check_library, write_objects
from cxr.rundir import write_json
from cxr.schema import ClassTable

log = logging.getLogger("cxr")

FOUND_FORMATS = ("coco", *KINDS)
COCO_IMAGES = "coco_images.json"
COCO_RESULTS = "coco_results.json"
OBJECTS_DIR = "dicom"


def check_formats(formats: Sequence[str]) -> None:
    """Make sure, before hours of work, that these formats can be written here.

    Raises:
        ParameterError: An unknown format, or one whose package is missing.
    """
    for format in formats:
        if format not in FOUND_FORMATS:
            raise ParameterError(f"format {format!r}: expected one of {', '.join(FOUND_FORMATS)}")
    if set(formats) & set(KINDS):
        check_library()


class FoundWriter:
    """Writes what was found for other tools, as it comes.

    - `dicom-sr`, `gsps`: `dicom/IMAGE_ID.sr.dcm` and `dicom/IMAGE_ID.gsps.dcm` for each DICOM file, at once.
    - `coco`: `coco_images.json`, which numbers the files, and `coco_results.json`, at the end.
    """

    def __init__(
        self, out: Path, *, formats: Sequence[str], algorithm: Algorithm, classes: ClassTable
    ) -> None:
        """Prepare.

        Args:
            out: Folder to write to.
            formats: Some of `FOUND_FORMATS`.
            algorithm: Who found it.
            classes: The detectors' classes.

        Raises:
            ParameterError: An unknown format, or one whose package is missing.
        """
        check_formats(formats)
        kinds = [kind for kind in KINDS if kind in formats]
        self.out, self.classes, self.coco = out, classes, "coco" in formats
        self.objects = (
            ObjectWriter(out / OBJECTS_DIR, kinds=kinds, algorithm=algorithm, classes=classes)
            if kinds
            else None
        )
        self._found: list[pd.DataFrame] = []
        self._files: dict[str, Path] = {}

    def add(self, detections: pd.DataFrame, files: Mapping[str, Path]) -> None:
        """Take what was found on some files.

        Args:
            detections: `schema.DETECTION_COLUMNS` in pixels of the files.
            files: Path of each file that was read, by image id; one without a box counts too.

        Raises:
            DiskError: The disk is full or broken.
        """
        if self.objects is not None:
            self.objects.add(detections, files)
        if self.coco:
            self._found.append(detections)
            self._files |= files

    def finish(self) -> list[str]:
        """Write what needs to know all.

        Returns:
            What was written and what not, line by line.

        Raises:
            DataError: There was no DICOM file to write objects for.
            DiskError: The disk is full or broken.
        """
        lines = []
        if self.coco:
            sizes = {image_id: original_size(path) for image_id, path in self._files.items()}
            names = {image_id: path.name for image_id, path in self._files.items()}
            write_json(self.out / COCO_IMAGES, coco.images_document(names, sizes, self.classes))
            found = pd.concat(self._found, ignore_index=True)
            count = coco.write_results(self.out / COCO_RESULTS, found, list(self._files), self.classes)
            lines.append(f"{count} COCO results of {len(self._files)} images")
        if self.objects is not None:
            lines.append(self.objects.summary())
        return lines


class ObjectWriter:
    """Writes the DICOM objects of each image that is DICOM; one that no object can refer to is left out."""

    def __init__(self, out: Path, *, kinds: Sequence[str], algorithm: Algorithm, classes: ClassTable) -> None:
        """Prepare; arguments as for `write_objects`."""
        self.out, self.kinds, self.algorithm, self.classes = out, kinds, algorithm, classes
        self.written = self.other = self.refused = 0

    def add(self, detections: pd.DataFrame, files: Mapping[str, Path]) -> None:
        """Write the objects of some images; the log says which images are left out and why.

        Args:
            detections: `schema.DETECTION_COLUMNS` in pixels of the files.
            files: Path of each image, by image id; one without a box counts too.

        Raises:
            DiskError: The disk is full or broken.
        """
        found = detections[detections[schema.CLASS_ID] != self.classes.normal_id]
        found = found.sort_values(schema.SCORE, ascending=False, kind="stable")
        by_image = dict(tuple(found.groupby(schema.IMAGE_ID)))
        for image_id, path in files.items():
            boxes = by_image.get(image_id, found.iloc[:0])
            try:
                if not is_dicom(path):
                    self.other += 1
                    continue
                made = write_objects(
                    path, boxes, self.out, image_id,
                    kinds=self.kinds, algorithm=self.algorithm, classes=self.classes,
                )  # fmt: skip
                self.written += len(made)
            except DataError as error:
                self.refused += 1
                log.warning("no DICOM object: %s", error)

    def summary(self) -> str:
        """How many were written, in words.

        Raises:
            DataError: None could be written.
        """
        if not self.written:
            raise DataError(
                f"no DICOM object written: of {self.other + self.refused} images {self.other} are no DICOM "
                f"files and {self.refused} cannot be referred to"
            )
        left = f", {self.other} images are no DICOM files" if self.other else ""
        left += f", {self.refused} cannot be referred to" if self.refused else ""
        return f"{self.written} DICOM objects in {self.out}{left}"


def is_dicom(path: Path) -> bool:
    """Whether a file has the marker of PS3.10.

    Raises:
        DataError: It cannot be opened.
    """
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


def original_size(path: Path) -> tuple[int, int]:
    """(rows, columns) to which boxes on a file refer.

    Raises:
        DicomReadError: The file cannot be read.
    """
    if is_dicom(path):
        header = dicom.read_header(path)
        try:
            return int(header["Rows"]), int(header["Columns"])
        except ValueError as error:
            raise DataError(f"{path}: no rows and columns in the header") from error
    # Only the reader knows which way up a picture is.
    return dicom.load_radiograph(path, longest_side=32).original_size
