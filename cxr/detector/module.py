"""The detector as Lightning trains it: batches in, losses out, mAP on the validation images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from cxr import metrics, schema
from cxr.detector.augment import Augmentation, augment_batch, draw_factor
from cxr.detector.data import (
    ImageSource,
    RadiographDataset,
    build_targets,
    detection_table,
    like_shape_batches,
    make_loader,
    to_original,
)
from cxr.detector.ema import WeightAverage
from cxr.detector.heads import set_answers
from cxr.detector.model import DetectorSpec, batch_norms, build_network, freeze_batch_norm
from cxr.detector.sampling import EpochBatches, image_weights
from cxr.errors import TrainingError

VAL_IOU = 0.4
"""IoU of the validation mAP, the competition's."""


def lr_factor(schedule: str, progress: float, *, step: int, warmup_steps: int) -> float:
    """Learning rate at a point of training, as a share of the largest.

    Args:
        schedule: "onecycle" (a quarter up from 1/25, then down to nothing along a cosine),
            "cosine" (linear over `warmup_steps`, then down to 1/100) or "constant".
        progress: Share of training that is over, in [0, 1].
        step: Optimiser steps done.
        warmup_steps: Steps of linear warm-up, for "cosine" and "constant".
    """
    progress = min(max(progress, 0.0), 1.0)
    if schedule == "onecycle":
        if progress < 0.25:
            return 0.04 + 0.96 * (1 - math.cos(math.pi * progress / 0.25)) / 2
        return max(1e-3, (1 + math.cos(math.pi * (progress - 0.25) / 0.75)) / 2)
    warm = min(1.0, (step + 1) / max(1, warmup_steps))
    if schedule == "cosine":
        return warm * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)
    return warm


class DetectionData(pl.LightningDataModule):
    """Training and validation images of one fold.

    Args:
        source: Image source.
        train_table: Boxes to learn from, original pixels.
        truth: Boxes to be scored against, original pixels, one row per true box.
        train_ids: Images to learn from.
        val_ids: Images to score on; may be empty.
        spec: The network's description (classes and image size).
        label_mode: See `build_targets`.
        batch_size: Images a step and process.
        images_per_epoch: 0 for one pass over the images with boxes.
        negative_fraction: Share of an epoch without boxes; negative keeps the data's share.
        class_balance: See `image_weights`.
        load_size: Longer side of the training images as loaded, in pixels; they may be larger
            than the network's, for training at several scales.
        num_workers: Loading processes; 0 loads in this one.
        cache_mib: See `RadiographDataset`.
        seed: Any integer from 0.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        train_table: pd.DataFrame,
        truth: pd.DataFrame,
        train_ids: Sequence[str],
        val_ids: Sequence[str],
        spec: DetectorSpec,
        label_mode: str,
        batch_size: int,
        images_per_epoch: int,
        negative_fraction: float,
        class_balance: float,
        load_size: int,
        num_workers: int,
        cache_mib: int,
        seed: int,
    ) -> None:
        super().__init__()
        targets = build_targets(
            train_table, train_ids, source, image_size=load_size, classes=spec.classes, label_mode=label_mode
        )
        self.train_set = RadiographDataset(
            source, train_ids, targets, image_size=load_size, cache_mib=cache_mib
        )
        self.val_set = RadiographDataset(
            source, val_ids, None, image_size=spec.image_size, cache_mib=cache_mib // 2
        )
        val_rows = truth[schema.IMAGE_ID].isin(set(val_ids)) & truth[schema.CLASS_ID].isin(
            list(spec.classes.finding_ids)
        )
        self.truth = truth[val_rows].dropna(subset=schema.BOX_COLUMNS)
        self.batch_size = batch_size
        self.images_per_epoch = images_per_epoch
        self.negative_fraction = negative_fraction
        self.weights = image_weights(train_ids, targets, class_balance=class_balance)
        self.num_workers = num_workers
        self.seed = seed

    def batches(self, *, rank: int = 0, world: int = 1) -> EpochBatches:
        """The training batches of one process."""
        targets = self.train_set.targets or {}
        return EpochBatches(
            self.train_set.sizes(),
            np.array([len(targets[i].labels) == 0 for i in self.train_set.image_ids], dtype=bool),
            self.weights,
            batch_size=self.batch_size,
            images_per_epoch=self.images_per_epoch or None,
            negative_fraction=None if self.negative_fraction < 0 else self.negative_fraction,
            seed=self.seed,
            rank=rank,
            world=world,
        )

    def train_dataloader(self) -> Any:
        """Training batches of this process."""
        batches = self.batches(rank=self.trainer.global_rank, world=self.trainer.world_size)
        # Lightning starts the first epoch's iterator before any hook. After a resume the epoch of the
        # checkpoint counts as processed and not yet as completed, which `current_epoch` goes by.
        batches.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)
        return make_loader(
            self.train_set,
            batches,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> Any:
        """This process's share of the validation images; no image is in two shares.

        Where there are fewer batches than processes, those without one look at the first, too: an
        empty share would end Lightning's loop early. What is found there counts once all the same.
        """
        batches = like_shape_batches(self.val_set.sizes(), 2 * self.batch_size)
        return make_loader(
            self.val_set,
            batches[self.trainer.global_rank :: self.trainer.world_size] or batches[:1],
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )


class DetectorModule(pl.LightningModule):
    """Training of one network.

    All arguments are plain data and end up in the checkpoint.

    Args:
        spec: `DetectorSpec.to_dict()`.
        optimizer: "adamw" or "sgd".
        learning_rate: The schedule's largest.
        weight_decay: On weights of two and more dimensions only.
        momentum: Of SGD.
        schedule: See `lr_factor`.
        warmup_steps: See `lr_factor`.
        total_steps: Optimiser steps of the whole training.
        ema_decay: Of the weight average; 0 for none.
        box_weight: See `WeightedRoIHeads`, as for the next.
        near_truth: Regions close to each true box to learn from.
        batch_norm: "trained" or "frozen".
        augmentation: Fields of `Augmentation`.
        seed: Any integer from 0.
        channels_last: Memory layout of the network and its input.
        compile_backbone: Run the backbone through `torch.compile`.
        recipe: Further parameters of the training, kept for the record.
    """

    def __init__(
        self,
        *,
        spec: dict[str, Any],
        optimizer: str,
        learning_rate: float,
        weight_decay: float,
        momentum: float,
        schedule: str,
        warmup_steps: int,
        total_steps: int,
        ema_decay: float,
        box_weight: float,
        near_truth: int,
        batch_norm: str,
        augmentation: dict[str, Any],
        seed: int,
        channels_last: bool,
        compile_backbone: bool,
        recipe: dict[str, Any],
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.spec = DetectorSpec.from_dict(spec)
        self.net = build_network(self.spec)
        self.net.roi_heads.box_weight, self.net.roi_heads.near_truth = box_weight, near_truth
        self.average: WeightAverage | None = None
        self.augmentation = Augmentation(
            **{name: tuple(v) if isinstance(v, list) else v for name, v in augmentation.items()}
        )
        self.budget_used = 0.0  # share of a time budget that is over; 0 where there is none
        self._averaged = 0  # optimiser steps that the weight average has taken in
        self.val_map = math.nan
        self.val_detections = pd.DataFrame(columns=schema.DETECTION_COLUMNS)
        self._found: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = []

    def prepare(self) -> None:
        """Make ready to train the network as it is now; call after loading weights, before fitting."""
        if self.hparams.batch_norm == "frozen":
            freeze_batch_norm(self.net)
        if self.hparams.channels_last:
            self.net.to(memory_format=torch.channels_last)
        if self.hparams.ema_decay > 0:
            self.average = WeightAverage(self.net, decay=self.hparams.ema_decay)

    @property
    def progress(self) -> float:
        """Share of training that is over, by steps or by time, whichever is further."""
        return max(self.global_step / max(1, self.hparams.total_steps), self.budget_used)

    def on_fit_start(self) -> None:
        """Compilation, once the network is on its device."""
        if self.hparams.compile_backbone:
            self.net.backbone.compile(dynamic=True)

    def on_train_epoch_start(self) -> None:
        """The epoch's own images, and what stays frozen put back after Lightning's `train()`."""
        self.trainer.train_dataloader.batch_sampler.set_epoch(self.current_epoch)
        self._averaged = self.global_step
        if self.hparams.batch_norm == "frozen":
            for layer in batch_norms(self.net):
                layer.eval()
        if self.average is not None:
            self.average.eval()

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Set the learning rate from the progress alone, so that a resumed run has the same."""
        factor = lr_factor(
            self.hparams.schedule,
            self.progress,
            step=self.global_step,
            warmup_steps=self.hparams.warmup_steps,
        )
        for group in self.optimizers().param_groups:
            group["lr"] = self.hparams.learning_rate * factor

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The sum of the four losses of one batch."""
        # Torchvision samples anchors and regions from the global generator.
        words = np.random.SeedSequence([self.hparams.seed, *batch["keys"][0], 3]).generate_state(2)
        torch.manual_seed(int(words[0]) << 32 | int(words[1]))
        # Drawn by the step, not by the images: all processes then work at one size.
        step = (self.current_epoch, batch_idx)
        images, sizes, targets = augment_batch(
            batch["images"],
            batch["sizes"],
            batch["targets"],
            batch["keys"],
            augmentation=self.augmentation,
            seed=self.hparams.seed,
            factor=draw_factor(self.augmentation, seed=self.hparams.seed, key=step),
        )
        if self.hparams.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        losses = self.net(images, sizes, targets)
        loss = sum(losses.values())
        if not torch.isfinite(loss):
            parts = ", ".join(f"{name} {value.item():.3g}" for name, value in losses.items())
            raise TrainingError(
                f"the loss is not finite at step {self.global_step} ({parts}); images of the batch: "
                f"{', '.join(batch['image_ids'])}. A smaller learning rate or gradient clipping may help"
            )
        self.log_dict(
            {name: value.detach() for name, value in losses.items()},
            on_step=False,
            on_epoch=True,
            batch_size=len(sizes),
            sync_dist=True,
        )
        return loss

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Any], batch_idx: int) -> None:
        """The weight average takes in each optimiser step."""
        if self.average is not None and self.global_step > self._averaged:
            self._averaged = self.global_step
            self.average.update(self.net, self.global_step)

    def on_validation_epoch_start(self) -> None:
        """Forget the detections of the last validation; answer as in prediction."""
        self._found = []
        set_answers((self.average.net if self.average is not None else self.net).roi_heads)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Detections of one batch, in original pixels."""
        net = self.average.net if self.average is not None else self.net
        results = net(batch["images"], batch["sizes"])
        for image_id, size, original, result in zip(
            batch["image_ids"], batch["sizes"], batch["original_sizes"], results, strict=True
        ):
            boxes = to_original(result["boxes"].float().cpu().numpy(), tuple(original), tuple(size))
            self._found.append(
                (image_id, boxes, result["labels"].cpu().numpy(), result["scores"].float().cpu().numpy())
            )

    def on_validation_epoch_end(self) -> None:
        """VOC mAP@0.4 over all processes' detections, the mean over findings present in the truth."""
        found = {image_id: row for row in self._gather(self._found) for image_id in [row[0]]}
        data = self.trainer.datamodule
        self.val_detections = detection_table([found[i] for i in data.val_set.image_ids if i in found])
        present = sorted(data.truth[schema.CLASS_ID].unique().tolist())
        if not present:
            self.val_map = math.nan
            return
        self.val_map = float(
            metrics.voc_map(
                self.val_detections,
                data.truth,
                iou_threshold=VAL_IOU,
                image_ids=data.val_set.image_ids,
                class_ids=present,
            ).map
        )

    def _gather(self, rows: list[Any]) -> list[Any]:
        if self.trainer.world_size == 1:
            return rows
        parts: list[list[Any]] = [[] for _ in range(self.trainer.world_size)]
        torch.distributed.all_gather_object(parts, rows)
        return [row for part in parts for row in part]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW or SGD, without weight decay on biases and normalisation."""
        free = [p for p in self.net.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in free if p.dim() > 1], "weight_decay": self.hparams.weight_decay},
            {"params": [p for p in free if p.dim() <= 1], "weight_decay": 0.0},
        ]
        if self.hparams.optimizer == "sgd":
            return torch.optim.SGD(
                groups, lr=self.hparams.learning_rate, momentum=self.hparams.momentum, nesterov=True
            )
        # Not `fused`: with mixed precision that one unscales gradients itself, too late for clipping.
        return torch.optim.AdamW(groups, lr=self.hparams.learning_rate, foreach=True)


def trainable(net: nn.Module) -> int:
    """Number of parameters that training changes."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)
