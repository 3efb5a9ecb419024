"""What a training keeps as it goes: checkpoints, the table of metrics, the time."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch

from cxr.detector.checkpoints.run import BEST, LAST, METRICS
from cxr.detector.checkpoints.weights import read_checkpoint
from cxr.detector.recipe import Schedule
from cxr.files import publish_hashed, replacing

log = logging.getLogger("cxr")

SECONDS_TO_ESTIMATE = 60.0
"""When the first estimate of the remaining time is logged."""


def write_metrics(rows: list[dict[str, Any]], folder: Path) -> None:
    """`metrics.csv` of a training, with its hash beside it."""
    with replacing(folder / METRICS, hashed=True) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def kept_rows(last: Path) -> list[dict[str, Any]]:
    """Rows of `metrics.csv` as the last state of a training has them; none where it has none."""
    states = read_checkpoint(last).get("callbacks", {}).values()
    return next((list(state["rows"]) for state in states if "rows" in state), [])


class Keeper(pl.Callback):
    """Writes checkpoints and metrics after each epoch, watches the time, reports progress.

    Both checkpoints carry their hash beside them and appear complete. `metrics.csv` is
    written anew each epoch from the rows so far, those from before a resume included.

    Args:
        out_dir: Where to write.
        schedule: How long the training goes, and when it is validated.
        has_val: Whether there are validation images.
        pause_minutes: Pause at the end of an epoch when the next would end later than this; 0 for never.
        progress: Called with optimiser steps done and in all.
    """

    def __init__(
        self,
        out_dir: Path,
        *,
        schedule: Schedule,
        has_val: bool,
        pause_minutes: float = 0.0,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.out_dir = out_dir
        self.schedule = schedule
        self.max_seconds = 60.0 * schedule.max_minutes
        self.has_val = has_val
        self.pause_seconds = 60.0 * pause_minutes
        self.report = progress
        self.paused = False
        self.out_of_time = False
        self.best = math.nan
        self.seconds = 0.0
        self._before = 0.0  # seconds of earlier starts
        self._started = 0.0
        self._epoch_started = 0.0
        self._epoch_seconds = 0.0  # of the longest epoch of this start
        self._validation_seconds = 0.0
        self._validation_started = 0.0
        self._first_step = 0
        self._estimated = False
        self._bad = 0
        self._rows: list[dict[str, Any]] = []

    # -- what goes into the checkpoint ---------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Time and best value so far, for a resume."""
        return {"best": self.best, "seconds": self.seconds, "bad": self._bad, "rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.best = float(state_dict["best"])
        self._before = self.seconds = float(state_dict["seconds"])
        self._bad = int(state_dict["bad"])
        self._rows = list(state_dict["rows"])

    # -- the course of training ----------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._started = time.monotonic()
        self._first_step = trainer.global_step

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last epoch is validated whatever `validate_every` is."""
        self._epoch_started = time.monotonic()
        final = trainer.current_epoch + 1 >= self.schedule.epochs
        trainer.check_val_every_n_epoch = 1 if final else self.schedule.validate_every

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell how far training is, and end it when its time is over."""
        self.seconds = self._before + time.monotonic() - self._started
        if self.max_seconds:
            # A last validation longer than the whole time leaves a little of it all the same.
            room = max(self.max_seconds / 100, self.max_seconds - self._validation_seconds)
            used = trainer.strategy.broadcast(self.seconds / room)
            pl_module.budget_used = used
            if used >= 1:
                trainer.should_stop = self.out_of_time = True
                trainer.check_val_every_n_epoch = 1
        total = pl_module.plan.total_steps
        if self.report is not None and trainer.is_global_zero:
            self.report(min(trainer.global_step, total), total)
        running = self.seconds - self._before
        if not self._estimated and running > SECONDS_TO_ESTIMATE and trainer.global_step > self._first_step:
            self._estimated = True
            left = running / (trainer.global_step - self._first_step) * (total - trainer.global_step)
            if self.max_seconds:
                left = min(left, self.max_seconds - self.seconds)
            log.info(
                "step %d of %d, about %.0f more minutes", trainer.global_step, total, math.ceil(left / 60)
            )

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Time the validation, to leave room for the last one."""
        self._validation_started = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """The time a validation takes."""
        self._validation_seconds = time.monotonic() - self._validation_started

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Write the epoch's row and the checkpoints."""
        self.seconds = self._before + time.monotonic() - self._started
        value = pl_module.val_map
        pl_module.val_map = math.nan
        better = not math.isnan(value) and (math.isnan(self.best) or value > self.best)
        if better:
            self.best, self._bad = value, 0
        elif not math.isnan(value):
            self._bad += 1
        row: dict[str, Any] = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "learning_rate": pl_module.optimizers().param_groups[0]["lr"],
        }
        losses = {name: float(trainer.callback_metrics[name]) for name in pl_module.loss_names}
        row |= losses | {"loss": sum(losses.values()), "val_map": value, "seconds": round(self.seconds, 2)}
        self._rows.append(row)
        done = f"epoch {row['epoch'] + 1} of {self.schedule.epochs}: loss {row['loss']:.3f}"
        log.info(
            "%s%s, %.0f s", done, "" if math.isnan(value) else f", val mAP@0.4 {value:.3f}", self.seconds
        )
        if trainer.logger is not None:  # the losses get there by themselves
            shown = {"val_map": value, "learning_rate": row["learning_rate"]}
            trainer.logger.log_metrics({n: v for n, v in shown.items() if not math.isnan(v)}, row["step"])
        if trainer.is_global_zero:
            write_metrics(self._rows, self.out_dir)
        # In this order: the last state says that there was a better one before, so that one must be there.
        if better or math.isnan(self.best):
            self._save(trainer, BEST, weights_only=True)
        self._save(trainer, LAST, weights_only=False)
        if self.schedule.patience and self._bad >= self.schedule.patience:
            log.info("no better validation in %d, training ends", self._bad)
            trainer.should_stop = True
        if self.pause_seconds and not trainer.should_stop and row["epoch"] + 1 < self.schedule.epochs:
            self._pause_in_time(trainer)

    def _pause_in_time(self, trainer: pl.Trainer) -> None:
        """Stop between two epochs: what has been trained is then the same as without the pause."""
        now = time.monotonic()
        self._epoch_seconds = max(self._epoch_seconds, now - self._epoch_started)
        over = now - self._started + self._epoch_seconds > self.pause_seconds
        if trainer.strategy.broadcast(over):
            self.paused = trainer.should_stop = True

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Give way to the caller's error; `last.ckpt` holds the last whole epoch."""
        if isinstance(exception, KeyboardInterrupt):
            log.warning("interrupted; %s holds the last whole epoch", self.out_dir / LAST)

    def _save(self, trainer: pl.Trainer, name: str, *, weights_only: bool) -> None:
        """Write a checkpoint beside, then give it its name; all processes must come here."""
        unfinished = self.out_dir / (name + ".part")
        try:
            trainer.save_checkpoint(unfinished, weights_only=weights_only)
        except RuntimeError as error:
            if "inline_container" not in str(error):
                raise
            # Lightning writes into memory first, and torch says in its own words that there was too little.
            raise MemoryError(f"too little memory to write {self.out_dir / name}") from error
        if trainer.is_global_zero:
            publish_hashed(unfinished, self.out_dir / name)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
