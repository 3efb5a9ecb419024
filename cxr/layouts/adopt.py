"""Make a data folder out of a folder of any known form, complete or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cxr.annotations import CLASSES_CSV
from cxr.errors import DataError, ParameterError, printable
from cxr.files import lives, machine
from cxr.layouts.folder import SourceFolder
from cxr.layouts.forms import choose
from cxr.layouts.layout import Notes
from cxr.layouts.settle import Settled, settle
from cxr.preprocess import image_id_of
from cxr.schema import CLASS_ID, CLASS_NAME, IMAGE_ID, TEST_TRUTH_TABLE, TRAIN_TABLE

RECORD = "adopted.json"
CLASS_CHOICES = ("own", "kaggle")
_SAMPLE = "sample_submission.csv"


@dataclass(frozen=True)
class Adopted:
    """What came of it.

    Attributes:
        lines: What was taken for what, mended and left out, a line each.
        images: Images by `train` and `test`.
        boxes: Boxes in the tables.
        made: False where the same data folder was there already.
    """

    lines: list[str]
    images: dict[str, int]
    boxes: int
    made: bool


def adopt(
    source: Path,
    data_dir: Path,
    *,
    form: str = "",
    classes: str = "own",
    copy: bool = False,
    jobs: int = -1,
    progress: Callable[[int, int], None] | None = None,
) -> Adopted:
    """Write a data folder in this project's layout from data in another.

    Images become links to the files of the source (absolute, so that the data folder may move), or copies.

    Args:
        source: Folder of images and boxes in one of `forms.FORMS`.
        data_dir: Folder to make. It may exist when it is empty, or holds the very same data.
        form: Name of the form; "" to recognise it.
        classes: "own" keeps the source's classes, "kaggle" brings them to the competition's.
        copy: Copy images instead of linking to them.
        jobs: Processes for reading headers; -1 for one a core.
        progress: Called with headers read and in all.

    Returns:
        What was done, in words and numbers.

    Raises:
        ParameterError: An unknown form, or another word for the classes.
        DataError: The source is missing or of no form; nothing usable is in it; the data folder holds
            something else or lies inside the source, or the other way round.
    """
    if classes not in CLASS_CHOICES:
        raise ParameterError(f"--classes {printable(classes)}: expected {' or '.join(CLASS_CHOICES)}")
    data_dir = Path(os.path.abspath(data_dir))
    notes = Notes()
    folder = SourceFolder(Path(source), notes)
    _check_place(folder.root, data_dir)
    layout = choose(folder, form, notes).read(folder, notes)
    settled = settle(layout, folder, notes, kaggle=classes == "kaggle", jobs=jobs, progress=progress)
    test_alone = not settled.files["train"] and "test" in settled.tables
    if "train" not in settled.tables and not test_alone:
        said = "; ".join(line for line in notes.lines() if line.startswith("left out"))
        raise DataError(f"{printable(source)}: nothing is left to learn from; {said or 'no row'}")
    if "train" not in settled.tables:
        notes.take("the test part alone, to score against: there is nothing to learn from")
    if not folder.images:
        notes.take("tables alone: there are no images in the folder (.dicom, .dcm, .png, .jpg)")
    images = {split: len(files) for split, files in settled.files.items()}
    boxes = sum(int(table["x_min"].notna().sum()) for table in settled.tables.values())
    texts = _texts(settled, folder)
    record = {
        "source": str(folder.root),
        "classes": classes,
        "copy": copy,
        "images": images,
        "boxes": boxes,
        "content": _digest(settled, texts),
        "notes": notes.lines(),
    }
    made = _write(data_dir, settled, texts, record, copy=copy)
    return Adopted(notes.lines(), images, boxes, made)


def _check_place(source: Path, data_dir: Path) -> None:
    place = data_dir.resolve()
    if place == source or source in place.parents or place in source.parents:
        raise DataError(
            f"{printable(data_dir)}: expected a data folder apart from the source {printable(source)}"
        )
    if data_dir.exists() and not data_dir.is_dir():
        raise DataError(f"{printable(data_dir)}: a file; expected a folder to make")


def _texts(settled: Settled, folder: SourceFolder) -> dict[str, str]:
    """Text of each table of the data folder, by its name."""
    classes = settled.classes
    names = {"train": TRAIN_TABLE, "test": TEST_TRUTH_TABLE}
    texts = {names[part]: table.to_csv(index=False) for part, table in settled.tables.items()}
    table = pd.DataFrame({CLASS_ID: range(len(classes.names)), CLASS_NAME: classes.names})
    texts[CLASSES_CSV] = table.to_csv(index=False)
    for split, sizes in settled.original.items():
        if sizes:
            rows = [(image_id, *size) for image_id, size in sizes.items()]
            texts[f"{split}_meta.csv"] = pd.DataFrame(rows, columns=[IMAGE_ID, "dim0", "dim1"]).to_csv(
                index=False
            )
    samples = folder.named(_SAMPLE)
    if samples:
        sample = samples[0].read_text(encoding="utf-8", errors="replace")
        asked = {line.split(",")[0] for line in sample.splitlines()[1:]}
        if asked and asked <= set(settled.files["test"]):
            texts[_SAMPLE] = sample
            folder.notes.take(f"{folder.relative(samples[0])} for the images to answer for")
    return texts


def _digest(settled: Settled, texts: dict[str, str]) -> str:
    """A hash of all tables and of which file stands for which image."""
    links = [
        [split, image_id, str(path)]
        for split, files in settled.files.items()
        for image_id, path in files.items()
    ]
    return hashlib.sha256(json.dumps([texts, sorted(links)]).encode()).hexdigest()


def _write(
    data_dir: Path, settled: Settled, texts: dict[str, str], record: dict[str, Any], *, copy: bool
) -> bool:
    if data_dir.is_dir() and any(data_dir.iterdir()):
        _compare(data_dir, record)
        return False
    _sweep(data_dir)
    beside = data_dir.with_name(f".{data_dir.name}.part-{machine()}-{os.getpid()}")
    try:
        beside.mkdir(parents=True)
        for split, files in settled.files.items():
            if files or split == "train":
                (beside / split).mkdir()
            for image_id, path in files.items():
                place = beside / split / _file_name(image_id, path)
                if copy:
                    shutil.copyfile(path, place)
                else:
                    place.symlink_to(path)
        for name, text in texts.items():
            (beside / name).write_text(text, encoding="utf-8")
        (beside / RECORD).write_text(
            json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        if data_dir.exists():
            data_dir.rmdir()
        os.replace(beside, data_dir)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return True


def _file_name(image_id: str, path: Path) -> str:
    """A name that `image_id_of` reads the id back from, with the file's own suffix."""
    return image_id if image_id_of(path) == path.name else f"{image_id}{path.suffix}"


def _compare(data_dir: Path, record: dict[str, Any]) -> None:
    try:
        found = json.loads((data_dir / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{printable(data_dir)}: not empty; give a new folder")
    different = [key for key in ("source", "classes", "copy", "content") if found.get(key) != record[key]]
    if different:
        raise DataError(
            f"{printable(data_dir)}: holds data adopted otherwise ({', '.join(different)} differ); "
            "remove it or give a new folder"
        )


def _sweep(data_dir: Path) -> None:
    """Remove what calls left beside the folder when they were killed."""
    start = f".{data_dir.name}.part-{machine()}-"
    with contextlib.suppress(OSError):
        for left in data_dir.parent.iterdir():
            number = left.name.removeprefix(start)
            if left.name.startswith(start) and number.isdigit() and not lives(int(number)):
                shutil.rmtree(left, ignore_errors=True)
