"""Training and validation images as Lightning asks for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from cxr import schema
from cxr.detector.data.batches import RadiographDataset, like_shape_batches, make_loader
from cxr.detector.data.labels import Lesson
from cxr.detector.data.pixels import ImageSource
from cxr.detector.data.sampling import EpochBatches, image_frequencies
from cxr.detector.data.targets import build_targets
from cxr.detector.network.spec import DetectorSpec
from cxr.detector.recipe import Recipe


class DetectionData(pl.LightningDataModule):
    """Training and validation images of one fold.

    Args:
        source: Image source.
        lesson: Boxes and images of the training.
        spec: The network's description (classes and image size).
        recipe: How the detector is trained.
        load_size: Longer side of the training images as loaded, in pixels.
    """

    def __init__(
        self, source: ImageSource, lesson: Lesson, *, spec: DetectorSpec, recipe: Recipe, load_size: int
    ) -> None:
        super().__init__()
        self.recipe = recipe
        classes, cache = spec.classes, recipe.machine.cache_mib
        targets = build_targets(
            lesson.table,
            lesson.train_ids,
            source,
            image_size=load_size,
            classes=classes,
            by_agreement=recipe.labels.label_mode == "agreement",
        )
        self.train_set = RadiographDataset(
            source, lesson.train_ids, targets, image_size=load_size, cache_mib=cache
        )
        self.val_set = RadiographDataset(
            source, lesson.val_ids, None, image_size=spec.image_size, cache_mib=cache // 2
        )
        truth = lesson.truth
        val_rows = truth[schema.IMAGE_ID].isin(set(lesson.val_ids)) & truth[schema.CLASS_ID].isin(
            list(classes.finding_ids)
        )
        self.truth = truth[val_rows].dropna(subset=schema.BOX_COLUMNS)
        self.frequencies = image_frequencies(
            lesson.train_ids, targets, class_balance=recipe.sampling.class_balance
        )

    def batches(self, *, rank: int = 0, world: int = 1) -> EpochBatches:
        """The training batches of one process."""
        targets = self.train_set.targets or {}
        return EpochBatches(
            self.train_set.sizes(),
            np.array([len(targets[i].labels) == 0 for i in self.train_set.image_ids], dtype=bool),
            self.frequencies,
            self.recipe.sampling,
            seed=self.recipe.seed,
            rank=rank,
            world=world,
        )

    @property
    def _trainer(self) -> Any:
        """The trainer, which Lightning sets before it asks for images."""
        return self.trainer

    def train_dataloader(self) -> Any:
        """Training batches of this process."""
        trainer = self._trainer
        batches = self.batches(rank=trainer.global_rank, world=trainer.world_size)
        # Lightning starts the first epoch's iterator before any hook. After a resume the epoch of the
        # checkpoint counts as processed and not yet as completed, which `current_epoch` goes by.
        batches.set_epoch(trainer.fit_loop.epoch_progress.current.processed)
        return make_loader(
            self.train_set,
            batches,
            num_workers=self.recipe.machine.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> Any:
        """This process's share of the validation images; no image is in two shares.

        Where there are fewer batches than processes, those without one look at the first, too: an
        empty share would end Lightning's loop early. What is found there counts once all the same.
        """
        batches = like_shape_batches(self.val_set.sizes(), 2 * self.recipe.sampling.batch_size)
        return make_loader(
            self.val_set,
            batches[self._trainer.global_rank :: self._trainer.world_size] or batches[:1],
            num_workers=self.recipe.machine.num_workers,
            pin_memory=torch.cuda.is_available(),
        )
