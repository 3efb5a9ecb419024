"""NIH ChestX-ray14: boxes of 880 images in `BBox_List_2017.csv`.

Boxes are x, y, width, height in pixels of the 1024 x 1024 PNG files, corners counted from 0.
"""

from __future__ import annotations

import pandas as pd

from cxr.errors import AnnotationError
from cxr.layouts.folder import SourceFolder, read_bytes
from cxr.layouts.layout import ONE_READER, REFERENCE, Layout, Notes, Part, normal_row, rows_table
from cxr.layouts.loose import numbers, read_loose
from cxr.layouts.names import is_normal
from cxr.schema import CLASS_NAME, RAD_ID

BOXES = "bbox_list_2017.csv"
LABELS = ("data_entry_2017.csv", "data_entry_2017_v2020.csv")
_COLUMNS = [REFERENCE, CLASS_NAME, "x", "y", "width", "height"]


def recognise(source: SourceFolder) -> bool:
    """`BBox_List_2017.csv` is there."""
    return bool(source.named(BOXES))


def read(source: SourceFolder, notes: Notes) -> Layout:
    """Read the boxes, and the normal images where `Data_Entry_2017.csv` names them.

    Images with a finding and no box are left out: what is on them is known, where it is is not.
    `test_list.txt` is followed only where it leaves boxes to learn from.

    Raises:
        AnnotationError: The table has fewer than six columns, or `Data_Entry_2017.csv` fewer than two.
    """
    path = source.named(BOXES)[0]
    # The header's last column, "Bbox [x,y,w,h]", holds commas, so columns go by their place.
    table = read_loose(path, notes)
    if table.shape[1] < len(_COLUMNS):
        raise AnnotationError(
            f"{path.name}: expected image, finding, x, y, w, h, got {table.shape[1]} columns"
        )
    table = table.iloc[:, : len(_COLUMNS)].set_axis(_COLUMNS, axis=1)
    values = numbers(table, _COLUMNS[2:], path, notes)
    rows = pd.DataFrame({REFERENCE: table[REFERENCE], RAD_ID: ONE_READER, CLASS_NAME: table[CLASS_NAME]})
    rows["x_min"], rows["y_min"] = values["x"], values["y"]
    rows["x_max"], rows["y_max"] = values["x"] + values["width"], values["y"] + values["height"]
    notes.take(f"{source.relative(path)} for boxes as x, y, width, height")
    notes.take(f"all boxes for those of one reader, {ONE_READER}")
    normal = _normal_images(source, set(rows[REFERENCE]), notes)
    if normal:
        rows = pd.concat([rows, rows_table([normal_row(image) for image in normal])], ignore_index=True)
    in_test = rows[REFERENCE].isin(_listed(source, "test_list.txt"))
    if in_test.any() and not rows.loc[~in_test, "x_min"].notna().any():
        # NIH's own list is one for image labels: the images with boxes are all in it.
        notes.take("all images to learn from: test_list.txt names every image that has a box")
        in_test[:] = False
    elif in_test.any():
        notes.take("test_list.txt for the test images; of these, the ones with a box or normal are used")
    findings = tuple(sorted(set(table[CLASS_NAME]) - {""}))
    parts = [Part(rows[mask].reset_index(drop=True)) for mask in (~in_test, in_test)]
    return Layout((parts[0],), (parts[1],) if in_test.any() else (), findings)


def _normal_images(source: SourceFolder, boxed: set[str], notes: Notes) -> list[str]:
    paths = source.named(*LABELS)
    if not paths:
        notes.take("images without a box for unknown, not for normal: there is no Data_Entry_2017.csv")
        return []
    table = read_loose(paths[0], notes)
    if table.shape[1] < 2:
        raise AnnotationError(f"{paths[0].name}: expected image and findings, got {table.shape[1]} columns")
    names, labels = table.iloc[:, 0], table.iloc[:, 1]
    normal = [
        name for name, label in zip(names, labels, strict=True) if is_normal(label) and name not in boxed
    ]
    notes.take(f"'No Finding' in {source.relative(paths[0])} for normal images")
    here = [name for name in normal if source.find(name)[0] is not None or not source.images]
    notes.leave(
        "normal images of Data_Entry_2017.csv that are not in the folder",
        [n for n in normal if n not in set(here)],
    )
    unplaced = [n for n, label in zip(names, labels, strict=True) if not is_normal(label) and n not in boxed]
    notes.leave("images with a finding but no box", unplaced)
    return here


def _listed(source: SourceFolder, name: str) -> set[str]:
    paths = source.named(name)
    return set(read_bytes(paths[0]).decode("utf-8", "replace").split()) if paths else set()
