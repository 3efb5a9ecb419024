"""Work of a session in processes of their own: `python -m cxr.kaggle.child TASK FILE`.

A notebook that has touched a GPU cannot start processes for the others, and what it holds of its memory
a training lacks. So the notebook of a kernel asks and trains through here. Under `torchrun` every
process comes here; the first one writes the result.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from cxr import annotations as ann
from cxr import chain
from cxr.detector.prediction.detector import load_detectors
from cxr.detector.prediction.looks import Looks
from cxr.detector.recipe import Recipe
from cxr.detector.training.folds import check_start, train_by_values
from cxr.detector.training.launch import is_first_process
from cxr.detector.training.rehearsal import rehearse_training
from cxr.errors import CxrError, PausedError
from cxr.features.detections import read_detections_and_record
from cxr.recipes import changed, from_values
from cxr.rundir import locate, write_json


def rehearse(values: Mapping[str, Any]) -> dict[str, Any]:
    """The first minute of a session that trains, see `rehearsal.rehearse_training`."""
    recipe, held_out = from_values(Recipe, values), list(values["train_folds"])
    check_start(recipe.network.weights, held_out)
    first = str(held_out[0])
    recipe = changed(recipe, weights=recipe.network.weights.replace("{fold}", first))
    classes = ann.read_classes(locate(values["data_dir"]))
    paths = [str(path).replace("{fold}", str(fold)) for path in values["checkpoints"] for fold in held_out]
    for detector in load_detectors(list(dict.fromkeys(map(Path, paths))), device="cpu") if paths else []:
        detector.require_classes(classes)
    for name in ("oof_detections", "test_detections"):
        if values[name]:
            read_detections_and_record(locate(values[name]))
    return asdict(rehearse_training(recipe, from_values(Looks, values), classes))


def train(values: Mapping[str, Any]) -> dict[str, Any]:
    """Every fold, as far as the time goes."""
    try:
        train_by_values(values)
    except PausedError as pause:
        return {"finished": False, "message": str(pause)}
    return {"finished": True, "message": "every fold is trained"}


def notebooks(values: Mapping[str, Any]) -> dict[str, Any]:
    """Notebooks of the chain from `first` to `last`, as far as they are not up to date."""
    chain.run(
        values["values"],
        first=values["first"],
        last=values["last"],
        say=print,
        notebook_log=cast(Any, sys.stdout),
    )
    return {}


TASKS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "rehearse": rehearse,
    "train": train,
    "notebooks": notebooks,
}


def main(task: str, file: str) -> int:
    """Do a task with the values in a JSON file; the result goes into `<file>.result`."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("cxr").setLevel(logging.INFO if is_first_process() else logging.WARNING)
    try:
        result = TASKS[task](json.loads(Path(file).read_text(encoding="utf-8")))
    except CxrError as error:
        result = {"error": type(error).__name__, "message": str(error)}
    if is_first_process():
        write_json(Path(f"{file}.result"), result)
    return 1 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
