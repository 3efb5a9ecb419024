"""From material to one HTML page that needs nothing else; docs/viewer.md says what was weighed."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from cxr.errors import DataError
from cxr.files import write_text
from cxr.plots.images import ImageSource
from cxr.schema import BOX_COLUMNS, CLASS_ID, IMAGE_ID, RAD_ID, SCORE, ClassTable
from cxr.viewer.gather import IOU_THRESHOLD, SCORE_SHOWN, Material
from cxr.viewer.outcomes import HIT_SCORE, KIND, KINDS, how_wrong, judge
from cxr.viewer.pictures import SIXTEEN_BIT, Picture, Reduction, fit

MOST_BOXES = 60
"""Detections of an image that go into the page, the best scored."""

BUDGET_BYTES = 52_000_000
NOTEBOOK_IMAGES = 8
NOTEBOOK_BYTES = 600_000
"""An executed notebook holds the page once more, as text in JSON."""

_FOLDER = Path(__file__).parent
_FRAME = '<div><iframe srcdoc="{}" style="width:100%;height:{}px;border:0" title="{}"></iframe></div>'


@dataclass(frozen=True)
class Page:
    """A finished page; a notebook shows it as the value of a cell.

    Attributes:
        html: The whole document.
        title: What it is about.
        images: Number of images in it.
        left_out: Reason of each image that could not be read.
        height_px: Its height in a notebook.
    """

    html: str
    title: str
    images: int
    left_out: dict[str, str]
    height_px: int = 640

    def write(self, path: Path) -> None:
        """Write the page, complete or not at all."""
        write_text(path, self.html)

    def _repr_html_(self) -> str:
        return _FRAME.format(html.escape(self.html), self.height_px, html.escape(self.title))


def notebook_page(
    source: ImageSource,
    image_ids: Sequence[str],
    *,
    classes: ClassTable,
    title: str = "images",
    readers: pd.DataFrame | None = None,
    truth: pd.DataFrame | None = None,
    detections: pd.DataFrame | None = None,
    score_threshold: float = SCORE_SHOWN,
    iou_threshold: float = IOU_THRESHOLD,
    images: int = NOTEBOOK_IMAGES,
) -> Page:
    """A small page as the value of a notebook's cell; `Material` says what the tables hold.

    Args:
        source: Where the images are.
        image_ids: Images to choose from, see `make_page`.
        classes: The data set's classes.
        title: What the page is about.
        readers: Every reader's boxes.
        truth: Fused boxes.
        detections: Detected boxes.
        score_threshold: Score from which detections are shown at first.
        iou_threshold: IoU above which a detection hits.
        images: Most images in the page; few, since the executed notebook carries them.

    Returns:
        The page; its pixels are reduced to some 0.6 MB.
    """
    material = Material(
        title,
        classes,
        source,
        {"images": list(image_ids)},
        readers,
        truth,
        detections,
        score_threshold,
        iou_threshold,
    )
    return make_page(material, images=images, budget_bytes=NOTEBOOK_BYTES)


def make_page(
    material: Material,
    *,
    images: int,
    budget_bytes: int = BUDGET_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> Page:
    """Choose the images, reduce their pixels, judge the boxes and put all into one document.

    Where there are more images than asked for, each part of the data gives the same number, and of
    each part the first are taken by: how wrong they are (`outcomes.how_wrong`); without truth, their
    best score; without detections, how many fused boxes the readers do not share; else as they come.

    Args:
        material: What there is.
        images: Most images in the page.
        budget_bytes: Most characters of all pictures together.
        progress: Called with images done and in all.

    Returns:
        The page.

    Raises:
        DataError: There is no image, or none can be read.
    """
    all_ids = {image_id for ids in material.parts.values() for image_id in ids}
    if not all_ids:
        raise DataError(f"{material.title}: no images to show")
    readers = _of(material.readers, all_ids)
    found, true, judged = _judged(material, all_ids)
    parts = _chosen(material, found, true, judged, images)
    chosen = [image_id for ids in parts.values() for image_id in ids]
    pictures, failed, reduction = fit(chosen, material.source, budget_bytes=budget_bytes, progress=progress)
    if not pictures:
        raise DataError(f"{material.title}: none of {len(chosen)} images can be read; {failed[chosen[0]]}")
    tables = _Tables(material, readers, found, true, judged)
    data = tables.as_dict(pictures, {image_id: name for name, ids in parts.items() for image_id in ids})
    data["bits"] = 16 if reduction in SIXTEEN_BIT else 8
    data["facts"] = _facts(pictures, failed, reduction, len(all_ids))
    return Page(_render(material.title, data, pictures), material.title, len(pictures), failed)


def _judged(material: Material, ids: set[str]) -> tuple[pd.DataFrame | None, pd.DataFrame | None, set[str]]:
    """Detections and truth with what became of them, and the images on which both are known."""
    found, true = _of(material.detections, ids), _of(material.truth, ids)
    if found is not None:
        found = found[found[CLASS_ID].isin(material.classes.finding_ids)]
        found = found.sort_values(SCORE, ascending=False, kind="stable").groupby(IMAGE_ID).head(MOST_BOXES)
    if found is None or true is None:
        return found, true, set()
    judged = set(true[IMAGE_ID])
    kinds, scores = judge(
        found,
        true,
        image_ids=sorted(judged),
        classes=material.classes,
        iou_threshold=material.iou_threshold,
    )
    return pd.concat([kinds, found[~found[IMAGE_ID].isin(judged)]], ignore_index=True), scores, judged


def _of(table: pd.DataFrame | None, ids: set[str]) -> pd.DataFrame | None:
    return None if table is None else table[table[IMAGE_ID].isin(ids)].reset_index(drop=True)


def _chosen(
    material: Material,
    found: pd.DataFrame | None,
    true: pd.DataFrame | None,
    judged: set[str],
    images: int,
) -> dict[str, list[str]]:
    """Images by part, those a person should see first at the head."""
    order = pd.Series(dtype=float)
    if judged and found is not None:
        order = how_wrong(found[found[IMAGE_ID].isin(judged)], true, material.score_threshold)
    elif found is not None:
        order = found.groupby(IMAGE_ID)[SCORE].max()
    elif true is not None and "agreement" in true:
        order = (1 - true["agreement"]).groupby(true[IMAGE_ID]).sum()
    each = max(1, images // max(1, len(material.parts)))
    return {
        name: sorted(dict.fromkeys(ids), key=lambda image_id: -order.get(image_id, 0.0))[:each]
        for name, ids in material.parts.items()
    }


@dataclass(frozen=True)
class _Tables:
    """The tables of a page, to be cut into images."""

    material: Material
    readers: pd.DataFrame | None
    found: pd.DataFrame | None
    true: pd.DataFrame | None
    judged: set[str]

    def as_dict(self, pictures: Sequence[Picture], parts: dict[str, str]) -> dict[str, Any]:
        """What the script of the page reads, as JSON holds it."""
        classes = self.material.classes
        names = sorted(self.readers[RAD_ID].unique()) if self.readers is not None else []
        return {
            "title": self.material.title,
            "classes": [[name, classes.color(i)] for i, name in enumerate(classes.finding_names)],
            "readers": names,
            "kinds": KINDS,
            "has": {
                "readers": self.readers is not None,
                "truth": self.true is not None,
                "found": self.found is not None,
                "judged": bool(self.judged),
            },
            "score": self.material.score_threshold,
            "iou": self.material.iou_threshold,
            "images": self._images(pictures, parts, {name: i for i, name in enumerate(names)}),
        }

    def _images(
        self, pictures: Sequence[Picture], parts: dict[str, str], reader_places: dict[str, int]
    ) -> list[dict[str, Any]]:
        readers, true, found = (_by_image(table) for table in (self.readers, self.true, self.found))
        images = []
        for picture in pictures:
            rows, columns = self.material.source.original_size(picture.image_id)
            image: dict[str, Any] = {
                "id": picture.image_id,
                "part": parts[picture.image_id],
                "size": [int(columns), int(rows)],
                "judged": picture.image_id in self.judged,
            }
            if (table := readers.get(picture.image_id)) is not None:
                image["read"] = sorted({reader_places[name] for name in table[RAD_ID]})
                drawn = table.dropna(subset=BOX_COLUMNS)
                image["readers"] = _rows(drawn, drawn[RAD_ID].map(reader_places))
            if (table := true.get(picture.image_id)) is not None:
                drawn = table.dropna(subset=BOX_COLUMNS)
                image["truth"] = _rows(
                    drawn,
                    *(_column(drawn, name) for name in ("n_readers", "agreement", HIT_SCORE)),
                )
            if (table := found.get(picture.image_id)) is not None:
                kinds = _column(table, KIND)
                image["found"] = _rows(
                    table, table[SCORE], kinds.map({kind: i for i, kind in enumerate(KINDS)})
                )
            images.append(image)
        return images


def _by_image(table: pd.DataFrame | None) -> dict[str, pd.DataFrame]:
    return {} if table is None else dict(tuple(table.groupby(IMAGE_ID)))


def _column(table: pd.DataFrame, name: str) -> pd.Series:
    return table[name] if name in table else pd.Series(np.nan, index=table.index)


def _rows(table: pd.DataFrame, *more: pd.Series) -> list[list[float | int | None]]:
    """Four edges, class and further numbers of each box, short in JSON; what is no number as None."""
    columns = [*(table[name].round(1) for name in BOX_COLUMNS), table[CLASS_ID].astype(int)]
    columns += [values.astype(float).round(4) for values in more]
    return [[None if value != value else value for value in row] for row in zip(*columns, strict=True)]


def _facts(
    pictures: Sequence[Picture], failed: dict[str, str], reduction: Reduction, there_are: int
) -> list[str]:
    """What a reader of the page must know about its pixels and its choice."""
    loss = "without loss" if reduction.quality > 100 else f"as WebP of quality {reduction.quality}"
    facts = [
        f"Pixels are reduced: longer side at most {reduction.longest_side} px, stored {loss}. "
        "Boxes are in pixels of the original image. Not for diagnosis."
    ]
    if len(pictures) < there_are:
        facts.append(f"{len(pictures)} of {there_are} images are in this page.")
    if failed:
        first = next(iter(failed))
        facts.append(f"{len(failed)} images cannot be read, {first} first: {failed[first]}")
    return facts


def _render(title: str, data: dict[str, Any], pictures: Sequence[Picture]) -> str:
    template, style, script = (
        (_FOLDER / name).read_text(encoding="utf-8") for name in ("viewer.html.j2", "viewer.css", "viewer.js")
    )
    return (
        jinja2.Environment(autoescape=True)
        .from_string(template)
        .render(title=title, data=data, pictures=pictures, style=style, script=script)
    )
