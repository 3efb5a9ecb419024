"""What goes into the page: from a run, from the folder of `cxr predict`, or from a submission."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from cxr import annotations as ann
from cxr import predictions, schema, submission
from cxr.errors import DataError
from cxr.plots.images import ImageSource
from cxr.preprocess import find_images, image_id_of
from cxr.rundir import PARAMETERS, data_dir_of, read_json, read_table
from cxr.schema import CLASS_ID, DETECTION_COLUMNS, IMAGE_ID, ClassTable
from cxr.splits import read_folds
from cxr.store import ImageStore
from cxr.survey import read_sizes
from cxr.viewer.pictures import FileSource

SCORE_SHOWN = 0.3
"""Score from which boxes are shown first, where no evaluation has chosen one."""

IOU_THRESHOLD = 0.4


@dataclass(frozen=True)
class Material:
    """Images and what is known about them; every box in pixels of the original image.

    Attributes:
        title: What the page is about.
        classes: The data set's classes.
        source: Where the images are.
        parts: Image ids by part of the data ("validation", "test", ...).
        readers: `schema.ANNOTATION_COLUMNS`, or None.
        truth: `image_id, class_id`, box columns and perhaps `n_readers, agreement`; every image whose
            truth is known has a row, a normal one a row without a box. Or None.
        detections: `schema.DETECTION_COLUMNS`, or None where no detector has looked.
        score_threshold: Score from which detections are shown at first.
        iou_threshold: IoU above which a detection hits.
    """

    title: str
    classes: ClassTable
    source: ImageSource
    parts: Mapping[str, Sequence[str]]
    readers: pd.DataFrame | None = None
    truth: pd.DataFrame | None = None
    detections: pd.DataFrame | None = None
    score_threshold: float = SCORE_SHOWN
    iou_threshold: float = IOU_THRESHOLD


def gather(path: Path, *, data_dir: Path | None = None) -> Material:
    """Read what a path holds.

    Args:
        path: Folder of a run; folder of `cxr predict`; or a CSV of predictions, in the competition's
            format or with `schema.DETECTION_COLUMNS`.
        data_dir: Data folder with the images; needed for a CSV. For a run the one it was made from is
            the default.

    Returns:
        The material for a page.

    Raises:
        DataError: Nothing of this is there, or a table does not hold what it should.
    """
    if path.is_file() and path.name == predictions.PREDICTIONS_JSON:
        path = path.parent
    if path.is_file():
        return _table(path, data_dir)
    if (path / predictions.PREDICTIONS_JSON).is_file():
        return _predicted(path)
    if any((path / name).exists() for name in (PARAMETERS, schema.IMAGES_DIR, schema.TRAIN_FULL_CSV)):
        return _run(path, data_dir)
    raise DataError(
        f"{path}: expected a run's folder, a folder that cxr predict wrote, or a CSV of predictions, "
        f"found {'none of them' if path.exists() else 'nothing'}"
    )


@dataclass
class _Parts:
    """Tables under way: one entry a part of the data."""

    ids: dict[str, list[str]] = field(default_factory=dict)
    readers: list[pd.DataFrame] = field(default_factory=list)
    truth: list[pd.DataFrame] = field(default_factory=list)
    detections: list[pd.DataFrame] = field(default_factory=list)

    def add_drawn(self, data_dir: Path, part: str, classes: ClassTable) -> None:
        """Take the readers' boxes of a part of a data folder where it has any, and the truth they fuse to."""
        drawn = ann.read_part(data_dir, part, classes=classes)
        if drawn is not None:
            self.readers.append(drawn.readers)
            self.truth.append(drawn.truth)

    def tables(self) -> dict[str, Any]:
        named = {"readers": self.readers, "truth": self.truth, "detections": self.detections}
        return {name: pd.concat(some, ignore_index=True) if some else None for name, some in named.items()}


def _run(root: Path, data_dir: Path | None) -> Material:
    data_dir = data_dir or (data_dir_of(root) if (root / PARAMETERS).is_file() else None)
    known = data_dir if data_dir is not None and data_dir.is_dir() else None
    classes = ann.read_classes(known) if known else schema.VINBIGDATA
    parts = _Parts()
    if (root / schema.TRAIN_FULL_CSV).is_file():
        parts.readers.append(ann.read_annotations(root / schema.TRAIN_FULL_CSV, classes=classes))
    if (root / schema.CONSENSUS_CSV).is_file():
        parts.truth.append(read_table(root / schema.CONSENSUS_CSV))
    if (root / schema.VAL_PREDICTIONS_CSV).is_file():
        found = read_table(root / schema.VAL_PREDICTIONS_CSV)
        folds = read_folds(root / schema.FOLDS_CSV)
        parts.ids["validation"] = folds.loc[folds[schema.FOLD].isin(found[schema.FOLD]), IMAGE_ID].tolist()
        parts.detections.append(found[DETECTION_COLUMNS])
    if (root / schema.SUBMISSION_CSV).is_file():
        found = submission.parse(root / schema.SUBMISSION_CSV, classes=classes)
        parts.ids["test"] = found[IMAGE_ID].unique().tolist()
        parts.detections.append(found)
        if known:
            parts.add_drawn(known, "test", classes)
    if (root / schema.IMAGES_DIR).is_dir():
        source = ImageStore(root / schema.IMAGES_DIR)
        if not parts.ids:
            parts.ids["training"] = source.ids_of("train")
        parts.ids = {name: [i for i in ids if i in source] for name, ids in parts.ids.items()}
    elif known:
        source = _files(known)
        if not parts.ids:
            parts.ids["training"] = parts.readers[0][IMAGE_ID].unique().tolist() if parts.readers else []
    else:
        raise DataError(f"{root}: no images; notebook 02 writes {schema.IMAGES_DIR}, or give --data")
    evaluation = root / schema.EVALUATION_JSON
    numbers = read_json(evaluation) if evaluation.is_file() else {}
    return Material(
        root.resolve().name,
        classes,
        source,
        parts.ids,
        **parts.tables(),
        score_threshold=float(numbers.get("display_threshold") or SCORE_SHOWN),
        iou_threshold=float(numbers.get("iou_threshold") or IOU_THRESHOLD),
    )


def _predicted(folder: Path) -> Material:
    path = folder / predictions.PREDICTIONS_JSON
    content = read_json(path)
    try:
        classes = ClassTable(tuple(content["classes"]))
        files = {str(image["image_id"]): Path(image["file"]) for image in content["images"]}
        rows = [{IMAGE_ID: str(i["image_id"]), **box} for i in content["images"] for box in i["boxes"]]
        found = pd.DataFrame(rows, columns=DETECTION_COLUMNS).astype({CLASS_ID: int})
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: expected what cxr predict writes; {type(error).__name__}: {error}"
        ) from error
    if files and not any(file.is_file() for file in files.values()):
        raise DataError(
            f"{path}: none of the {len(files)} image files is there, {next(iter(files.values()))} first; "
            "relative names start at the folder in which cxr predict ran"
        )
    return Material(
        folder.resolve().name, classes, FileSource(files), {"images": list(files)}, detections=found
    )


def _table(path: Path, data_dir: Path | None) -> Material:
    if data_dir is None:
        raise DataError(f"{path}: a table holds no images; give their data folder with --data DATA_DIR")
    classes = ann.read_classes(data_dir)
    try:
        columns = list(pd.read_csv(path, nrows=0).columns)
    except (ValueError, UnicodeError) as error:
        raise DataError(f"{path}: expected a CSV of predictions ({error})") from error
    if set(DETECTION_COLUMNS) <= set(columns):
        found = read_table(path)[DETECTION_COLUMNS]
    else:
        found = submission.parse(path, classes=classes)
    parts = _Parts(detections=[found])
    wanted = set(found[IMAGE_ID])
    for name in ann.TABLES:
        folder = data_dir / name
        images = {image_id_of(file) for file in find_images(folder)} if folder.is_dir() else set()
        if ids := sorted(wanted & images):
            parts.ids[name] = ids
            parts.add_drawn(data_dir, name, classes)
    if not parts.ids:
        raise DataError(
            f"{path}: none of its {len(wanted)} images is in {data_dir}/test or train, {min(wanted)} first"
        )
    return Material(path.name, classes, _files(data_dir), parts.ids, **parts.tables())


def _files(data_dir: Path) -> FileSource:
    """The image files of a data folder, test and train, boxes in pixels of the originals."""
    paths: dict[str, Path] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for name in ("test", "train"):
        if (data_dir / name).is_dir():
            paths |= {image_id_of(path): path for path in find_images(data_dir / name)}
        if (table := read_sizes(data_dir, name)) is not None:
            sizes |= {row.image_id: (row.rows, row.columns) for row in table.itertuples()}
    return FileSource(paths, sizes=sizes)
