"""Train a detector: one call from a store and a table of boxes to checkpoints and curves."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch

from cxr import schema
from cxr.detector.augment import Augmentation, mirror_labels
from cxr.detector.data import LABEL_MODES, ImageSource
from cxr.detector.keeper import BEST, LAST, METRICS, Keeper
from cxr.detector.keys import same_arguments
from cxr.detector.labels import by_level, fitted_anchors, training_tables
from cxr.detector.launch import find_machine, is_first_process, make_trainer
from cxr.detector.model import DetectorSpec, architecture
from cxr.detector.module import DetectionData, DetectorModule, trainable
from cxr.detector.weights import load_weights
from cxr.errors import DataError, ParameterError
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
    """

    best: Path
    last: Path
    metrics: Path
    epochs: int
    steps: int
    seconds: float
    best_map: float
    weights: str


def train_detector(
    source: ImageSource | Path | str,
    targets: pd.DataFrame,
    train_ids: Sequence[str],
    val_ids: Sequence[str],
    out_dir: Path | str,
    *,
    classes: ClassTable = schema.VINBIGDATA,
    architecture_name: str = "light",
    image_size: int = 320,
    weights: str = "",
    weights_sha256: str = "",
    anchor_sizes: Sequence[float] = (),
    aspect_ratios: Sequence[float] = (),
    label_mode: str = "fused",
    readers: Sequence[str] = (),
    skip_readers: Sequence[str] = (),
    epochs: int = 12,
    max_minutes: float = 0.0,
    images_per_epoch: int = 0,
    negative_fraction: float = -1.0,
    class_balance: float = 0.0,
    batch_size: int = 4,
    accumulate: int = 1,
    optimizer: str = "adamw",
    learning_rate: float = 0.0,
    weight_decay: float = 0.01,
    momentum: float = 0.9,
    schedule: str = "onecycle",
    warmup_steps: int = 500,
    clip_norm: float = 5.0,
    ema_decay: float = 0.998,
    box_weight: float = 1.0,
    near_truth: int = 0,
    batch_norm: str = "auto",
    hflip: float = 0.5,
    flip_bound: Sequence[str] = (),
    scale: tuple[float, float] = (0.85, 1.2),
    shift: float = 0.06,
    rotate_deg: float = 0.0,
    brightness: float = 0.1,
    contrast: float = 0.2,
    gamma: float = 0.2,
    noise: float = 0.02,
    multi_scale: Sequence[float] = (1.0,),
    validate_every: int = 1,
    patience: int = 0,
    seed: int = 0,
    precision: str = "auto",
    channels_last: bool = False,
    compile_backbone: bool = False,
    num_workers: int = 0,
    cache_mib: int = 512,
    accelerator: str = "auto",
    devices: int | str = "auto",
    num_nodes: int = 1,
    resume: bool = False,
    run_key: str = "",
    tensorboard: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> TrainingResult:
    """Train a Faster R-CNN and keep its best and its last state.

    With the same arguments on the same CPU the result is the same, bit by bit, also after a
    kill and `resume` (unless `max_minutes` ties it to the clock).

    Args:
        source: Image store, its path, or anything else with an image store's interface.
        targets: Boxes in original pixels: fused readers (`schema.CONSENSUS_COLUMNS`) or the
            readers' own (`schema.ANNOTATION_COLUMNS`).
        train_ids: Images to learn from; those without a box are negatives.
        val_ids: Images to score after an epoch; may be empty.
        out_dir: Folder for `best.ckpt`, `last.ckpt` and `metrics.csv`.
        classes: The data set's classes.
        architecture_name: A name of `model.ARCHITECTURES`.
        image_size: Longer side of the network's image, in pixels.
        weights: "" for a random start, "torchvision" for its COCO weights, or a file (see
            `weights.load_weights`); a checkpoint of an earlier stage is one such file.
        weights_sha256: Expected hash of that file; "" to not check.
        anchor_sizes: In network pixels, small to large, as many for each level of the network;
            empty to fit them.
        aspect_ratios: Height / width of the anchors; empty to fit them.
        label_mode: "fused": one box a finding (readers' own tables are fused first);
            "every_reader": each reader's box is a target; "agreement": fused, each box
            weighted by the share of readers who drew it, in the second stage's losses.
        readers: Learn only from boxes of these readers, and only from images they read;
            for a second stage. Needs a table with `rad_id`.
        skip_readers: Leave out images that any of these readers read; for a second stage on
            images of the other readers. Needs a table with `rad_id`.
        epochs: Passes; each shows `images_per_epoch` images.
        max_minutes: Also end after this much wall time, validation included, the schedule
            brought down in time; 0 for no limit.
        images_per_epoch: 0 for about one pass over the images with boxes.
        negative_fraction: Share of images without boxes in an epoch; below 0 as in the data.
        class_balance: 0 shows images alike, 0.5 shows those with rare findings more often.
        batch_size: Images a step and device.
        accumulate: Batches an optimiser step.
        optimizer: "adamw" or "sgd".
        learning_rate: The schedule's largest; 0 for a rule: the architecture's own for AdamW
            at batch size 4, times the square root of the batch's growth; 0.005 for SGD at
            batch size 4, times the growth. The batch is over all devices and accumulations.
        weight_decay: On weights, not on biases and normalisation.
        momentum: Of SGD.
        schedule: "onecycle", "cosine" or "constant".
        warmup_steps: Of the latter two, but at most a twentieth of the training.
        clip_norm: Largest norm of the gradient; 0 for no clipping.
        ema_decay: Of the weight average that is validated and kept as best; 0 for none.
        box_weight: How much the loss of the boxes' edges counts beside the others.
        near_truth: Shaken copies of each true box added to the regions to learn from, meant for the
            edges of few, large findings; it takes steps that many small ones need more.
        batch_norm: "trained", "frozen", or "auto": frozen with pretrained weights where a
            step sees fewer than 8 images a device.
        hflip: Probability of a mirror image. Classes whose names differ by right and left
            swap labels.
        flip_bound: Names of findings bound to a side: images with one are not mirrored.
        scale: Smallest and largest zoom.
        shift: Largest shift, share of the side.
        rotate_deg: Largest rotation.
        brightness: See `augment.Augmentation`, as for the next three.
        contrast: Largest relative change.
        gamma: Exponents from 1 / (1 + gamma) to 1 + gamma.
        noise: Largest deviation of noise.
        multi_scale: Factors of the image size, one drawn a batch.
        validate_every: Epochs between validations; the last epoch is always validated.
        patience: Stop after this many validations without a better one; 0 for never.
        seed: Any integer from 0.
        precision: "auto" is 16-bit autocast on CUDA and float32 elsewhere; else as Lightning's.
        channels_last: Memory layout; pays on CUDA.
        compile_backbone: `torch.compile` of the backbone; pays on CUDA in long trainings.
        num_workers: Loading processes; the store is cheap to read, so 0 is right on a CPU.
        cache_mib: Memory for resized images.
        accelerator: As Lightning's.
        devices: As Lightning's; "auto" is all of this machine, in a notebook one.
        num_nodes: As Lightning's; under `torchrun` this and `devices` follow from how it was called.
        resume: Go on from `last.ckpt` in `out_dir` where there is one.
        run_key: Text kept in the checkpoints, to tell which training they are of (`training_key`).
        tensorboard: Also log for TensorBoard (needs the `tensorboard` package).
        progress: Called with optimiser steps done and in all.

    Returns:
        Paths of what was written, and how the training went.

    Raises:
        ParameterError: An argument is out of its range, or `resume` finds other arguments.
        DataError: No training image, or one is not in the store.
        CheckpointError: Weights that cannot be used.
        TrainingError: The loss is no longer finite; the message names the batch's images.
    """
    _check(
        {
            "label_mode": (label_mode, LABEL_MODES),
            "optimizer": (optimizer, ("adamw", "sgd")),
            "schedule": (schedule, ("onecycle", "cosine", "constant")),
            "batch_norm": (batch_norm, ("auto", "trained", "frozen")),
        },
        at_least_one={
            "epochs": epochs,
            "batch_size": batch_size,
            "accumulate": accumulate,
            "validate_every": validate_every,
            "image_size": image_size // 32,
        },
    )
    out_dir = Path(out_dir)
    if isinstance(source, Path | str):
        source = ImageStore(source)
    train_ids, val_ids = list(train_ids), list(val_ids)
    table, truth, train_ids = training_tables(
        targets,
        train_ids,
        label_mode=label_mode,
        readers=readers,
        skip_readers=skip_readers,
        classes=classes,
    )
    if not train_ids:
        raise DataError("expected images to train on, got none")

    entry = architecture(architecture_name)
    # Larger views are cut from pixels the source has; where it has no more, they are stretched later.
    stored = max(source[train_ids[0]].shape) if train_ids[0] in source else image_size
    load_size = min(round(image_size * max(1.0, *multi_scale)), max(image_size, stored))
    fitted = fitted_anchors(
        source, table, train_ids, image_size=image_size, classes=classes, name=architecture_name
    )
    levels = by_level(anchor_sizes, architecture_name) if anchor_sizes else fitted[0]
    spec = DetectorSpec(
        architecture_name,
        tuple(classes.names),
        int(image_size),
        levels,
        tuple(float(a) for a in aspect_ratios or fitted[1]),
    )
    data = DetectionData(
        source,
        train_table=table,
        truth=truth,
        train_ids=train_ids,
        val_ids=val_ids,
        spec=spec,
        label_mode=label_mode,
        batch_size=batch_size,
        images_per_epoch=images_per_epoch,
        negative_fraction=negative_fraction,
        class_balance=class_balance,
        load_size=load_size,
        num_workers=num_workers,
        cache_mib=cache_mib,
        seed=seed,
    )
    machine = find_machine(accelerator, devices, num_nodes)
    world = machine.world
    steps_per_epoch = -(-len(data.batches(world=world)) // accumulate)
    if learning_rate == 0:
        growth = batch_size * accumulate * world / 4
        learning_rate = 0.005 * growth if optimizer == "sgd" else entry.learning_rate * math.sqrt(growth)
    if batch_norm == "auto":
        batch_norm = "frozen" if weights and batch_size < 8 else "trained"
    augmentation = Augmentation(
        hflip=hflip,
        flip_labels=mirror_labels(classes),
        flip_bound=tuple(_label(classes, name) for name in flip_bound),
        scale=(float(scale[0]), float(scale[1])),
        shift=shift,
        rotate_deg=rotate_deg,
        brightness=brightness,
        contrast=contrast,
        gamma=gamma,
        noise=noise,
        multi_scale=tuple(float(f) * image_size / load_size for f in multi_scale),
    )
    out_dir.mkdir(parents=True, exist_ok=True)
    last = out_dir / LAST
    going_on = resume and last.is_file()
    with torch.random.fork_rng(devices=[]):  # the devices' generators are left alone: no CUDA context
        torch.manual_seed(seed)
        module = DetectorModule(
            spec=spec.to_dict(),
            optimizer=optimizer,
            learning_rate=float(learning_rate),
            weight_decay=weight_decay,
            momentum=momentum,
            schedule=schedule,
            warmup_steps=min(warmup_steps, -(-steps_per_epoch * epochs // 20)),
            total_steps=steps_per_epoch * epochs,
            ema_decay=ema_decay,
            box_weight=box_weight,
            near_truth=near_truth,
            batch_norm=batch_norm,
            augmentation={k: list(v) if isinstance(v, tuple) else v for k, v in asdict(augmentation).items()},
            seed=seed,
            channels_last=channels_last,
            compile_backbone=compile_backbone,
            recipe={
                "label_mode": label_mode,
                "readers": list(readers),
                "skip_readers": list(skip_readers),
                "epochs": epochs,
                "max_minutes": max_minutes,
                "images_per_epoch": images_per_epoch,
                "negative_fraction": negative_fraction,
                "class_balance": class_balance,
                "batch_size": batch_size,
                "accumulate": accumulate,
                "clip_norm": clip_norm,
                "multi_scale": [float(f) for f in multi_scale],
                "weights": str(weights),
                "train_images": len(train_ids),
                "val_images": len(val_ids),
                "processes": world,
                "run_key": run_key,
            },
        )
        if going_on:
            started_from = f"weights: resumed from {last}"
        else:
            started_from = load_weights(
                module.net, weights, architecture_name=architecture_name, sha256=weights_sha256
            ).message
        log.info(started_from)
        module.prepare()
        keeper = Keeper(
            out_dir,
            max_minutes=max_minutes,
            patience=patience,
            total_epochs=epochs,
            has_val=bool(val_ids),
            validate_every=validate_every,
            progress=progress,
        )
        if going_on:
            same_arguments(dict(module.hparams), last)
        elif is_first_process():
            for stale in (out_dir / METRICS, last, out_dir / BEST):
                stale.unlink(missing_ok=True)
        trainer = make_trainer(
            out_dir,
            keeper,
            epochs=epochs,
            machine=machine,
            precision=precision,
            accumulate=accumulate,
            clip_norm=clip_norm,
            tensorboard=tensorboard,
        )
        log.info(
            "training %s (%.1f M parameters) on %d images, %d steps, image size %d, learning rate %.2g",
            architecture_name,
            trainable(module.net) / 1e6,
            len(train_ids),
            steps_per_epoch * epochs,
            image_size,
            learning_rate,
        )
        with warnings.catch_warnings():
            # The weight average is in evaluation mode on purpose, and the other is Lightning's own affair.
            warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
            warnings.filterwarnings("ignore", message="`isinstance\\(treespec, LeafSpec\\)` is deprecated")
            trainer.fit(module, datamodule=data, ckpt_path=str(last) if going_on else None, weights_only=True)
    return TrainingResult(
        best=out_dir / BEST,
        last=last,
        metrics=out_dir / METRICS,
        epochs=trainer.current_epoch,
        steps=trainer.global_step,
        seconds=keeper.seconds,
        best_map=keeper.best,
        weights=started_from,
    )


def _check(choices: dict[str, tuple[str, tuple[str, ...]]], *, at_least_one: dict[str, int]) -> None:
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ParameterError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")
    for name, number in at_least_one.items():
        if number < 1:
            raise ParameterError(f"{name}: too small, got {number} (an image size is at least 32)")


def _label(classes: ClassTable, name: str) -> int:
    """The detector label of a finding's name."""
    if name not in classes.finding_names:
        raise ParameterError(f"flip_bound: expected names of findings {classes.finding_names}, got {name!r}")
    return classes.finding_names.index(name) + 1
