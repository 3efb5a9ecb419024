"""The whole data set: files, tables, and the promise that it is complete or absent."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import psutil
from joblib import Parallel, delayed

from cxr.errors import DataError, ParameterError
from cxr.files import named_error
from cxr.phantom import picture, plan, readers
from cxr.phantom.hardships import PLAIN, draw_hardship
from cxr.phantom.headers import draw_header
from cxr.phantom.writer import write_dicom
from cxr.schema import ANNOTATION_COLUMNS, BOX_COLUMNS, CLASS_ID, CLASS_NAME, IMAGE_ID, RAD_ID, VINBIGDATA

SMALLEST, LARGEST = 256, 3072
RECORD = "phantom.json"
VERSION = 3
"""Raised whenever the same arguments give other bytes."""


@dataclass(frozen=True)
class _Made:
    """What came of one image: its rows in `train.csv` or `test_truth.csv`."""

    image_id: str
    rows: list[tuple[object, ...]]


def make_phantom(
    out_dir: Path,
    *,
    images: int = 240,
    test_images: int | None = None,
    size: int = 1024,
    seed: int = 0,
    header_leak: bool = True,
    abnormal_fraction: float = 0.3,
    hard: bool = False,
    jobs: int = -1,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Make a synthetic chest X-ray data set in the competition's layout.

    The folder gets `train/` and `test/` with DICOM files, `train.csv` with three readers per
    image, `test_truth.csv` with the consensus of five, `sample_submission.csv` and, last,
    `phantom.json` with the arguments. It appears complete or not at all; where the same
    phantom is there already, nothing is done. The same arguments give the same bytes,
    whatever `jobs` is, and an image does not depend on how many others there are.

    Args:
        out_dir: Folder to make. It may exist when it is empty or the same phantom.
        images: Number of training images, at least 1.
        test_images: Number of test images; a quarter of `images` when None.
        size: Longest side of the largest images in pixels, 256 to 3072.
        seed: Seed of everything.
        header_leak: Let the headers tell normal from abnormal as they do in the published
            files; without it they are independent of the findings.
        abnormal_fraction: Share of images with findings, in `[0, 1]`.
        hard: Films of poor exposure and position, faint and overlapping findings, devices and jewellery
            (`hardships`), to learn from; the plain phantom is what the demo is scored on.
        jobs: Processes; -1 means one per core.
        progress: Called with (done, total) after every few images.

    Returns:
        The folder.

    Raises:
        ParameterError: A number is out of its range.
        DataError: `out_dir` holds something else.
    """
    out_dir = Path(out_dir)
    test_images = images // 4 if test_images is None else test_images
    _check(images, test_images, size, seed, abnormal_fraction)
    record = {
        "version": VERSION,
        "images": images,
        "test_images": test_images,
        "size": size,
        "seed": seed,
        "header_leak": header_leak,
        "abnormal_fraction": abnormal_fraction,
        **({"hard": True} if hard else {}),
    }
    if _is_finished(out_dir, record):
        return out_dir

    _sweep(out_dir)
    beside = out_dir.with_name(f".{out_dir.name}.part-{os.getpid()}")
    try:
        for split in ("train", "test"):
            (beside / split).mkdir(parents=True)
        tasks = [(plan.STREAM_TRAIN, i) for i in range(images)] + [
            (plan.STREAM_TEST, i) for i in range(test_images)
        ]
        made = _make_all(beside, tasks, size, seed, header_leak, abnormal_fraction, hard, jobs, progress)
        train = [m for m, (split, _) in zip(made, tasks, strict=True) if split == plan.STREAM_TRAIN]
        test = [m for m, (split, _) in zip(made, tasks, strict=True) if split == plan.STREAM_TEST]
        _write_table(beside / "train.csv", train, np.random.default_rng([seed, 911]))
        _write_table(beside / "test_truth.csv", test, np.random.default_rng([seed, 912]))
        sample = pd.DataFrame(
            {IMAGE_ID: sorted(m.image_id for m in test), "PredictionString": "14 1 0 0 1 1"}
        )
        sample.to_csv(beside / "sample_submission.csv", index=False)
        (beside / RECORD).write_text(json.dumps(record, indent=2) + "\n")
        if out_dir.exists():
            out_dir.rmdir()
        os.replace(beside, out_dir)
    except OSError as error:
        raise named_error(error, out_dir) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return out_dir


def make_image(
    folder: Path,
    split: int,
    index: int,
    *,
    size: int,
    seed: int,
    header_leak: bool,
    abnormal_fraction: float,
    hard: bool = False,
) -> _Made:
    """Make one image: its file in `folder` and its rows."""
    patient = plan.plan_patient(index, split=split, seed=seed, abnormal_fraction=abnormal_fraction)
    image_id = hashlib.md5(f"cxr phantom {seed} {split} {index}".encode(), usedforsecurity=False).hexdigest()
    rng = np.random.default_rng([*patient.seed, 921])
    female = bool(rng.random() < 0.48)
    shape = draw_shape(size, rng)
    header = draw_header(patient.abnormal, leak=header_leak, female=female, rng=rng)
    hardship = draw_hardship(np.random.default_rng([*patient.seed, 923])) if hard else PLAIN
    strengths = [(class_id, strength * hardship.clarity) for class_id, strength, _ in patient.findings]
    drawn = picture.draw(shape, strengths, female=female, seed=patient.seed, hardship=hardship)
    stored = np.round(drawn.density * ((1 << header.bits_stored) - 1)).astype(np.uint16)
    if header.inverted:
        stored = ((1 << header.bits_stored) - 1) - stored
    write_dicom(folder / f"{image_id}.dicom", stored, header, identity=f"{seed}/{split}/{index}")

    findings = [
        readers.Finding(class_id, box, visibility * hardship.clarity**2)
        for (class_id, _, visibility), boxes in zip(patient.findings, drawn.boxes, strict=True)
        for box in boxes
    ]
    reading = np.random.default_rng([*patient.seed, 922])
    count = 3 if split == plan.STREAM_TRAIN else readers.CONSENSUS_READERS
    names = readers.choose_readers(patient.abnormal, reading, count)
    marks = readers.read_image(findings, names, shape, reading)
    if split == plan.STREAM_TRAIN:
        rows: list[tuple[object, ...]] = [(image_id, m.class_id, m.reader, *m.box) for m in marks]
        rows = rows or [(image_id, VINBIGDATA.normal_id, name, *[np.nan] * 4) for name in names]
    else:
        agreed = readers.consensus(findings, marks, count)
        rows = [(image_id, f.class_id, readers.CONSENSUS_NAME, *f.box) for f in agreed]
        rows = rows or [(image_id, VINBIGDATA.normal_id, readers.CONSENSUS_NAME, *[np.nan] * 4)]
    return _Made(image_id, rows)


def draw_shape(size: int, rng: np.random.Generator) -> tuple[int, int]:
    """Draw `(rows, columns)` of one image: mostly portrait, some square, one in twenty landscape."""
    longest = int(size * (1.0 if rng.random() < 0.4 else rng.uniform(0.8, 1.0)))
    aspect = float(rng.choice([2430 / 1994, 1.0, 2880 / 2304, 2500 / 2048], p=[0.4, 0.25, 0.2, 0.15]))
    shortest = round(longest / aspect)
    return (shortest, longest) if rng.random() < 0.06 else (longest, shortest)


def _check(images: int, test_images: int, size: int, seed: int, abnormal_fraction: float) -> None:
    if images < 1:
        raise ParameterError(f"images must be at least 1, got {images}")
    if test_images < 0:
        raise ParameterError(f"test_images must not be negative, got {test_images}")
    if not SMALLEST <= size <= LARGEST:
        raise ParameterError(f"size must be between {SMALLEST} and {LARGEST} pixels, got {size}")
    if seed < 0:
        raise ParameterError(f"seed must not be negative, got {seed}")
    if not 0 <= abnormal_fraction <= 1:
        raise ParameterError(f"abnormal_fraction must be between 0 and 1, got {abnormal_fraction}")


def _sweep(out_dir: Path) -> None:
    """Remove what calls left beside the folder when they were killed."""
    for left in out_dir.parent.glob(f".{out_dir.name}.part-*"):
        number = left.name.rpartition("-")[2]
        if number.isdigit() and (int(number) == os.getpid() or not psutil.pid_exists(int(number))):
            shutil.rmtree(left, ignore_errors=True)


def _is_finished(out_dir: Path, record: dict[str, Any]) -> bool:
    """Whether the same phantom is there already; anything else there is an error."""
    if not out_dir.exists():
        return False
    if not out_dir.is_dir():
        raise DataError(f"{out_dir} is a file, expected a folder to make the phantom in")
    if not any(out_dir.iterdir()):
        return False
    try:
        found = json.loads((out_dir / RECORD).read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{out_dir} is not empty and not a phantom data set; choose another folder")
    if found != record:
        different = sorted(k for k in {*found, *record} if found.get(k) != record.get(k))
        details = ", ".join(f"{k} {found.get(k, False)} instead of {record.get(k, False)}" for k in different)
        raise DataError(f"{out_dir} holds another phantom ({details}); remove it or choose another folder")
    return True


def _make_all(
    folder: Path,
    tasks: list[tuple[int, int]],
    size: int,
    seed: int,
    header_leak: bool,
    abnormal_fraction: float,
    hard: bool,
    jobs: int,
    progress: Callable[[int, int], None] | None,
) -> list[_Made]:
    alone = jobs == 1
    calls = (
        delayed(make_image if alone else _make_in_worker)(
            folder / ("train" if split == plan.STREAM_TRAIN else "test"),
            split,
            index,
            size=size,
            seed=seed,
            header_leak=header_leak,
            abnormal_fraction=abnormal_fraction,
            hard=hard,
        )
        for split, index in tasks
    )
    made = []
    for result in Parallel(n_jobs=jobs, return_as="generator")(calls):
        made.append(result)
        if progress is not None:
            progress(len(made), len(tasks))
    return made


def _make_in_worker(folder: Path, split: int, index: int, **what: Any) -> _Made:
    """`make_image` in a process of its own, which must not start threads for every core."""
    cv2.setNumThreads(1)
    return make_image(folder, split, index, **what)


def _write_table(path: Path, made: list[_Made], rng: np.random.Generator) -> None:
    """Write the annotation rows in the shuffled order of the published table."""
    rows = [row for m in made for row in m.rows]
    table = pd.DataFrame(rows, columns=[IMAGE_ID, CLASS_ID, RAD_ID, *BOX_COLUMNS])
    table[CLASS_NAME] = [VINBIGDATA.name(c) for c in table[CLASS_ID]]
    table = table[ANNOTATION_COLUMNS].iloc[rng.permutation(len(table))]
    table.to_csv(path, index=False)
