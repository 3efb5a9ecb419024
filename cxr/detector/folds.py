"""Train one detector a fold: skip what is trained, go on with what was interrupted."""

from __future__ import annotations

import inspect
import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cxr import schema
from cxr.detector.checkpoint import is_detector
from cxr.detector.keeper import BEST, LAST, METRICS
from cxr.detector.keys import recipe_key, training_key
from cxr.detector.labels import needs_readers
from cxr.detector.launch import is_first_process
from cxr.detector.training import train_detector
from cxr.errors import ParameterError
from cxr.rundir import RunDir, locate, write_json
from cxr.schema import ClassTable
from cxr.store import ImageStore

log = logging.getLogger("cxr")

STATE = "training.json"
REPLACED = "replaced"
"""Folder beside those of the folds for trainings that another has replaced."""
FOLD_FIELD = "{fold}"
"""Stands for the number of the fold in a path of weights."""
_PER_FOLD = {
    "source",
    "targets",
    "train_ids",
    "val_ids",
    "out_dir",
    "classes",
    "resume",
    "run_key",
    "progress",
}


def recipe_names() -> tuple[str, ...]:
    """Names a recipe may set: the arguments of `train_detector` that are the same for every fold."""
    names = inspect.signature(train_detector).parameters
    return tuple(name for name in names if name not in _PER_FOLD)


def fold_folder(out_dir: Path, fold: int) -> Path:
    """Folder of one fold's checkpoints."""
    return out_dir / f"fold{fold}"


def best_checkpoints(out_dir: Path) -> dict[int, Path]:
    """Best checkpoint of every fold trained below `out_dir`, by fold."""
    found = sorted(out_dir.glob(f"fold*/{BEST}"), key=lambda path: int(path.parent.name[4:]))
    return {int(path.parent.name[4:]): path for path in found}


def chosen_checkpoints(out_dir: Path, chosen: Sequence[str]) -> list[Path]:
    """Files of the detectors to use.

    Args:
        out_dir: Folder of the checkpoints that notebook 06 wrote.
        chosen: Paths, `{fold}` standing for each fold trained there; empty for those of notebook 06.
    """
    trained = best_checkpoints(out_dir)
    if not chosen:
        return list(trained.values())
    expanded = [
        path.replace(FOLD_FIELD, str(fold))
        for path in chosen
        for fold in (trained if FOLD_FIELD in path else [0])
    ]
    return [locate(path) for path in expanded]


def checkpoints_by_fold(files: Sequence[Path]) -> dict[int, list[Path]]:
    """Detectors by the fold that they have not seen, which the name of their folder tells.

    Raises:
        ParameterError: A file lies in no such folder, so nobody knows what it has seen.
    """
    found: dict[int, list[Path]] = {}
    for path in files:
        if not re.fullmatch(r"fold\d+", path.parent.name):
            raise ParameterError(
                f"checkpoints: {path} is not in a folder such as fold0, which says what it has not seen; "
                "without that it cannot be judged"
            )
        found.setdefault(int(path.parent.name[4:]), []).append(path)
    return dict(sorted(found.items()))


def train_folds(
    store: ImageStore,
    targets: pd.DataFrame,
    folds: pd.DataFrame,
    out_dir: Path,
    *,
    classes: ClassTable,
    train_folds: Sequence[int],
    recipe: Mapping[str, Any],
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Train a detector for each fold on the images of all other folds.

    A fold whose training has finished with the same data and recipe is kept, on however many
    devices it ran (`keys.ANYWHERE`); one that was interrupted goes on from its last checkpoint;
    anything else starts anew, and what was trained before moves to the folder `REPLACED`. All
    processes of a distributed training decide alike, because they decide by the checkpoint alone.

    Args:
        store: Images by `image_id`.
        targets: Fused or readers' boxes in original pixels.
        folds: `image_id, fold`.
        out_dir: Folder for one folder a fold.
        classes: The data set's classes.
        train_folds: Folds to hold out, one training each.
        recipe: Arguments of `train_detector` by name, see `recipe_names`; `{fold}` in the path of
            the weights stands for the fold.
        progress: Called with optimiser steps done and in all, fold by fold.

    Returns:
        The rows of all folds' `metrics.csv`, with a column `fold` in front.

    Raises:
        ParameterError: A fold that is not there, a name that `train_detector` does not have, or weights
            that have seen images held out from them.
    """
    if unknown := set(recipe) - set(recipe_names()):
        raise ParameterError(f"recipe: train_detector has no {', '.join(sorted(unknown))}")
    _check_weights(str(recipe.get("weights", "")), train_folds)
    if not train_folds:
        raise ParameterError("train_folds: expected at least one fold to hold out, got none")
    there = sorted(folds[schema.FOLD].unique().tolist())
    if missing := sorted(set(train_folds) - set(there)):
        raise ParameterError(f"train_folds: expected some of {there}, got {missing}")
    stored = folds[folds[schema.IMAGE_ID].isin(set(store.ids))]
    tables = []
    for fold in train_folds:
        held_out = stored[schema.FOLD] == fold
        train_ids = stored.loc[~held_out, schema.IMAGE_ID].tolist()
        val_ids = stored.loc[held_out, schema.IMAGE_ID].tolist()
        folder = fold_folder(out_dir, fold)
        used = {**recipe, "weights": str(recipe.get("weights", "")).replace(FOLD_FIELD, str(fold))}
        key = recipe_key(store, targets, train_ids, val_ids, classes, used, train=train_detector)
        if _finished(folder) == key and (folder / BEST).is_file():
            log.info("fold %d: already trained on the same data with the same recipe", fold)
        else:
            log.info("fold %d: %d images to learn from, %d held out", fold, len(train_ids), len(val_ids))
            resume = training_key(folder / LAST) == key
            if not resume:
                _move_aside(folder)
            train_detector(
                store,
                targets,
                train_ids,
                val_ids,
                folder,
                classes=classes,
                resume=resume,
                run_key=key,
                progress=progress,
                **used,
            )
            write_json(folder / STATE, {"finished": key})
        table = pd.read_csv(folder / METRICS)
        table.insert(0, schema.FOLD, fold)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def train_run(
    run: RunDir,
    values: Mapping[str, Any],
    *,
    classes: ClassTable,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Notebook 06's work on the artefacts of a run: train every fold, write `metrics.csv`.

    Args:
        run: The run, seen from notebook 06.
        values: The parameters of notebook 06 by name. Those with a name of `recipe_names` go
            to `train_detector`; `detector_image_size` is its `image_size`.
        classes: The data set's classes.
        progress: Called with optimiser steps done and in all, fold by fold.

    Returns:
        As `train_folds`.

    Raises:
        DataError: An earlier notebook has not run.
    """
    recipe = {name: values[name] for name in recipe_names() if name in values and name != "image_size"}
    recipe["image_size"] = values["detector_image_size"]
    if recipe["weights"] not in ("", "torchvision"):
        recipe["weights"] = str(locate(recipe["weights"]))
    by_reader = needs_readers(recipe["label_mode"], recipe["readers"], recipe["skip_readers"])
    table = train_folds(
        ImageStore(run.input(schema.IMAGES_DIR)),
        read_targets(run, by_reader=by_reader),
        run.read_csv(schema.FOLDS_CSV),
        run.output(schema.CHECKPOINTS_DIR),
        classes=classes,
        train_folds=values["train_folds"],
        recipe=recipe,
        progress=progress,
    )
    run.write_csv(table, schema.DETECTOR_METRICS_CSV)
    return table


def read_targets(run: RunDir, *, by_reader: bool) -> pd.DataFrame:
    """Boxes to learn from: every reader's own, or the fused ones."""
    artefact = schema.TRAIN_FULL_CSV if by_reader else schema.CONSENSUS_CSV
    return run.read_csv(artefact)


def _check_weights(weights: str, train_folds: Sequence[int]) -> None:
    """Refuse a detector of one fold as the start of another's: it knows the images held out there."""
    path = Path(weights)
    if len(train_folds) > 1 and FOLD_FIELD not in weights and path.is_file() and is_detector(path):
        raise ParameterError(
            f"weights: {path} is a detector trained here, and it has seen images that some of the folds "
            f"{list(train_folds)} hold out; give each its own, with {FOLD_FIELD} in the path"
        )


def _move_aside(folder: Path) -> None:
    """Keep a training that another is about to replace: it may have taken hours."""
    if not (folder / BEST).is_file() or not is_first_process():
        return
    home = folder.parent / REPLACED
    number = len(list(home.glob(f"{folder.name}_*")))
    target = home / f"{folder.name}_{number}"
    target.mkdir(parents=True)
    for path in folder.iterdir():
        os.replace(path, target / path.name)
    log.warning("%s was trained with other data or parameters; it is kept in %s", folder.name, target)


def _finished(folder: Path) -> str:
    """Key of the training that finished in a folder; "" where none has."""
    try:
        return str(json.loads((folder / STATE).read_text(encoding="utf-8"))["finished"])
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return ""
