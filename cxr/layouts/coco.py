"""COCO: `images`, `annotations` and `categories` in JSON, one document a part.

`bbox` is x, y, width, height in pixels, corners counted from 0, so that x + width is the exclusive edge.

References:
    https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from cxr.errors import DataError
from cxr.layouts.folder import SourceFolder, read_bytes
from cxr.layouts.layout import ONE_READER, Layout, Notes, Part, Row, normal_row, rows_table
from cxr.layouts.names import is_normal


def recognise(source: SourceFolder) -> bool:
    """A JSON document with `images` and `categories` is there."""
    return bool(_documents(source))


def read(source: SourceFolder, notes: Notes) -> Layout:
    """Read all documents; one whose name or folder says `test` is of the test images.

    All others are to learn from.

    An image without annotations in a document that has some is normal. Crowd annotations are left out.

    Raises:
        DataError: Two documents give one category two names.
    """
    documents = _documents(source)
    names = _categories(documents)
    train: list[Part] = []
    test: list[Part] = []
    for path, document in documents.items():
        folder = _folder(source, path)
        split = "test" if _part_word(source.relative(path)) == "test" else "train"
        part = _part(document, names, folder, source.relative(path), notes)
        (test if split == "test" else train).append(part)
        boxes = "boxes of the" if "annotations" in document else "names of the"
        said = f"'{folder}' " if folder != split else ""
        notes.take(f"{source.relative(path)} for {boxes} {split} images {said}({len(part.images)} images)")
    notes.take(f"all boxes for those of one reader, {ONE_READER}")
    findings = tuple(name for _, name in sorted(names.items()) if not is_normal(name))
    return Layout(tuple(train), tuple(test), tuple(dict.fromkeys(findings)))


def _part_word(relative: str) -> str:
    """The part that a document's name says it is of, else the nearest folder that does; "" for none.

    Words count, not letters: `instances_test2017.json` is of the test images, `latest.json` is not.
    """
    for piece in reversed(relative.lower().split("/")):
        for word in re.findall(r"[a-z]+", piece):
            if word in ("train", "val", "valid", "validation", "test"):
                return word
    return ""


def _folder(source: SourceFolder, path: Path) -> str:
    """Name of the folder of a document's images: the last word of its own name, or where it lies itself."""
    word = path.stem.rpartition("_")[2]
    return word if source.below(word) or path.parent == source.root else path.parent.name


def _documents(source: SourceFolder) -> dict[Path, dict[str, Any]]:
    found = {}
    for path in source.with_suffix(".json"):
        raw = read_bytes(path)
        if b'"images"' not in raw or b'"categories"' not in raw:
            continue
        try:
            document = json.loads(raw)
        except (ValueError, RecursionError):
            continue
        if isinstance(document, dict) and all(
            isinstance(document.get(k), list) for k in ("images", "categories")
        ):
            found[path] = document
    return found


def _categories(documents: dict[Path, dict[str, Any]]) -> dict[int, str]:
    names: dict[int, str] = {}
    for path, document in documents.items():
        for entry in document["categories"]:
            try:
                number, name = int(entry["id"]), str(entry["name"]).strip()
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{path.name}: expected categories with id and name, got {entry!r:.80}"
                ) from error
            if names.setdefault(number, name) != name:
                raise DataError(
                    f"{path.name}: category {number} is {name!r} here and {names[number]!r} elsewhere"
                )
    return names


def _part(document: dict[str, Any], names: dict[int, str], folder: str, where: str, notes: Notes) -> Part:
    files: dict[Any, str] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for image in document["images"]:
        try:
            reference = str(image["file_name"])
            if (key := _key(image["id"])) is None:
                raise TypeError("an id that is no number and no text")
            files[key] = reference
            if int(image.get("height") or 0) > 0 and int(image.get("width") or 0) > 0:
                sizes[reference] = (int(image["height"]), int(image["width"]))
        except (KeyError, TypeError, ValueError):
            notes.leave(f"images of {where} without id or file_name", [f"{image!r:.60}"])
    rows: list[Row] = []
    touched: set[str] = set()
    annotations = document.get("annotations")
    for entry in annotations if isinstance(annotations, list) else []:
        reference = files.get(_key(entry.get("image_id"))) if isinstance(entry, dict) else None
        if reference is None:
            notes.leave(f"annotations of {where} whose image is not listed", [f"{entry!r:.60}"])
            continue
        touched.add(reference)
        box, name = _box(entry.get("bbox")), names.get(_key(entry.get("category_id")))
        shown = f"{reference} annotation {entry.get('id')}"
        if entry.get("iscrowd"):
            notes.leave("crowd annotations", [shown])
        elif name is None:
            notes.leave("annotations whose category is not listed", [shown])
        elif is_normal(name):
            rows.append(normal_row(reference))
        elif box is None:
            notes.leave("annotations without a bbox of four numbers", [shown])
        else:
            rows.append((reference, ONE_READER, name, *box))
    if isinstance(annotations, list):
        rows += [normal_row(reference) for reference in files.values() if reference not in touched]
    return Part(rows_table(rows), tuple(files.values()), folder, sizes)


def _key(value: Any) -> Any:
    """An id that a table can be looked up by; None for a list or a map."""
    return value if isinstance(value, str | int | float) else None


def _box(values: Any) -> tuple[float, float, float, float] | None:
    try:
        x, y, width, height = (float(value) for value in values)
    except (TypeError, ValueError):
        return None
    return x, y, x + width, y + height
