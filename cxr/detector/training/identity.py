"""What tells one training from another: whether it may be resumed, and whether it is done already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cxr import schema
from cxr.detector.checkpoints.shipped import start_of
from cxr.detector.checkpoints.weights import read_checkpoint
from cxr.detector.recipe import Recipe
from cxr.errors import CheckpointError, ParameterError
from cxr.files import sha256
from cxr.recipes import flat, from_values
from cxr.schema import ClassTable
from cxr.store import ImageStore

TRAINING_VERSION = 2
"""Raise it when a change of the code makes the same recipe train another network. The code itself is
not hashed: a new comment must not cost hours on a GPU."""


@dataclass(frozen=True)
class TrainingRecord:
    """What else is kept with a training, beside its recipe.

    More devices make the batch larger, and with it the learning rate. Still a training that is finished
    counts as finished on any number of them, so that one machine can go on with what many trained; one
    that was interrupted resumes only on as many as it began with.

    Attributes:
        train_images: Number of images learnt from.
        val_images: Number of images scored after an epoch.
        processes: That train together.
        run_key: `run_key` of the fold, "" where the training is not of a fold.
    """

    train_images: int
    val_images: int
    processes: int
    run_key: str


def run_key(
    store: ImageStore,
    targets: pd.DataFrame,
    train_ids: Sequence[str],
    val_ids: Sequence[str],
    classes: ClassTable,
    recipe: Recipe,
) -> str:
    """Hash of all that a fold's training depends on: pixels, boxes, images, classes and recipe.

    Args:
        store: Images.
        targets: Boxes.
        train_ids: Images to learn from.
        val_ids: Images held out.
        classes: The data set's classes.
        recipe: How the detector is trained; its machine parameters do not count, nor those that may grow.
    """
    pixels = store.index.set_index(schema.IMAGE_ID)["sha256"]
    digest = hashlib.sha256()
    for part in (
        pixels.loc[[*train_ids, *val_ids]].to_csv(),
        targets[targets[schema.IMAGE_ID].isin({*train_ids, *val_ids})].to_csv(index=False),
        str(len(train_ids)),
        json.dumps(
            [TRAINING_VERSION, classes.names, flat(recipe, machine=False, grows=False)], sort_keys=True
        ),
    ):
        digest.update(part.encode())
    weights = Path(start_of(recipe.network.weights, recipe.network.architecture_name))
    if weights.is_file():
        digest.update(sha256(weights).encode())
    return digest.hexdigest()


def key_of(checkpoint: Path) -> str:
    """The `run_key` of the training that wrote a checkpoint; "" where there is none to read."""
    try:
        record = _arguments(checkpoint).get("record", {})
    except CheckpointError:
        return ""
    return str(record.get("run_key", ""))


def same_training(now: Mapping[str, Any], last: Path) -> None:
    """A resumed training is the same training: it may not differ from the one that was begun.

    Where it runs and how long it may take can differ, and the path of the weights, since a resumed
    training does not load them.

    Args:
        now: Arguments of `DetectorModule`.
        last: Checkpoint to go on from.

    Raises:
        ParameterError: It differs; the message says in what.
        CheckpointError: The file is no checkpoint of a training.
    """
    saved = _arguments(last)
    one, two = _comparable(now), _comparable(saved)
    if other := sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name)):
        raise ParameterError(
            f"{last} was trained with other values of {', '.join(other)}; "
            "resume with the same ones, or start afresh in another folder"
        )


def _comparable(arguments: Mapping[str, Any]) -> dict[str, Any]:
    try:
        recipe = flat(from_values(Recipe, arguments["recipe"]), machine=False, grows=False)
    except (KeyError, ParameterError):  # a checkpoint of another version of this project
        recipe = {}
    values = {
        **arguments.get("spec", {}),
        **arguments.get("plan", {}),
        **arguments.get("record", {}),
        **recipe,
    }
    return {name: value for name, value in values.items() if name not in ("weights", "weights_sha256")}


def _arguments(checkpoint: Path) -> dict[str, Any]:
    arguments = read_checkpoint(checkpoint).get("hyper_parameters")
    if not isinstance(arguments, dict):
        raise CheckpointError(f"{checkpoint}: expected a checkpoint written by training here")
    return arguments
