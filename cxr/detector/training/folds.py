"""Train one detector a fold: skip what is trained, go on with what was interrupted."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd

from cxr import annotations as ann
from cxr import schema
from cxr.detector.checkpoints.files import is_detector
from cxr.detector.checkpoints.run import BEST, FOLD_FIELD, LAST, METRICS, fold_folder
from cxr.detector.recipe import Labels, Recipe, names_file
from cxr.detector.training.identity import key_of, run_key
from cxr.detector.training.keeper import kept_rows, write_metrics
from cxr.detector.training.launch import is_first_process
from cxr.detector.training.train import train_detector
from cxr.errors import CheckpointError, ParameterError, PausedError
from cxr.files import check_sha256, sidecar
from cxr.recipes import changed, from_values
from cxr.rundir import RunDir, alone, locate, write_json
from cxr.schema import ClassTable
from cxr.splits import check_held_out, read_folds
from cxr.store import ImageStore

log = logging.getLogger("cxr")

STATE = "training.json"
REPLACED = "replaced"
"""Folder beside those of the folds for trainings that another has replaced."""

_MOMENT = 1e-6
"""Minutes: pause after the first epoch."""


def train_each_fold(
    store: ImageStore,
    targets: pd.DataFrame,
    folds: pd.DataFrame,
    out_dir: Path,
    *,
    recipe: Recipe,
    held_out: Sequence[int],
    classes: ClassTable,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Train a detector for each fold on the images of all other folds.

    A fold whose training has finished with the same data and recipe is kept, on however many
    devices it ran; one that was interrupted goes on from its last checkpoint, and so does one that
    ended for want of time when `max_minutes` has grown; anything else starts anew, and what was
    trained before moves to the folder `REPLACED`. All processes of a distributed training decide
    alike, because they decide by files alone.

    Args:
        store: Images by `image_id`.
        targets: Fused or readers' boxes in original pixels.
        folds: `image_id, fold`.
        out_dir: Folder for one folder a fold.
        recipe: How each detector is trained; `{fold}` in the path of the weights stands for the fold.
        held_out: Folds to hold out, one training each.
        classes: The data set's classes.
        progress: Called with optimiser steps done and in all, fold by fold.

    Returns:
        The rows of all folds' `metrics.csv`, with a column `fold` in front.

    Raises:
        ParameterError: A fold that is not there, or weights that have seen images held out from them.
        PausedError: `pause_minutes` are over before all is trained.
    """
    started = time.monotonic()
    check_held_out(held_out, folds[schema.FOLD].unique().tolist())
    check_start(recipe.network.weights, held_out)
    stored = folds[folds[schema.IMAGE_ID].isin(set(store.ids))]
    tables = []
    trained = False  # in this call
    for fold in held_out:
        train_ids, val_ids = split_ids(stored, fold)
        folder = fold_folder(out_dir, fold)
        own = changed(recipe, weights=recipe.network.weights.replace(FOLD_FIELD, str(fold)))
        key = run_key(store, targets, train_ids, val_ids, classes, own)
        _bring_back(folder, key, own.schedule.max_minutes)
        whole = _is_whole(folder / BEST)
        if whole and _is_finished(folder, key, own.schedule.max_minutes) and _has_metrics(folder):
            log.info("fold %d: already trained on the same data with the same recipe", fold)
            _drop_damaged_last(folder)
        else:
            log.info("fold %d: %d images to learn from, %d held out", fold, len(train_ids), len(val_ids))
            # The best state is written before the last one, so that without it the last says too little.
            resume = whole and _is_whole(folder / LAST) and key_of(folder / LAST) == key
            if not resume:
                other = key_of(folder / BEST) not in ("", key)
                _move_aside(
                    folder,
                    "was trained with other data or parameters" if other else "is damaged or incomplete",
                )
            left = _left(recipe, started)
            if trained and left < 0:
                raise PausedError(f"paused before fold {fold}; the same call goes on from there")
            trained = True  # a call trains at least one epoch, however short the time
            result = train_detector(
                store,
                targets,
                train_ids,
                val_ids,
                changed(own, pause_minutes=left if left >= 0 else _MOMENT),
                folder,
                classes=classes,
                resume=resume,
                run_key=key,
                progress=progress,
            )
            if result.paused:
                raise PausedError(
                    f"fold {fold}: paused after epoch {result.epochs} of {own.schedule.epochs}; "
                    "the same call goes on from there"
                )
            state = {"max_minutes": own.schedule.max_minutes, "out_of_time": result.out_of_time}
            write_json(folder / STATE, {"finished": key, **state, "minutes": result.seconds / 60})
        table = pd.read_csv(folder / METRICS)
        table.insert(0, schema.FOLD, fold)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def split_ids(folds: pd.DataFrame, fold: int) -> tuple[list[str], list[str]]:
    """Images to learn from and images held out of `folds` (`image_id, fold`) for one fold."""
    held_out = folds[schema.FOLD] == fold
    return folds.loc[~held_out, schema.IMAGE_ID].tolist(), folds.loc[held_out, schema.IMAGE_ID].tolist()


def train_run(
    run: RunDir,
    recipe: Recipe,
    *,
    held_out: Sequence[int],
    classes: ClassTable,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Notebook 06's work on the artefacts of a run: train every fold, write `metrics.csv`.

    Args:
        run: The run, seen from notebook 06.
        recipe: How each detector is trained; a relative path of weights starts at the project's folder.
        held_out: Folds to hold out, one training each.
        classes: The data set's classes.
        progress: Called with optimiser steps done and in all, fold by fold.

    Returns:
        As `train_each_fold`.

    Raises:
        DataError: An earlier notebook has not run.
        PausedError: `pause_minutes` are over before all is trained.
    """
    recipe = changed(recipe, weights=located(recipe.network.weights))
    table = train_each_fold(
        ImageStore(run.input(schema.IMAGES_DIR)),
        read_targets(run, recipe.labels, classes=classes),
        read_folds(run.input(schema.FOLDS_CSV)),
        run.output(schema.CHECKPOINTS_DIR),
        recipe=recipe,
        held_out=held_out,
        classes=classes,
        progress=progress,
    )
    run.write_csv(table, schema.DETECTOR_METRICS_CSV)
    return table


def train_by_values(values: Mapping[str, Any]) -> pd.DataFrame:
    """Notebook 06's work without a notebook, with a value for each of its parameters.

    Args:
        values: Those of `Recipe`, and `run_dir`, `data_dir` and `train_folds`.

    Returns:
        As `train_each_fold`.

    Raises:
        DataError: An earlier notebook has not run.
        PausedError: `pause_minutes` are over before all is trained.
    """
    run = RunDir(str(values["run_dir"]), "06_detector")
    with alone(run.root) if is_first_process() else nullcontext():
        return train_run(
            run,
            from_values(Recipe, values),
            held_out=list(values["train_folds"]),
            classes=ann.read_classes(locate(str(values["data_dir"]))),
            progress=run.progress("steps"),
        )


def read_targets(run: RunDir, labels: Labels, *, classes: ClassTable) -> pd.DataFrame:
    """Boxes to learn from: every reader's own where readers are told apart, else the fused ones."""
    if labels.by_reader:
        return ann.read_annotations(run.input(schema.TRAIN_FULL_CSV), classes=classes)
    return run.read_csv(schema.CONSENSUS_CSV)


def located(weights: str) -> str:
    """The value of `weights` with a relative path taken from the project's folder."""
    return str(locate(weights)) if names_file(weights) else weights


def check_start(weights: str, held_out: Sequence[int]) -> None:
    """Refuse a file of weights that is not there, and a detector of one fold as the start of another's.

    Args:
        weights: What trainings start from, `{fold}` in it standing for the fold; a detector trained here
            knows the images held out elsewhere.
        held_out: Folds to hold out, one training each.

    Raises:
        ParameterError: Weights that have seen images held out.
        CheckpointError: There is no such file of weights.
    """
    if not names_file(weights):
        return
    for path in dict.fromkeys(Path(weights.replace(FOLD_FIELD, str(fold))) for fold in held_out):
        if not path.is_file():
            raise CheckpointError(f"weights: {path}: no such file")
        if len(held_out) > 1 and FOLD_FIELD not in weights and is_detector(path):
            raise ParameterError(
                f"weights: {path} is a detector trained here, and it has seen images that some of the folds "
                f"{list(held_out)} hold out; give each its own, with {FOLD_FIELD} in the path"
            )


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint is there and has the hash beside it, where there is one."""
    try:
        check_sha256(checkpoint, error=CheckpointError)
    except CheckpointError:
        return False
    return True


def _has_metrics(folder: Path) -> bool:
    """Whether the table of a finished training is whole, or could be made anew from its last state."""
    path, last = folder / METRICS, folder / LAST
    if _is_whole(path):
        return True
    rows = kept_rows(last) if _is_whole(last) else []
    if rows and is_first_process():
        log.warning("%s is damaged or gone; it is made anew from %s", path, last)
        write_metrics(rows, folder)
    return bool(rows)


def _drop_damaged_last(folder: Path) -> None:
    """A finished training needs its last state only where it gets more time."""
    last = folder / LAST
    if is_first_process() and last.is_file() and not _is_whole(last):
        log.warning("%s is damaged and removed; the trained detector is whole", last)
        last.unlink()
        sidecar(last).unlink(missing_ok=True)


def _move_aside(folder: Path, why: str) -> None:
    """Keep a training that another is about to replace: it may have taken hours."""
    if not (folder / BEST).is_file() or not is_first_process():
        return
    home = folder.parent / REPLACED
    target = next(path for n in count() if not (path := home / f"{folder.name}_{n}").exists())
    target.mkdir(parents=True)
    for path in folder.iterdir():
        if path.suffix == ".part":  # of a kill while a checkpoint was written
            path.unlink()
        else:
            os.replace(path, target / path.name)
    log.warning("%s %s; it is kept in %s", folder.name, why, target)


def _bring_back(folder: Path, key: str, max_minutes: float) -> None:
    """Take a finished training out of those that another replaced, where it is the one that is asked for."""
    if _is_finished(folder, key, max_minutes) or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return  # processes that train together would look while one moves
    for kept in sorted((folder.parent / REPLACED).glob(f"{folder.name}_*")):
        if _is_finished(kept, key, max_minutes) and _is_whole(kept / BEST):
            _move_aside(folder, "was trained with other data or parameters")
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(kept, folder)
            log.info("%s: trained so before, taken back from %s", folder.name, kept)
            return


def _left(recipe: Recipe, started: float) -> float:
    """Minutes of `pause_minutes` that are left, below 0 when they are over; 0 where there is no limit."""
    if not recipe.machine.pause_minutes:
        return 0.0
    return recipe.machine.pause_minutes - (time.monotonic() - started) / 60


def _is_finished(folder: Path, key: str, max_minutes: float) -> bool:
    """Whether a folder holds the finished training of a key, and more time would not lengthen it.

    One that had more time than is allowed now is kept: hours of work are not thrown away for fewer.
    """
    state = _state(folder)
    if state.get("finished") != key:
        return False
    ended = state.get("max_minutes", 0.0) or math.inf
    return not (state.get("out_of_time", False) and (max_minutes or math.inf) > ended)


def _state(folder: Path) -> dict[str, Any]:
    """What is known of the training that finished in a folder; nothing where none has."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return state if isinstance(state, dict) else {}
