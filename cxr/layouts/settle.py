"""From what a form says to tables that `read_annotations` takes: files, classes and boxes checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cxr import survey
from cxr.layouts.folder import SourceFolder
from cxr.layouts.layout import REFERENCE, Layout, Notes, Part
from cxr.layouts.names import distinct, fold, is_normal, kaggle_name, spellings
from cxr.preprocess import image_id_of
from cxr.schema import (
    ANNOTATION_COLUMNS,
    BOX_COLUMNS,
    CLASS_ID,
    CLASS_NAME,
    IMAGE_ID,
    RAD_ID,
    VINBIGDATA,
    ClassTable,
)

_SLACK_PX = 0.01
"""Boxes that end this little outside are rounded numbers, not worth counting."""


@dataclass(frozen=True)
class Settled:
    """A data set as it will be written.

    Attributes:
        tables: Rows by `train` and `test`, `schema.ANNOTATION_COLUMNS`; no test where its truth is unknown.
        files: File of each image id, by `train` and `test`.
        original: (rows, columns) by image id where boxes are in pixels of larger originals.
        classes: The classes.
    """

    tables: dict[str, pd.DataFrame]
    files: dict[str, dict[str, Path]]
    original: dict[str, dict[str, tuple[int, int]]]
    classes: ClassTable


def settle(
    layout: Layout,
    source: SourceFolder,
    notes: Notes,
    *,
    kaggle: bool,
    jobs: int,
    progress: Callable[[int, int], None] | None,
) -> Settled:
    """Check every row; what can be mended is, what cannot is left out, and both are counted.

    A reading (an image by a reader) that loses all its boxes is left out as a whole: it is not normal.

    Args:
        layout: What a form says.
        source: The files.
        notes: Where everything is counted.
        kaggle: Bring the classes to the competition's.
        jobs: Processes to read headers with.
        progress: Called with headers read and in all.
    """
    splits = {"train": layout.train, "test": layout.test}
    found = {name: [_find(part, source, notes) for part in parts] for name, parts in splits.items()}
    wanted = [path for maps in found.values() for one in maps for path in one.values()]
    ids = _ids(list(dict.fromkeys(wanted)), source, notes)
    sizes = survey.sizes_of(_to_measure(splits, found), jobs=jobs, progress=progress)
    unknown = [source.relative(path) for path, size in sizes.items() if size is None]
    notes.take(
        f"{len(unknown)} images whose header cannot be read as they are ({unknown[0]} first)"
    ) if unknown else None
    classes, rename = _classes(layout, kaggle, notes)
    normal = classes.name(classes.normal_id)
    tables, files, original = {}, {}, {}
    for name, parts in splits.items():
        made = [
            _rows(one, paths, ids, sizes, rename, normal, notes, tables_alone=not source.images)
            for part, paths in zip(parts, found[name], strict=True)
            for one in (_upright(part, paths, sizes, notes),)
        ]
        table = pd.concat([rows for rows, _ in made], ignore_index=True) if made else pd.DataFrame()
        if len(table):
            tables[name] = _unique(table, classes, notes)
        chosen = {ids[path]: path for one in found[name] for path in one.values()}
        if name == "train":
            chosen = _used(chosen, tables.get(name), notes, keep=layout.whole)
        files[name] = chosen
        original[name] = {key: size for _, known in made for key, size in known.items()}
    for image_id in set(files["train"]) & set(files["test"]):
        del files["train"][image_id]
        notes.leave("images of both parts, kept in test alone", [image_id])
        tables["train"] = tables["train"][tables["train"][IMAGE_ID] != image_id]
    return Settled(tables, files, original, classes)


def _find(part: Part, source: SourceFolder, notes: Notes) -> dict[str, Path]:
    """File of each reference of a part; what has none is counted."""
    found: dict[str, Path] = {}
    if not source.images:
        return found
    missing: dict[str, list[str]] = {}
    for reference in dict.fromkeys([*part.rows[REFERENCE], *part.images]):
        path, remark = source.find(reference, part.folder)
        if path is None:
            missing.setdefault(remark, []).append(reference or "(no name)")
            continue
        found[reference] = path
        notes.mend(remark, [reference]) if remark else None
    for why, references in missing.items():
        notes.leave("images without a file" if why == "no file" else f"images with {why}", references)
    return found


def _ids(paths: Sequence[Path], source: SourceFolder, notes: Notes) -> dict[Path, str]:
    """An id for each file: its name without the suffix, with folders before it where that comes twice."""
    names = pd.Series([image_id_of(path) for path in paths], dtype=object)
    twice = names[names.duplicated(keep=False)]
    for place in twice.index:
        names[place] = source.relative(paths[place].with_name(names[place])).replace("/", "_")
    notes.mend("ids that two files share, told apart by their folders", list(names[twice.index]))
    return dict(zip(paths, names, strict=True))


def _to_measure(splits: dict[str, tuple[Part, ...]], found: dict[str, list[dict[str, Path]]]) -> list[Path]:
    """Files whose size a box is held against."""
    paths = []
    for name, parts in splits.items():
        for part, one in zip(parts, found[name], strict=True):
            drawn = part.rows.loc[part.rows["x_min"].notna(), REFERENCE]
            paths += [one[reference] for reference in drawn.unique() if reference in one]
    return list(dict.fromkeys(paths))


def _classes(layout: Layout, kaggle: bool, notes: Notes) -> tuple[ClassTable, Callable[[str], str | None]]:
    """The classes, and the name in them of any name that a row has; None where it has none."""
    if not kaggle:
        classes = ClassTable((*distinct(layout.findings), layout.normal))
        known = {fold(name): name for name in classes.names}
        return classes, lambda name: layout.normal if is_normal(name) else known.get(fold(name))
    moved = {name: kaggle_name(name) for name in layout.findings}
    said = [f"{a} -> {b}" for a, b in moved.items() if b is not None and a != b]
    notes.take("classes for the competition's: " + (", ".join(said) if said else "all names are the same"))
    without = [name for name, to in moved.items() if to is None]
    if without:
        notes.take(f"no class of the competition for {', '.join(without)}")
    normal = VINBIGDATA.names[VINBIGDATA.normal_id]
    return (
        VINBIGDATA,
        lambda name: normal if is_normal(name) or fold(name) == fold(layout.normal) else kaggle_name(name),
    )


def _rows(
    part: Part,
    paths: dict[str, Path],
    ids: dict[Path, str],
    sizes: dict[Path, tuple[int, int] | None],
    rename: Callable[[str], str | None],
    normal: str,
    notes: Notes,
    *,
    tables_alone: bool,
) -> tuple[pd.DataFrame, dict[str, tuple[int, int]]]:
    """Good rows of one part, and the sizes of originals that the form states."""
    rows = part.rows.copy()
    if tables_alone:
        rows[IMAGE_ID] = rows[REFERENCE].map(image_id_of)
    else:
        rows[IMAGE_ID] = rows[REFERENCE].map(paths).map(ids)
    at_hand = rows[IMAGE_ID].notna() & (rows[IMAGE_ID] != "")
    rows = rows[at_hand].reset_index(drop=True)
    given = {name: rename(name) for name in rows[CLASS_NAME].unique()}
    respelt = spellings(given, [name for name in given.values() if name])
    others = rows[CLASS_NAME].map({a: b for a, b in respelt.items() if a != b})
    notes.mend("class names in other letters or with blanks", list(others.dropna()))
    rows["named"] = rows[CLASS_NAME].map(given)
    if part.relative and tables_alone:
        notes.leave("boxes as shares of images that are not here", list(rows[REFERENCE]))
        rows = rows.iloc[:0]
    frames = _frames(rows, part, paths, sizes)
    boxes = rows[BOX_COLUMNS].to_numpy(float, copy=True)
    if part.relative:
        boxes *= frames[:, [1, 0, 1, 0]]
    boxes, bad = _checked(boxes, frames, rows, normal, notes)
    unnamed = rows["named"].isna()
    for name in rows.loc[unnamed, CLASS_NAME].unique():
        these = rows.loc[unnamed & (rows[CLASS_NAME] == name), REFERENCE]
        notes.leave(f"boxes of class {name!r}, which is not in the table of classes", list(these))
    rows[BOX_COLUMNS] = _to_files(boxes, rows, part, paths, sizes, notes)
    kept = rows[~bad & ~unnamed.to_numpy()].copy()
    kept[CLASS_NAME] = kept["named"]
    before, after = (set(zip(t[IMAGE_ID], t[RAD_ID], strict=True)) for t in (rows, kept))
    notes.leave("readings that lost all their boxes, so that they are not taken for normal",
                [f"{image} by {reader}" for image, reader in sorted(before - after)])  # fmt: skip
    known = {} if part.rescale else {ids[paths[k]]: s for k, s in part.sizes.items() if k in paths}
    return kept, known


def _upright(
    part: Part, paths: dict[str, Path], sizes: dict[Path, tuple[int, int] | None], notes: Notes
) -> Part:
    """The part with the sizes that its form states, width and height exchanged where a file says so."""
    turned = {
        name: (columns, rows)
        for name, (rows, columns) in part.sizes.items()
        if rows != columns and name in paths and sizes.get(paths[name]) == (columns, rows)
    }
    notes.mend("sizes with width and height the other way round", list(turned))
    return replace(part, sizes=part.sizes | turned)


def _frames(
    rows: pd.DataFrame, part: Part, paths: dict[str, Path], sizes: dict[Path, tuple[int, int] | None]
) -> np.ndarray:
    """Rows and columns of the pixels each row's box is in, NaN where nobody knows."""
    unknown = (np.nan, np.nan)
    measured = {k: sizes.get(path) for k, path in paths.items()}
    by_image = {k: part.sizes.get(k) or measured.get(k) or unknown for k in rows[REFERENCE].unique()}
    return np.array([by_image[k] for k in rows[REFERENCE]], dtype=float).reshape(-1, 2)


def _checked(
    boxes: np.ndarray, frames: np.ndarray, rows: pd.DataFrame, normal_name: str, notes: Notes
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes with corners in order and inside their image, and which rows have none that can be right."""
    normal = (rows["named"] == normal_name).to_numpy(bool)
    shown = (rows[REFERENCE] + " " + rows[CLASS_NAME]).to_numpy()
    bad = np.zeros(len(boxes), dtype=bool)

    def leave(kind: str, mask: np.ndarray) -> None:
        mask = mask & ~bad & ~normal
        notes.leave(kind, list(shown[mask]))
        bad[mask] = True

    drawn = normal & ~np.isnan(boxes).all(axis=1)
    notes.mend("normal rows with a box, which is not used", list(shown[drawn]))
    boxes[normal] = np.nan
    leave("boxes with a coordinate that is no number", np.isinf(boxes).any(axis=1))
    leave("findings without a whole box, or in an image of unknown size", np.isnan(boxes).any(axis=1))
    for low, high in ((0, 2), (1, 3)):
        swapped = np.flatnonzero(~bad & (boxes[:, low] > boxes[:, high]))
        notes.mend("boxes whose corners were the other way round", list(shown[swapped]))
        boxes[swapped, low], boxes[swapped, high] = boxes[swapped, high], boxes[swapped, low]
    limits = np.where(np.isnan(frames), np.inf, frames)[:, [1, 0, 1, 0]]
    inside = np.clip(boxes, 0, limits)
    leave("boxes without an area", np.any(boxes[:, 2:] <= boxes[:, :2], axis=1))
    leave("boxes outside the image", np.any(inside[:, 2:] <= inside[:, :2], axis=1))
    good = ~bad & ~normal
    cut = np.zeros_like(good)
    cut[good] = (np.abs(inside[good] - boxes[good]) > _SLACK_PX).any(axis=1)
    notes.mend("boxes that reach over the image's border, cut there", list(shown[cut]))
    return inside, bad


def _to_files(
    boxes: np.ndarray,
    rows: pd.DataFrame,
    part: Part,
    paths: dict[str, Path],
    sizes: dict[Path, tuple[int, int] | None],
    notes: Notes,
) -> np.ndarray:
    """Boxes in pixels of the files, where these are copies of another size than the form says."""
    if not part.rescale or part.relative:
        return boxes
    factors = {}
    for reference, stated in part.sizes.items():
        size = sizes.get(paths[reference]) if reference in paths else None
        if size is not None and size != stated:
            factors[reference] = [size[1] / stated[1], size[0] / stated[0]] * 2
    notes.mend("images of another size than the form says, boxes scaled along", list(factors))
    same = [1.0] * 4
    return boxes * np.array([factors.get(k, same) for k in rows[REFERENCE]], dtype=float).reshape(-1, 4)


def _unique(table: pd.DataFrame, classes: ClassTable, notes: Notes) -> pd.DataFrame:
    """One row a box and reader, with class ids; no normal row beside a finding."""
    number = {name: i for i, name in enumerate(classes.names)}
    table[CLASS_ID] = table[CLASS_NAME].map(number).astype("int64")
    again = table.duplicated([IMAGE_ID, RAD_ID, CLASS_ID, *BOX_COLUMNS])
    notes.leave("rows that were there before", list(table.loc[again, IMAGE_ID]))
    table = table[~again]
    reading = table[IMAGE_ID] + "\n" + table[RAD_ID]
    normal = table[CLASS_ID] == classes.normal_id
    mixed = normal & reading.isin(set(reading[~normal]))
    notes.leave("normal rows of a reader who found something", list(table.loc[mixed, IMAGE_ID]))
    return table.loc[~mixed, ANNOTATION_COLUMNS].reset_index(drop=True)


def _used(files: dict[str, Path], table: pd.DataFrame | None, notes: Notes, *, keep: bool) -> dict[str, Path]:
    """Training images with a row; the others are counted."""
    named = set() if table is None else set(table[IMAGE_ID])
    without = [image_id for image_id in files if image_id not in named]
    if keep:
        notes.take(
            f"{len(without)} images without a row as they are; nothing is learnt from them"
        ) if without else None
        return files
    notes.leave("training images without a row", without)
    return {image_id: path for image_id, path in files.items() if image_id in named}
