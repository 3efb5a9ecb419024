"""Pascal VOC: one XML document an image.

`xmin` and the rest count pixels from 1 and the last pixel is inside: xmin 1, xmax 10 are the first ten
columns, 0 to 10 with an exclusive edge. Tools that write a 0 count from 0; then the edges are taken as
they stand.

References:
    The PASCAL Visual Object Classes Challenge 2012 Development Kit, section 4.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from cxr.layouts.folder import SourceFolder, read_bytes
from cxr.layouts.layout import ONE_READER, REFERENCE, Layout, Notes, Part, Row, normal_row, rows_table
from cxr.layouts.names import is_normal

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def recognise(source: SourceFolder) -> bool:
    """An XML document whose root is `annotation` is there."""
    return any(b"<annotation" in read_bytes(path)[:2000] for path in source.with_suffix(".xml")[:20])


def read(source: SourceFolder, notes: Notes) -> Layout:
    """Read all documents; `ImageSets/Main/test.txt` names the test images, where it is.

    A document without objects is of a normal image; an image without a document is unknown.
    """
    rows: list[Row] = []
    sizes: dict[str, tuple[int, int]] = {}
    count = 0
    for path in source.with_suffix(".xml"):
        if (root := _root(path, source, notes)) is not None:
            count += 1
            rows += _read_one(root, path, sizes, notes)
    table = rows_table(rows)
    drawn = table.dropna()
    if len(drawn) and (drawn[["x_min", "y_min"]] == 0).any(axis=None):
        notes.take(
            "corners for counted from 0, the right and bottom edge exclusive: some are 0, which VOC has not"
        )
    else:
        table[["x_min", "y_min"]] -= 1
        notes.take("corners for counted from 1, the last pixel inside, as VOC has it")
    notes.take(f"{count} XML documents for the boxes")
    notes.take(f"all boxes for those of one reader, {ONE_READER}")
    stems = table[REFERENCE].map(lambda name: Path(name).stem)
    test = {
        line.split()[0]
        for path in source.named("test.txt")
        for line in read_bytes(path).decode("utf-8", "replace").splitlines()
        if line.strip()
    }
    in_test = stems.isin(test) | table[REFERENCE].isin(test)
    if in_test.any():
        notes.take(f"{source.relative(source.named('test.txt')[0])} for the test images")
    findings = tuple(dict.fromkeys(sorted(name for name in set(table["class_name"]) if not is_normal(name))))
    parts = [Part(table[mask].reset_index(drop=True), sizes=sizes) for mask in (~in_test, in_test)]
    return Layout((parts[0],), (parts[1],) if in_test.any() else (), findings)


def _root(path: Path, source: SourceFolder, notes: Notes) -> ElementTree.Element | None:
    raw = read_bytes(path)
    try:
        # A document that declares entities may grow without bound when it is read; none of VOC has any.
        root = None if b"<!ENTITY" in raw else ElementTree.fromstring(raw)
    except (ElementTree.ParseError, ValueError, LookupError):
        root = None
    if root is None or root.tag != "annotation":
        notes.leave("XML documents that are no VOC annotation", [source.relative(path)])
        return None
    return root


def _read_one(
    root: ElementTree.Element, path: Path, sizes: dict[str, tuple[int, int]], notes: Notes
) -> list[Row]:
    reference = (root.findtext("filename") or path.stem).strip() or path.stem
    try:
        size = (int(root.findtext("size/height") or 0), int(root.findtext("size/width") or 0))
    except ValueError:
        size = (0, 0)
    if min(size) > 0:
        sizes[reference] = size
    rows = []
    objects = root.findall("object")
    for thing in objects:
        name = (thing.findtext("name") or "").strip()
        try:
            box = [float(thing.findtext(f"bndbox/{corner}") or "") for corner in _CORNERS]
        except ValueError:
            box = []
        if is_normal(name):
            rows.append(normal_row(reference))
        elif not box or not name:
            notes.leave("objects without a name or four corners", [path.name])
        else:
            rows.append((reference, ONE_READER, name, box[0], box[1], box[2], box[3]))
    return rows if objects else [normal_row(reference)]
