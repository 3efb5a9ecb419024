"""A model card beside exported detectors: what they are, learnt from, score and are not for.

Every figure is read from the run's own files; where one is missing the card says so instead.

References:
    https://huggingface.co/docs/hub/model-cards (front matter, `model-index`); Mitchell et al., "Model Cards
    for Model Reporting", 2019.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from cxr import params, schema
from cxr.errors import DataError
from cxr.files import write_text
from cxr.rundir import PARAMETERS, locate, read_json, read_table
from cxr.schema import ClassTable

log = logging.getLogger("cxr")

CARD = "README.md"
"""Model hubs show the file of this name."""

_MANIFEST = "06_detector/manifest.json"
_ABSENT = "Not recorded in this run"
_NOT_OF_THE_RECIPE = {
    *("run_dir", "data_dir", "accelerator", "devices", "num_nodes"),
    *("num_workers", "cache_mib", "tensorboard"),
}


@dataclass(frozen=True)
class CardDetector:
    """What a card says of one file.

    Attributes:
        file: Its name.
        sha256: Of the file.
        fold: The fold that it has never seen.
        made_from: SHA-256 of the checkpoint.
        architecture: Name of the network.
        image_size: Longer side of the network's image, px.
        parameters: Numbers in the network.
    """

    file: str
    sha256: str
    fold: int
    made_from: str
    architecture: str
    image_size: int
    parameters: int


def write_card(
    run_dir: Path, out: Path, detectors: Sequence[CardDetector], *, classes: ClassTable, format: str
) -> Path:
    """Write the card of a run's exported detectors.

    Args:
        run_dir: Folder of the run.
        out: Folder of the exported files.
        detectors: What was exported; at least one.
        classes: The detectors' classes.
        format: `safetensors` or `onnx`.

    Returns:
        The file written.
    """
    manifest = _json(run_dir / _MANIFEST)
    scores = {
        "validation images": _json(run_dir / schema.EVALUATION_JSON),
        "test images": _json(run_dir / schema.SCORE_JSON),
    }
    name = f"cxr-{detectors[0].architecture}-{_data_name(run_dir)}"
    parts = [
        _front_matter(name, run_dir, scores, detectors),
        f"# {name}\n",
        _introduction(detectors, classes),
        _use(detectors[0].file, format),
        _data(run_dir, detectors, classes),
        _recipe(manifest),
        *(_scores(where, score) for where, score in scores.items()),
        _limits(run_dir),
        _files(detectors, manifest),
    ]
    path = out / CARD
    write_text(path, "\n".join(parts))
    return path


# -- what the run knows ------------------------------------------------------------------------------


def _json(path: Path) -> dict[str, Any]:
    """A JSON file of the run; empty where it is absent or damaged."""
    if not path.is_file():
        return {}
    try:
        return read_json(path)
    except DataError as error:
        log.warning("left out of the model card: %s", error)
        return {}


def _table(path: Path) -> pd.DataFrame | None:
    return read_table(path) if path.is_file() else None


def _data_dir(run_dir: Path) -> Path | None:
    path = run_dir / PARAMETERS
    return locate(str(params.read_file(path)["data_dir"])) if path.is_file() else None


def _is_phantom(run_dir: Path) -> bool:
    folder = _data_dir(run_dir)
    return folder is not None and (folder / "phantom.json").is_file()


def _data_name(run_dir: Path) -> str:
    folder = _data_dir(run_dir)
    return "phantom" if _is_phantom(run_dir) else folder.name if folder else "unknown-data"


# -- parts of the card -------------------------------------------------------------------------------


def _front_matter(
    name: str, run_dir: Path, scores: Mapping[str, Mapping[str, Any]], detectors: Sequence[CardDetector]
) -> str:
    results = []
    for where, score in scores.items():
        metrics = [
            {"type": "map", "name": label, "value": round(float(score[key]), 4)}
            for key, label in (("map_findings", "VOC mAP@0.4, findings"), ("map", "VOC mAP@0.4, all classes"))
            if key in score
        ]
        if metrics:
            results.append(
                {
                    "task": {"type": "object-detection", "name": "Object detection"},
                    "dataset": {"type": _data_name(run_dir), "name": _data_name(run_dir), "split": where},
                    "metrics": metrics,
                }
            )
    front: dict[str, Any] = {
        "language": "en",
        "license": "mit" if _is_phantom(run_dir) else "other",
        "library_name": "cxr",
        "pipeline_tag": "object-detection",
        "tags": ["chest-x-ray", "radiology", "object-detection", detectors[0].architecture],
    }
    if front["license"] == "other":
        front["license_name"] = "terms-of-the-training-data"
    if results:
        front["model-index"] = [{"name": name, "results": results}]
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n"


def _introduction(detectors: Sequence[CardDetector], classes: ClassTable) -> str:
    first = detectors[0]
    return (
        f"A detector of {len(classes.finding_ids)} kinds of findings on frontal chest radiographs: network "
        f"`{first.architecture}`, {first.parameters:,} parameters, images of {first.image_size} px "
        "on the longer side.\n\n"
        "**Not a medical device.** Research software. It has not been checked for use on patients, and must "
        "not decide or support a diagnosis.\n\n"
        f"Classes: {', '.join(f'`{_plain(n)}`' for n in classes.finding_names)}.\n"
    )


def _use(file: str, format: str) -> str:
    how = (
        f"cxr predict {file} FILE_OR_FOLDER... --out found --pictures"
        if format == "safetensors"
        else "import numpy, onnxruntime\n"
        f'net = onnxruntime.InferenceSession("{file}")\n'
        'boxes, scores, class_ids = net.run(None, {"image": image})  # uint8 (rows, columns), white is dense'
    )
    language = "sh" if format == "safetensors" else "python"
    return (
        f"## Use\n\n```{language}\n{how}\n```\n\nBoxes are `x_min, y_min, x_max, y_max` in pixels of the "
        "image given, right and bottom edge exclusive. Scores rank boxes; they are no probabilities.\n"
    )


def _data(run_dir: Path, detectors: Sequence[CardDetector], classes: ClassTable) -> str:
    head = "## Training data\n\n"
    if _is_phantom(run_dir):
        head += "Drawn images of the synthetic phantom. They show no patients, and a score on them says "
        head += "nothing about any.\n\n"
    table, folds = _table(run_dir / schema.CONSENSUS_CSV), _table(run_dir / schema.FOLDS_CSV)
    if table is None or folds is None:
        return f"{head}{_ABSENT}: the fused boxes and folds.\n"
    found = table[(table[schema.CLASS_ID] != classes.normal_id)].dropna(subset=schema.BOX_COLUMNS)
    rows = []
    for detector in detectors:
        seen = set(folds.loc[folds[schema.FOLD] != detector.fold, schema.IMAGE_ID])
        boxes = found[found[schema.IMAGE_ID].isin(seen)]
        with_boxes = boxes[schema.IMAGE_ID].nunique()
        rows.append(
            (detector.file, len(seen), with_boxes, len(seen) - with_boxes, len(boxes), len(folds) - len(seen))
        )
    columns = ("file", "images learnt from", "with findings", "without", "boxes", "images held out")
    counts = found.groupby(schema.CLASS_ID)
    per_class = [
        (_plain(classes.name(i)), len(rows_), rows_[schema.IMAGE_ID].nunique()) for i, rows_ in counts
    ]
    names = ("class", "boxes", "images")
    tables = _markdown(columns, rows), _markdown(names, per_class)
    return f"{head}{tables[0]}\nBoxes of all folds, readers fused:\n\n{tables[1]}"


def _recipe(manifest: Mapping[str, Any]) -> str:
    values = manifest.get("parameters")
    if not isinstance(values, Mapping) or not values:
        return f"## Recipe\n\n{_ABSENT}: the parameters of notebook 06.\n"
    rows = [(f"`{k}`", _setting(k, v)) for k, v in values.items() if k not in _NOT_OF_THE_RECIPE]
    return f"## Recipe\n\n{_markdown(('parameter', 'value'), rows)}"


def _setting(name: str, value: object) -> str:
    """A parameter's value; of a file of weights its name alone, for folders are the trainer's own."""
    text = _plain(Path(value).name if name == "weights" and isinstance(value, str) else value)
    return f"`{text}`" if text else "none"


def _scores(where: str, score: Mapping[str, Any]) -> str:
    head = f"## Scores on {where}\n\n"
    if "map" not in score:
        return f"{head}{_ABSENT}.\n"
    iou = score.get("iou_threshold", 0.4)
    rows = [
        (label, _number(score.get(key)), _interval(score, key))
        for key, label in (
            ("map_findings", f"VOC mAP at IoU > {iou:g} over the findings"),
            ("map", f"VOC mAP at IoU > {iou:g} over all classes, the normal class included"),
            ("froc", "FROC, mean sensitivity at 1/8 to 8 false positives an image"),
            ("auc_abnormal", "AUC, normal or not"),
        )
        if key in score
    ]
    images, boxes = score.get("n_images", "unknown"), score.get("n_truth", "unknown")
    text = f"{head}{images} images, {boxes} boxes of the truth. "
    text += "The scores are of the whole chain, gate included.\n\n"
    text += _markdown(("measure", "value", "95% interval"), rows)
    if score.get("caution"):
        text += f"\nCaution: {_plain(score['caution'])}.\n"
    per_class = [
        (_plain(c.get("class_name")), _number(c.get("ap")), _interval(c, "ap"), c.get("n_truth", ""))
        for c in score.get("per_class", [])
        if isinstance(c, Mapping)
    ]
    if per_class:
        text += "\n" + _markdown(("class", "average precision", "95% interval", "boxes"), per_class)
    return text


def _limits(run_dir: Path) -> str:
    origin = (
        "It has only seen drawn images and cannot be used on radiographs of patients.\n"
        if _is_phantom(run_dir)
        else "It knows the hospitals, devices and readers of its training data and no others.\n"
    )
    return (
        "## Limits\n\n"
        f"- {origin}"
        "- Frontal chest radiographs of adults, one grey frame; anything else gets boxes all the same.\n"
        "- No box is no sign of health: it finds only what it was taught, and misses some of that.\n"
        "- Rare classes are learnt from few boxes; look at their intervals.\n"
        "- The weights may be used and shared only as the terms of the training data allow. "
        "The code is under the MIT licence.\n"
    )


def _files(detectors: Sequence[CardDetector], manifest: Mapping[str, Any]) -> str:
    rows = [(f"`{d.file}`", f"`{d.sha256}`", d.fold, f"`{d.made_from}`") for d in detectors]
    text = f"## Files\n\n{_markdown(('file', 'SHA-256', 'fold held out', 'SHA-256 of the checkpoint'), rows)}"
    versions = manifest.get("versions")
    if isinstance(versions, Mapping) and versions:
        known = ", ".join(f"{_plain(k)} {_plain(v)}" for k, v in versions.items())
        text += f"\nTrained with {known}; revision `{_plain(manifest.get('git_revision') or 'unknown')}`.\n"
    return text


# -- Markdown ----------------------------------------------------------------------------------------


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


def _plain(value: object) -> str:
    """Text of the data as it is: no table cell, markup or line may come from it."""
    text = " ".join(str(value).split())
    return text.translate({ord("|"): "/", ord("`"): "'", ord("<"): "&lt;", ord(">"): "&gt;"})


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) and value == value else ""


def _interval(score: Mapping[str, Any], key: str) -> str:
    low, high = _number(score.get(f"{key}_low")), _number(score.get(f"{key}_high"))
    return f"{low} to {high}" if low and high else ""
