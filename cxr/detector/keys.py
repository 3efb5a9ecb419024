"""What tells one training from another: whether it may be resumed, and whether it is done already."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cxr import schema
from cxr.detector.weights import read_checkpoint
from cxr.errors import CheckpointError, ParameterError
from cxr.schema import ClassTable
from cxr.store import ImageStore

TRAINING_VERSION = 1
"""Raise it when a change of the code makes the same arguments train another network. The code itself is
not hashed: a new comment must not cost hours on a GPU."""

ANYWHERE = {
    "accelerator",
    "cache_mib",
    "compile_backbone",
    "devices",
    "num_nodes",
    "num_workers",
    "tensorboard",
}
"""Arguments of a training that say where and how fast it runs, not what comes out.

More devices do make the batch larger, and with it the learning rate. Still a training that is finished
counts as finished on any number of them, so that one machine can go on with what many trained; one
that was interrupted resumes only on as many as it began with (`same_arguments`)."""


def recipe_key(
    store: ImageStore,
    targets: pd.DataFrame,
    train_ids: Sequence[str],
    val_ids: Sequence[str],
    classes: ClassTable,
    recipe: Mapping[str, Any],
    *,
    train: Callable[..., Any],
) -> str:
    """Hash of all that a fold's training depends on: pixels, boxes, images, classes and recipe.

    Args:
        store: Images.
        targets: Boxes.
        train_ids: Images to learn from.
        val_ids: Images held out.
        classes: The data set's classes.
        recipe: Arguments of `train`; those left out count with their default.
        train: The function that trains.
    """
    pixels = store.index.set_index(schema.IMAGE_ID)["sha256"]
    defaults = {n: p.default for n, p in inspect.signature(train).parameters.items() if n not in ANYWHERE}
    used = {n: recipe.get(n, d) for n, d in defaults.items() if d is not inspect.Parameter.empty}
    digest = hashlib.sha256()
    for part in (
        pixels.loc[[*train_ids, *val_ids]].to_csv(),
        targets[targets[schema.IMAGE_ID].isin({*train_ids, *val_ids})].to_csv(index=False),
        str(len(train_ids)),
        json.dumps([TRAINING_VERSION, classes.names, used], sort_keys=True, default=str),
    ):
        digest.update(part.encode())
    weights = Path(str(recipe.get("weights", "")))
    if weights.is_file():
        with open(weights, "rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


def training_key(checkpoint: Path) -> str:
    """The `run_key` of the training that wrote a checkpoint; "" where there is none to read."""
    try:
        parameters = read_checkpoint(checkpoint).get("hyper_parameters")
    except CheckpointError:
        return ""
    return str(parameters["recipe"].get("run_key", "")) if isinstance(parameters, dict) else ""


def same_arguments(now: Mapping[str, Any], last: Path) -> None:
    """A resumed training is the same training: its arguments may not differ from the first start's.

    Args:
        now: Arguments of `DetectorModule`.
        last: Checkpoint to go on from.

    Raises:
        ParameterError: They do; the message says which.
        CheckpointError: The file is no checkpoint of a training.
    """
    saved = read_checkpoint(last).get("hyper_parameters")
    if not isinstance(saved, dict):
        raise CheckpointError(f"{last}: expected a checkpoint written by training here")
    other = [name for name in now if name != "recipe" and saved.get(name) != now[name]]
    other += [
        n for n in now["recipe"] if n != "weights" and saved.get("recipe", {}).get(n) != now["recipe"][n]
    ]
    if other:
        raise ParameterError(
            f"{last} was trained with other values of {', '.join(other)}; "
            "resume with the same ones, or start afresh in another folder"
        )
