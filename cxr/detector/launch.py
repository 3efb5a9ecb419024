"""Where a training runs: devices, processes, nodes, precision."""

from __future__ import annotations

import builtins
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from cxr.detector.device import half_type
from cxr.detector.keeper import Keeper
from cxr.errors import ParameterError

log = logging.getLogger("cxr")


@dataclass(frozen=True)
class Machine:
    """The processes that train together.

    Attributes:
        accelerator: As Lightning's.
        devices: Processes on each node.
        num_nodes: Nodes.
    """

    accelerator: str
    devices: int
    num_nodes: int

    @property
    def world(self) -> int:
        """Processes in all."""
        return self.devices * self.num_nodes

    @property
    def on_cuda(self) -> bool:
        """Whether they work on CUDA devices."""
        return self.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def find_machine(accelerator: str, devices: int | str, num_nodes: int) -> Machine:
    """What Lightning's three words mean here: `torchrun` overrules them, "auto" is all devices.

    In a notebook "auto" is one device: its kernel has touched CUDA already, so no process that
    could use another device can be started from it.

    Args:
        accelerator: As Lightning's.
        devices: A number, -1 for all, or "auto".
        num_nodes: Nodes.
    """
    if "WORLD_SIZE" in os.environ:  # started by torchrun, which says how many there are
        local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
        return Machine(accelerator, local, int(os.environ["WORLD_SIZE"]) // local)
    there = torch.cuda.device_count() if Machine(accelerator, 1, 1).on_cuda else 1
    if devices == "auto" and there > 1 and hasattr(builtins, "__IPYTHON__"):
        log.warning("a notebook trains on one of the %d devices; `cxr train` uses them all", there)
        there = 1
    return Machine(accelerator, there if devices in ("auto", -1, "-1") else max(1, int(devices)), num_nodes)


def is_first_process() -> bool:
    """Whether this is the first of the processes that train together: the one that moves files.

    By the variables that torchrun (`RANK`) or Lightning (`NODE_RANK`, `LOCAL_RANK`) set for the others.
    """
    ranks = [os.environ["RANK"]] if "RANK" in os.environ else map(os.environ.get, ("NODE_RANK", "LOCAL_RANK"))
    return all(rank in (None, "0") for rank in ranks)


def make_trainer(
    out_dir: Path,
    keeper: Keeper,
    *,
    epochs: int,
    machine: Machine,
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
        machine: Where it runs.
        precision: "auto" is 16-bit autocast on CUDA (see `device.half_type`) and float32 elsewhere;
            else as Lightning's.
        accumulate: Batches an optimiser step.
        clip_norm: Largest norm of the gradient; 0 for no clipping.
        tensorboard: Also log for TensorBoard.

    Raises:
        ParameterError: TensorBoard is asked for and not installed.
    """
    if precision == "auto":
        kind = half_type(torch.device("cuda")) if machine.on_cuda else None
        precision = {torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed", None: "32-true"}[kind]
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
        accelerator=machine.accelerator,
        devices=machine.devices,
        num_nodes=machine.num_nodes,
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
        benchmark=machine.on_cuda or None,
    )
