"""Where a training runs: devices, processes, nodes, precision."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from cxr.detector.keeper import Keeper
from cxr.errors import ParameterError


def world_size(accelerator: str, devices: int | str, num_nodes: int) -> int:
    """How many processes will train together."""
    if "WORLD_SIZE" in os.environ:  # started by torchrun
        return int(os.environ["WORLD_SIZE"])
    if isinstance(devices, int):
        return max(1, devices if devices > 0 else torch.cuda.device_count()) * num_nodes
    on_cuda = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return (torch.cuda.device_count() if on_cuda else 1) * num_nodes


def make_trainer(
    out_dir: Path,
    keeper: Keeper,
    *,
    epochs: int,
    accelerator: str,
    devices: int | str,
    num_nodes: int,
    precision: str,
    accumulate: int,
    clip_norm: float,
    tensorboard: bool,
) -> pl.Trainer:
    """Lightning's trainer, with what it would keep, print and log by itself left to the keeper.

    Args:
        out_dir: For TensorBoard's files.
        keeper: Writes checkpoints and metrics.
        epochs: Passes.
        accelerator: As Lightning's, like the next two; `torchrun` overrules those.
        devices: A number or "auto".
        num_nodes: Machines.
        precision: "auto" is bf16 autocast on CUDA and float32 elsewhere; else as Lightning's.
        accumulate: Batches an optimiser step.
        clip_norm: Largest norm of the gradient; 0 for no clipping.
        tensorboard: Also log for TensorBoard.

    Raises:
        ParameterError: TensorBoard is asked for and not installed.
    """
    on_cuda = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if precision == "auto":
        precision = "bf16-mixed" if on_cuda and torch.cuda.is_bf16_supported() else "32-true"
    if "LOCAL_WORLD_SIZE" in os.environ:  # torchrun says how many processes and nodes there are
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        num_nodes = int(os.environ["WORLD_SIZE"]) // devices
    elif devices == "auto" and not on_cuda:
        devices = 1
    logger: Any = False
    if tensorboard:
        try:
            logger = pl.loggers.TensorBoardLogger(str(out_dir), name="tensorboard", version="")
        except ModuleNotFoundError as error:
            raise ParameterError(
                "tensorboard=True needs the tensorboard package, which is not here"
            ) from error
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return pl.Trainer(
        max_epochs=epochs,
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        precision=precision,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=clip_norm or None,
        limit_val_batches=None if keeper.has_val else 0,
        num_sanity_val_steps=0,
        callbacks=[keeper],
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        benchmark=on_cuda or None,
    )
