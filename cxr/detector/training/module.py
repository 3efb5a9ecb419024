"""The detector as Lightning trains it: batches in, losses out, mAP on the validation images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor

from cxr import metrics, schema
from cxr.detector.checkpoints.shipped import start_of
from cxr.detector.data.answers import Rows, answer_rows, detection_table
from cxr.detector.data.augment import augment_batch, draw_factor, mirror_of
from cxr.detector.network.base import DetectionNetwork, batch_norms, freeze_batch_norm, freeze_early
from cxr.detector.network.ema import WeightAverage
from cxr.detector.network.registry import build_network
from cxr.detector.network.spec import Answers, DetectorSpec
from cxr.detector.recipe import Recipe
from cxr.detector.training.plan import Plan
from cxr.errors import TrainingError
from cxr.recipes import from_values

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


class DetectorModule(pl.LightningModule):
    """Training of one network.

    All arguments are plain data and end up in the checkpoint.

    Args:
        spec: `DetectorSpec.to_dict()`.
        recipe: `recipes.flat` of a `Recipe`.
        plan: Fields of a `Plan`.
        record: What else tells this training from others, see `identity.TrainingRecord`.
    """

    def __init__(
        self, *, spec: dict[str, Any], recipe: dict[str, Any], plan: dict[str, Any], record: dict[str, Any]
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.spec = DetectorSpec.from_dict(spec)
        self.recipe = from_values(Recipe, recipe)
        self.plan = Plan(**plan)
        self.net = build_network(self.spec)
        self.average: WeightAverage[DetectionNetwork] | None = None
        self.mirror = mirror_of(self.spec.classes, self.recipe.augmentation.flip_bound)
        self.budget_used = 0.0  # share of a time budget that is over; 0 where there is none
        self.loss_names: tuple[str, ...] = ()  # in the order in which the network gives them
        self._averaged = 0  # optimiser steps that the weight average has taken in
        self.val_map = math.nan
        self.val_detections = pd.DataFrame(columns=schema.DETECTION_COLUMNS)
        self._found: list[Rows] = []

    def prepare(self) -> None:
        """Make ready to train the network as it is now; call after loading weights, before fitting.

        Channels come last in memory: convolutions are a seventh faster so on a CPU, and more in 16 bits.
        """
        if self.plan.freeze_batch_norm:
            freeze_batch_norm(self.net)
            if start_of(self.recipe.network.weights, self.spec.architecture):
                freeze_early(self.net)
        self.net.to(memory_format=torch.channels_last)
        decay = self.recipe.optimisation.ema_decay
        if decay > 0:
            self.average = WeightAverage(self.net, decay=decay)

    @property
    def _judged(self) -> DetectionNetwork:
        """The network that is validated: the weight average where there is one."""
        return self.net if self.average is None else self.average.net

    @property
    def _factors(self) -> list[float]:
        """Factors of a batch's size as loaded that bring it to the sizes the recipe asks for."""
        ratio = self.spec.image_size, self.plan.load_size
        return [float(f) * ratio[0] / ratio[1] for f in self.recipe.augmentation.multi_scale]

    @property
    def progress(self) -> float:
        """Share of training that is over, by steps or by time, whichever is further."""
        return max(self.global_step / max(1, self.plan.total_steps), self.budget_used)

    def on_fit_start(self) -> None:
        """Compilation, once the network is on its device."""
        if self.recipe.machine.compile_backbone:
            self.net.backbone.compile(dynamic=True)

    def on_train_epoch_start(self) -> None:
        """The epoch's own images, and what stays frozen put back after Lightning's `train()`."""
        loader: Any = self.trainer.train_dataloader
        loader.batch_sampler.set_epoch(self.current_epoch)
        self._averaged = self.global_step
        if self.plan.freeze_batch_norm:
            for layer in batch_norms(self.net):
                layer.eval()
        if self.average is not None:
            self.average.eval()

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Set the learning rate from the progress alone, so that a resumed run has the same."""
        factor = lr_factor(
            self.recipe.schedule.schedule,
            self.progress,
            step=self.global_step,
            warmup_steps=self.plan.warmup_steps,
        )
        optimiser: Any = self.optimizers()
        for group in optimiser.param_groups:
            group["lr"] = self.plan.learning_rate * factor

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The sum of the four losses of one batch."""
        # Torchvision samples anchors and regions from the global generator.
        words = np.random.SeedSequence([self.recipe.seed, *batch["keys"][0], 3]).generate_state(2)
        torch.manual_seed(int(words[0]) << 32 | int(words[1]))
        # Drawn by the step, not by the images: all processes then work at one size.
        step = (self.current_epoch, batch_idx)
        images, sizes, targets = augment_batch(
            batch["images"],
            batch["sizes"],
            batch["targets"],
            batch["keys"],
            augmentation=self.recipe.augmentation,
            mirror=self.mirror,
            seed=self.recipe.seed,
            factor=draw_factor(self._factors, seed=self.recipe.seed, key=step),
        )
        images = images.contiguous(memory_format=torch.channels_last)
        losses = self.net(images, sizes, targets)
        self.loss_names = tuple(losses)
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
        self._judged.set_answers(Answers())

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Detections of one batch, in original pixels."""
        self._found += answer_rows(batch, self._judged(batch["images"], batch["sizes"]))

    def on_validation_epoch_end(self) -> None:
        """VOC mAP@0.4 over all processes' detections, the mean over findings present in the truth."""
        found = {image_id: row for row in self._gather(self._found) for image_id in [row[0]]}
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
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
            {
                "params": [p for p in free if p.dim() > 1],
                "weight_decay": self.recipe.optimisation.weight_decay,
            },
            {"params": [p for p in free if p.dim() <= 1], "weight_decay": 0.0},
        ]
        if self.recipe.optimisation.optimizer == "sgd":
            return torch.optim.SGD(
                groups, lr=self.plan.learning_rate, momentum=self.recipe.optimisation.momentum, nesterov=True
            )
        # Not `fused`: with mixed precision that one unscales gradients itself, too late for clipping.
        return torch.optim.AdamW(groups, lr=self.plan.learning_rate, foreach=True)
