"""Tables like our own, as they are found: `train.csv`, and where they are there its companions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.errors import AnnotationError, DataError
from cxr.layouts.folder import SourceFolder
from cxr.layouts.layout import NORMAL, ONE_READER, REFERENCE, ROW_COLUMNS, Layout, Notes, Part
from cxr.layouts.loose import corners, find_columns, numbers, read_loose
from cxr.layouts.names import distinct, fold, is_normal
from cxr.preprocess import image_id_of
from cxr.schema import BOX_COLUMNS, CLASS_ID, CLASS_NAME, IMAGE_ID, NORMAL_BOX, RAD_ID, VINBIGDATA

TRAIN = ("train.csv", "train.csv.gz", "train.tsv", "train.txt", "annotations.csv", "labels.csv", "boxes.csv")
TEST = ("test_truth.csv", "test.csv", "test_truth.tsv")
CLASSES = ("classes.csv", "classes.tsv")


def recognise(source: SourceFolder) -> bool:
    """A table of a usual name is there that has an image and a box."""
    return _table(source, TRAIN) is not None


def read(source: SourceFolder, notes: Notes) -> Layout:
    """Read `train.csv`, `test_truth.csv` and `classes.csv`, however they are written.

    Raises:
        AnnotationError: A table names no image, no class, or no box; or `classes.csv` lacks a column.
    """
    path = _table(source, TRAIN)
    if path is None:
        raise AnnotationError(f"{source.root}: expected a table with images and boxes, such as train.csv")
    declared = _declared(source, notes)
    tables = {"train": (path, _loose(path, notes))}
    test_path = _table(source, TEST)
    if test_path is not None:
        tables["test"] = (test_path, _loose(test_path, notes))
    names = declared or _names([table for _, table in tables.values()])
    boxed = {fold(name) for where, table in tables.values() for name in _boxed(table, where, names)}
    findings, normal = _classes(names, bool(declared), boxed, notes)
    parts = {}
    for name, (where, table) in tables.items():
        rows = _rows(table, where, names, notes)
        notes.take(f"{source.relative(where)} for the {name} boxes")
        sizes, shares = _sizes(source, name, notes), _as_shares(rows, where, notes)
        parts[name] = (Part(rows, _images(source, name), name, sizes, rescale=False, relative=shares),)
    if "test" not in parts and source.below("test"):
        empty = pd.DataFrame(columns=ROW_COLUMNS)
        parts["test"] = (
            Part(empty, _images(source, "test"), "test", _sizes(source, "test", notes), rescale=False),
        )
    return Layout(parts["train"], parts.get("test", ()), findings, normal, whole=True)


def _classes(
    names: dict[str, str], declared: bool, boxed: set[str], notes: Notes
) -> tuple[tuple[str, ...], str]:
    """Findings and the name of the normal class.

    Args:
        names: Names by class id.
        declared: They are those of `classes.csv`.
        boxed: Names, folded, that a box has.
        notes: Where it is said.
    """
    findings = distinct(name for name in names.values() if not is_normal(name))
    normal = next((name for name in names.values() if is_normal(name)), "")
    if declared and not normal and fold(findings[-1]) not in boxed:
        *rest, normal = findings
        notes.take(f"{normal!r}, the last class, for the normal one")
        findings = tuple(rest)
    elif not declared and {fold(name) for name in findings} <= {fold(n) for n in VINBIGDATA.finding_names}:
        notes.take("the classes for VinBigData's: every name is one of theirs")
        findings, normal = VINBIGDATA.finding_names, NORMAL
    elif not declared:
        silent = [name for name in findings if fold(name) not in boxed]
        notes.leave(
            "classes that never have a box; name one that means normal 'No finding', "
            "or list all classes in classes.csv, the normal one last",
            silent,
        )
        findings = tuple(name for name in findings if name not in silent)
    normal = normal or NORMAL
    new = {fold(name): number for number, name in enumerate((*findings, normal))}
    moved = [
        f"{old} -> {new[fold(name)]}"
        for old, name in names.items()
        if old.isdigit() and new.get(fold(name), int(old)) != int(old)
    ]
    notes.mend("class ids counted anew", moved)
    return findings, normal


def _as_shares(rows: pd.DataFrame, path: Path, notes: Notes) -> bool:
    """Whether the boxes are shares of the image's sides: not one reaches beyond its first pixel."""
    boxes = rows[BOX_COLUMNS].to_numpy(float)
    boxes = boxes[np.isfinite(boxes).all(axis=1)]
    shares = bool(len(boxes)) and bool((boxes <= 1).all())
    notes.take(f"the boxes of {path.name} for shares of the image's sides, from 0 to 1") if shares else None
    return shares


def _boxed(table: pd.DataFrame, path: Path, names: dict[str, str]) -> set[str]:
    """Names of the classes that a box of the table has."""
    drawn = corners(table, path, Notes()).to_numpy()
    drawn = np.isfinite(drawn).all(axis=1) & ~(drawn == np.array(NORMAL_BOX)).all(axis=1)
    found = set(table.loc[drawn, CLASS_NAME]) if CLASS_NAME in table else set()
    if CLASS_ID in table:
        found |= {names.get(_plain_id(number), "") for number in table.loc[drawn, CLASS_ID]}
    return found - {""}


def _table(source: SourceFolder, usual: tuple[str, ...]) -> Path | None:
    return next((path for path, fault in _usual(source, usual) if not fault), None)


def why_not(source: SourceFolder) -> list[str]:
    """Why each table of a usual name is none of boxes."""
    return [fault for _, fault in _usual(source, TRAIN)]


def _usual(source: SourceFolder, usual: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    """Tables of these names, each with what it lacks, "" for nothing."""
    for name in usual:
        for path in source.named(name):
            try:
                columns = set(_loose(path, Notes()).columns)
            except (DataError, ValueError) as error:
                yield path, str(error)
                continue
            boxes = set(BOX_COLUMNS) <= columns or {"x", "y", "width", "height"} <= columns
            lacks = ["an image"] * (IMAGE_ID not in columns) + ["a box"] * (not boxes)
            yield path, f"{source.relative(path)} has no column of {' or '.join(lacks)}" if lacks else ""


def _loose(path: Path, notes: Notes) -> pd.DataFrame:
    return find_columns(read_loose(path, notes), path, notes)


def _images(source: SourceFolder, split: str) -> tuple[str, ...]:
    return tuple(source.relative(path) for path in source.below(split))


def _sizes(source: SourceFolder, split: str, notes: Notes) -> dict[str, tuple[int, int]]:
    """Original sizes of `train_meta.csv` or `test_meta.csv`."""
    paths = source.named(f"{split}_meta.csv")
    if not paths:
        return {}
    raw = read_loose(paths[0], notes)
    raw.columns = [str(name).strip().lower() for name in raw.columns]
    if not {"image_id", "dim0", "dim1"} <= set(raw.columns):
        notes.leave("tables of original sizes without image_id, dim0, dim1", [paths[0].name])
        return {}
    values = numbers(raw, ["dim0", "dim1"], paths[0], notes).to_numpy()
    good = np.isfinite(values).all(axis=1) & (values >= 1).all(axis=1)
    notes.leave("original sizes that are no pixels", list(raw["image_id"][~good]))
    notes.take(f"{source.relative(paths[0])} for the size of the originals, in whose pixels the boxes are")
    return {
        image: (int(size[0]), int(size[1]))
        for image, size, ok in zip(raw["image_id"], values, good, strict=True)
        if ok
    }


def _declared(source: SourceFolder, notes: Notes) -> dict[str, str]:
    """Names by class id, from `classes.csv`, in the order of the ids."""
    for path in source.named(*CLASSES):
        table = _loose(path, notes)
        if not {CLASS_ID, CLASS_NAME} <= set(table.columns):
            raise AnnotationError(
                f"{path.name}: expected class_id and class_name, got {', '.join(table.columns)}"
            )
        notes.take(f"{source.relative(path)} for the classes")
        return _in_order(dict(zip(map(_plain_id, table[CLASS_ID]), table[CLASS_NAME], strict=True)))
    return {}


def _names(tables: list[pd.DataFrame]) -> dict[str, str]:
    """Names by class id, from the tables themselves; the name is its own id where there is none."""
    names: dict[str, str] = {}
    for table in tables:
        if CLASS_NAME in table and CLASS_ID in table:
            pairs = zip(map(_plain_id, table[CLASS_ID]), table[CLASS_NAME], strict=True)
            for number, name in dict.fromkeys(pairs):
                if number and name:
                    names.setdefault(number, name)
        elif CLASS_NAME in table:
            names |= {name: name for name in sorted(set(table[CLASS_NAME]) - {""})}
        elif CLASS_ID in table:
            names |= {str(number): name for number, name in enumerate(VINBIGDATA.names)}
    return _in_order(names)


def _in_order(names: dict[str, str]) -> dict[str, str]:
    return dict(
        sorted(
            names.items(), key=lambda item: (not item[0].isdigit(), int(item[0]) if item[0].isdigit() else 0)
        )
    )


def _plain_id(text: str) -> str:
    plain = text.replace(",", ".").removesuffix(".0").lstrip("+")
    return str(int(plain)) if plain.isascii() and plain.isdigit() else plain


def _rows(table: pd.DataFrame, path: Path, names: dict[str, str], notes: Notes) -> pd.DataFrame:
    if IMAGE_ID not in table or not {CLASS_ID, CLASS_NAME} & set(table.columns):
        got = ", ".join(table.columns)
        raise AnnotationError(f"{path.name}: expected an image and a class, got the columns {got}")
    rows = pd.DataFrame({REFERENCE: table[IMAGE_ID]})
    suffixed = [name for name in rows[REFERENCE] if name != image_id_of(name)]
    notes.mend("ids with a file's suffix or folder", suffixed)
    if RAD_ID in table:
        rows[RAD_ID] = table[RAD_ID].where(table[RAD_ID] != "", ONE_READER)
        notes.mend(
            f"rows without a reader, given to {ONE_READER}", list(rows[REFERENCE][table[RAD_ID] == ""])
        )
    else:
        rows[RAD_ID] = ONE_READER
        notes.mend(f"tables without a reader, one is assumed ({ONE_READER})", [path.name])
    by_id = pd.Series("", index=table.index, dtype=object)
    if CLASS_ID in table:
        by_id = table[CLASS_ID].map(lambda number: names.get(_plain_id(number), ""))
    if CLASS_NAME in table:
        rows[CLASS_NAME] = table[CLASS_NAME]
        nameless = (table[CLASS_NAME] == "") & (by_id != "")
        rows.loc[nameless, CLASS_NAME] = by_id[nameless]
        notes.mend("class names taken from the class id", list(rows[REFERENCE][nameless]))
        told = (by_id != "") & (table[CLASS_NAME] != "")
        torn = told & (table[CLASS_NAME].map(fold) != by_id.map(fold))
        notes.leave("rows whose class id and name disagree", list(rows[REFERENCE][torn]))
        rows.loc[torn, CLASS_NAME] = ""
    else:
        rows[CLASS_NAME] = by_id
        notes.mend("tables without class names, taken from the class ids", [path.name])
    if CLASS_ID not in table:
        notes.mend("tables without class ids, taken from the names", [path.name])
    rows[BOX_COLUMNS] = corners(table, path, notes)
    one_pixel = (rows[BOX_COLUMNS].to_numpy() == np.array(NORMAL_BOX)).all(axis=1)
    one_pixel &= rows[CLASS_NAME].map(is_normal).to_numpy(bool)
    rows.loc[one_pixel, BOX_COLUMNS] = np.nan
    return rows[ROW_COLUMNS]
