"""Train a detector: one call from a store and a table of boxes to checkpoints and curves."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import pytorch_lightning as pl
import torch

from cxr import schema
from cxr.detector.checkpoints.run import BEST, LAST, METRICS
from cxr.detector.checkpoints.shipped import start_of
from cxr.detector.checkpoints.weights import load_weights
from cxr.detector.data.labels import choose_lesson
from cxr.detector.data.pixels import ImageSource
from cxr.detector.network.base import trainable
from cxr.detector.recipe import Recipe
from cxr.detector.training.datamodule import DetectionData
from cxr.detector.training.identity import TrainingRecord, same_training
from cxr.detector.training.keeper import Keeper
from cxr.detector.training.launch import find_processes, is_first_process, make_trainer
from cxr.detector.training.module import DetectorModule
from cxr.detector.training.plan import Plan, describe_network, load_size, make_plan
from cxr.files import sidecar
from cxr.recipes import flat
from cxr.schema import ClassTable
from cxr.store import ImageStore

log = logging.getLogger("cxr")


@dataclass(frozen=True)
class TrainingResult:
    """What a training left behind.

    Attributes:
        best: Checkpoint of the epoch with the highest validation mAP@0.4 (the last one where
            there was no validation); for prediction.
        last: Checkpoint of the last epoch, from which training can go on.
        metrics: CSV with one row an epoch.
        epochs: Epochs in all, resumed ones included.
        steps: Optimiser steps in all.
        seconds: Wall seconds in all.
        best_map: Highest validation mAP@0.4; NaN without validation.
        weights: What the network started from, in words.
        paused: Whether epochs are left that `pause_minutes` had no room for.
        out_of_time: Whether `max_minutes` ended it.
    """

    best: Path
    last: Path
    metrics: Path
    epochs: int
    steps: int
    seconds: float
    best_map: float
    weights: str
    paused: bool = False
    out_of_time: bool = False


def train_detector(
    source: ImageSource | Path | str,
    targets: pd.DataFrame,
    train_ids: Sequence[str],
    val_ids: Sequence[str],
    recipe: Recipe,
    out_dir: Path | str,
    *,
    classes: ClassTable = schema.VINBIGDATA,
    resume: bool = False,
    run_key: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> TrainingResult:
    """Train a detector and keep its best and its last state.

    Args:
        source: Image store, its path, or anything else with an image store's interface.
        targets: Boxes in original pixels: fused readers (`schema.CONSENSUS_COLUMNS`) or the
            readers' own (`schema.ANNOTATION_COLUMNS`).
        train_ids: Images to learn from; those without a box are negatives.
        val_ids: Images to score after an epoch; may be empty.
        recipe: How the detector is trained.
        out_dir: Folder for `best.ckpt`, `last.ckpt` and `metrics.csv`.
        classes: The data set's classes.
        resume: Go on from `last.ckpt` in `out_dir` where there is one.
        run_key: Text kept in the checkpoints, to tell which training they are of (`identity.run_key`).
        progress: Called with optimiser steps done and in all.

    Returns:
        Paths of what was written, and how the training went.

    Raises:
        ParameterError: Something in the recipe does not fit the data, or `resume` finds another recipe.
        DataError: No training image, or one is not in the store.
        CheckpointError: Weights that cannot be used.
        KeyboardInterrupt: It was interrupted; `last.ckpt` holds the last whole epoch.
        TrainingError: The loss is no longer finite; the message names the batch's images.
    """
    out_dir = Path(out_dir)
    if isinstance(source, Path | str):
        source = ImageStore(source)
    lesson = choose_lesson(targets, train_ids, val_ids, labels=recipe.labels, classes=classes)
    spec = describe_network(source, lesson, network=recipe.network, classes=classes)
    loaded = load_size(source, lesson.train_ids[0], recipe)
    data = DetectionData(source, lesson, spec=spec, recipe=recipe, load_size=loaded)
    processes = find_processes(recipe.machine)
    plan = make_plan(
        recipe,
        batches_per_epoch=len(data.batches(world=processes.world)),
        processes=processes.world,
        load_size=loaded,
    )
    record = TrainingRecord(len(lesson.train_ids), len(lesson.val_ids), processes.world, run_key)
    last = out_dir / LAST
    going_on = resume and last.is_file()
    with torch.random.fork_rng(devices=[]):  # the devices' generators are left alone: no CUDA context
        torch.manual_seed(recipe.seed)
        module = DetectorModule(
            spec=spec.to_dict(), recipe=flat(recipe), plan=asdict(plan), record=asdict(record)
        )
        if going_on:
            same_training(module.hparams, last)
        started_from = _start(module, recipe, last if going_on else None)
        out_dir.mkdir(parents=True, exist_ok=True)
        if not going_on and is_first_process():
            for stale in (out_dir / METRICS, sidecar(out_dir / METRICS), last, out_dir / BEST):
                stale.unlink(missing_ok=True)
        keeper = Keeper(
            out_dir,
            schedule=recipe.schedule,
            has_val=bool(lesson.val_ids),
            pause_minutes=recipe.machine.pause_minutes,
            progress=progress,
        )
        trainer = make_trainer(out_dir, keeper, recipe=recipe, processes=processes)
        _announce(module, plan, images=len(lesson.train_ids))
        with warnings.catch_warnings():
            # The weight average is in evaluation mode on purpose, and the other is Lightning's own affair.
            warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
            warnings.filterwarnings("ignore", message="`isinstance\\(treespec, LeafSpec\\)` is deprecated")
            _fit(trainer, module, data, last if going_on else None)
    return TrainingResult(
        best=out_dir / BEST,
        last=last,
        metrics=out_dir / METRICS,
        epochs=trainer.current_epoch,
        steps=trainer.global_step,
        seconds=keeper.seconds,
        best_map=keeper.best,
        weights=started_from,
        paused=keeper.paused,
        out_of_time=keeper.out_of_time,
    )


def _fit(trainer: pl.Trainer, module: DetectorModule, data: DetectionData, last: Path | None) -> None:
    """Train; an interrupt stays one, where Lightning makes it an exit with status 1 and ignores the next."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=last, weights_only=True)
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


def _start(module: DetectorModule, recipe: Recipe, last: Path | None) -> str:
    """Give the network what it starts from, and say what that is."""
    if last is not None:
        started_from = f"weights: resumed from {last}"
    else:
        network = recipe.network
        started_from = load_weights(
            module.net,
            start_of(network.weights, network.architecture_name),
            architecture_name=network.architecture_name,
            sha256=network.weights_sha256,
        ).message
    log.info(started_from)
    module.prepare()
    return started_from


def _announce(module: DetectorModule, plan: Plan, *, images: int) -> None:
    log.info(
        "training %s (%.1f M parameters) on %d images, %d steps, image size %d, learning rate %.2g",
        module.spec.architecture,
        trainable(module.net) / 1e6,
        images,
        plan.total_steps,
        module.spec.image_size,
        plan.learning_rate,
    )
