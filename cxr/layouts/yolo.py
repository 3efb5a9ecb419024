"""YOLO: `data.yaml`, images, and beside each image folder one of text files: class, centre, size.

The numbers are shares of the image's width and height, so a box is exact to half a pixel at the six digits
that tools write.

References:
    https://docs.ultralytics.com/datasets/detect/
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from cxr.errors import DataError
from cxr.layouts.folder import SourceFolder, read_bytes
from cxr.layouts.layout import ONE_READER, Layout, Notes, Part, Row, normal_row, rows_table
from cxr.layouts.names import is_normal


def recognise(source: SourceFolder) -> bool:
    """A YAML file that names classes and a folder of training images is there."""
    return _description(source) is not None


def read(source: SourceFolder, notes: Notes) -> Layout:
    """Read all parts of `data.yaml`; `train` and `val` are to learn from, `test` is to answer for.

    An image without a text file, or with an empty one, is normal, as YOLO's tools have it. Where no test
    image has a text file, the truth of the test images is unknown.

    Raises:
        DataError: There is no such file, or `names` is no list or map of names.
    """
    described = _description(source)
    if described is None:
        raise DataError(f"{source.root}: expected a YAML file with names and train")
    path, content = described
    names = _names(content.get("names"), path)
    notes.take(f"{source.relative(path)} for the classes and folders")
    notes.take(f"all boxes for those of one reader, {ONE_READER}")
    parts: dict[str, list[Part]] = {"train": [], "test": []}
    seen: set[Path] = set()  # some name one folder for two parts
    for key in ("train", "val", "valid", "test"):
        images = [i for i in _images_of(source, path, content, key, notes) if i not in seen]
        seen.update(images)
        if images:
            parts["test" if key == "test" else "train"].append(_part(source, images, names, key, notes))
    findings = tuple(dict.fromkeys(name for _, name in sorted(names.items()) if not is_normal(name)))
    return Layout(tuple(parts["train"]), tuple(parts["test"]), findings)


def _description(source: SourceFolder) -> tuple[Path, dict[str, Any]] | None:
    for path in source.with_suffix(".yaml", ".yml"):
        try:
            content = yaml.safe_load(read_bytes(path))
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError):
            continue
        if isinstance(content, dict) and "names" in content and ("train" in content or "val" in content):
            return path, content
    return None


def _names(names: Any, path: Path) -> dict[int, str]:
    if isinstance(names, list):
        names = dict(enumerate(names))
    try:
        return {int(number): str(name).strip() for number, name in names.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f"{path.name}: expected names as a list or a map from numbers, got {names!r:.60}"
        ) from error


def _images_of(
    source: SourceFolder, path: Path, content: dict[str, Any], key: str, notes: Notes
) -> list[Path]:
    """Images of the folders, or of the text files that list them, which `data.yaml` names for a part."""
    entries = content.get(key) or []
    found: list[Path] = []
    for entry in entries if isinstance(entries, list) else [entries]:
        place = _place(source, path, str(content.get("path") or ""), str(entry))
        if place is None:
            notes.leave(f"folders that {path.name} names and that are not here", [str(entry)])
        elif place.is_dir():
            found += [image for image in source.images if place in image.parents]
        else:
            lines = read_bytes(place).decode("utf-8", "replace").split("\n")
            listed = [(line.strip(), source.find(line)[0]) for line in lines if line.strip()]
            found += [image for _, image in listed if image is not None]
            notes.leave("listed images without a file", [line for line, image in listed if image is None])
    notes.take(f"{key}: {len(found)} images") if found else None
    return list(dict.fromkeys(found))


def _place(source: SourceFolder, path: Path, base: str, entry: str) -> Path | None:
    """A folder or list, looked for where YOLO's tools do, below the source folder alone."""
    for start in (path.parent / base, path.parent):
        # Some tools write paths from a folder beside data.yaml ("../train/images").
        for name in (entry, entry.removeprefix("../")):
            place = Path(os.path.normpath(start / name))
            inside = place == source.root or source.root in place.parents
            if inside and (place.is_dir() or place.is_file()):
                return place
    return None


def _part(source: SourceFolder, images: list[Path], names: dict[int, str], key: str, notes: Notes) -> Part:
    rows: list[Row] = []
    texts = {source.relative(text): text for text in source.with_suffix(".txt")}
    labels = {image: texts.get(_label_name(source.relative(image))) for image in images}
    unknown = [source.relative(image) for image, label in labels.items() if label is None]
    if key == "test" and len(unknown) == len(images):
        notes.take("the test images for images without a truth: none has a text file")
    else:
        for image, label in labels.items():
            reference = source.relative(image)
            lines = read_bytes(label).decode("utf-8", "replace").splitlines() if label else []
            lines = [line.split() for line in lines if line.strip()]
            rows += [row for line in lines if (row := _row(line, reference, names, notes))]
            rows += [] if lines else [normal_row(reference)]
        if unknown:
            notes.take(
                f"{len(unknown)} images without a text file ({unknown[0]} first) for normal, "
                "as YOLO's tools do"
            )
    return Part(rows_table(rows), tuple(map(source.relative, images)), key, relative=True)


def _label_name(image: str) -> str:
    """Where the boxes of an image are: the last folder `images` becomes `labels`, as YOLO's tools have it."""
    folders, _, name = image.rpartition("/")
    words = folders.split("/")
    if "images" in words:
        last = len(words) - 1 - words[::-1].index("images")
        words[last] = "labels"
    return "/".join([*filter(None, words), f"{Path(name).stem}.txt"])


def _row(line: list[str], reference: str, names: dict[int, str], notes: Notes) -> Row | None:
    try:
        number, values = float(line[0]), [float(value) for value in line[1:]]
    except ValueError:
        number, values = -1.0, []
    if len(values) == 5:
        notes.mend("labels with a score, which is not used", [reference])
        values = values[:4]
    if len(values) > 5 and len(values) % 2 == 0:
        notes.mend("outlines, taken as the box around them", [reference])
        x, y = values[::2], values[1::2]
        edges = (min(x), min(y), max(x), max(y))
    elif len(values) == 4:
        x_centre, y_centre, width, height = values
        edges = (x_centre - width / 2, y_centre - height / 2, x_centre + width / 2, y_centre + height / 2)
    else:
        notes.leave("labels that are not a class and four numbers", [reference])
        return None
    name = names.get(int(number)) if number.is_integer() else None
    if name is None:
        notes.leave("labels whose class is not in data.yaml", [reference])
        return None
    return normal_row(reference) if is_normal(name) else (reference, ONE_READER, name, *edges)
