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

from cxr.detector.network.device import half_type, has_tiles
from cxr.detector.network.registry import architecture
from cxr.detector.recipe import Machine, Recipe
from cxr.detector.training.keeper import Keeper
from cxr.errors import ParameterError

log = logging.getLogger("cxr")

SMALLEST_HALF = 128
"""px, smallest image that a CPU trains on in 16 bits. Below, a stage's map can have a single place, for which
torch's CPU kernels of bfloat16 read memory that nothing was written to."""


@dataclass(frozen=True)
class Processes:
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


def find_processes(machine: Machine) -> Processes:
    """Where a training runs here: `torchrun` overrules the recipe, no number of devices means all.

    In a notebook no number means one: its kernel has touched CUDA already, so no process that
    could use another device can be started from it.
    """
    if "WORLD_SIZE" in os.environ:  # started by torchrun, which says how many there are
        local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
        return Processes(machine.accelerator, local, int(os.environ["WORLD_SIZE"]) // local)
    there = torch.cuda.device_count() if Processes(machine.accelerator, 1, 1).on_cuda else 1
    if not machine.devices and there > 1 and hasattr(builtins, "__IPYTHON__"):
        log.warning("a notebook trains on one of the %d devices; `cxr train` uses them all", there)
        there = 1
    return Processes(machine.accelerator, machine.devices or there, machine.num_nodes)


def is_first_process() -> bool:
    """Whether this is the first of the processes that train together: the one that moves files.

    By the variables that torchrun (`RANK`) or Lightning (`NODE_RANK`, `LOCAL_RANK`) set for the others.
    """
    ranks = [os.environ["RANK"]] if "RANK" in os.environ else map(os.environ.get, ("NODE_RANK", "LOCAL_RANK"))
    return all(rank in (None, "0") for rank in ranks)


_NAMES = {torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed", None: "32-true"}
"""Lightning's name of each precision."""


def training_type(recipe: Recipe, device: torch.device) -> torch.dtype | None:
    """The 16-bit type to train in; None for float32 and for what only Lightning knows.

    Where the recipe leaves it open: `half_type` on CUDA, and bfloat16 on a CPU with tiles, which makes a step
    of the light networks a quarter to a half faster. Networks with depthwise convolutions become slower so.
    Prediction stays in float32 there, so that every CPU gives the same boxes.
    """
    if recipe.machine.precision != "auto":
        return next((kind for kind, name in _NAMES.items() if name == recipe.machine.precision), None)
    if device.type != "cpu":
        return half_type(device)
    smallest = round(recipe.network.detector_image_size * min(recipe.augmentation.multi_scale))
    fit = architecture(recipe.network.architecture_name).tiles and smallest >= SMALLEST_HALF
    return torch.bfloat16 if fit and has_tiles() else None


def make_trainer(out_dir: Path, keeper: Keeper, *, recipe: Recipe, processes: Processes) -> pl.Trainer:
    """Lightning's trainer, with what it would keep, print and log by itself left to the keeper.

    Args:
        out_dir: For TensorBoard's files.
        keeper: Writes checkpoints and metrics.
        recipe: How the detector is trained.
        processes: Where it runs.

    Raises:
        ParameterError: TensorBoard is asked for and not installed.
    """
    precision: Any = recipe.machine.precision
    if precision == "auto":
        precision = _NAMES[training_type(recipe, torch.device("cuda" if processes.on_cuda else "cpu"))]
    logger: Any = False
    if recipe.machine.tensorboard:
        try:
            logger = pl.loggers.TensorBoardLogger(str(out_dir), name="tensorboard", version="")
        except ModuleNotFoundError as error:
            raise ParameterError(
                "tensorboard=True needs the tensorboard package, which is not here"
            ) from error
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return pl.Trainer(
        max_epochs=recipe.schedule.epochs,
        accelerator=processes.accelerator,
        devices=processes.devices,
        num_nodes=processes.num_nodes,
        precision=precision,
        accumulate_grad_batches=recipe.sampling.accumulate,
        gradient_clip_val=recipe.optimisation.clip_norm or None,
        limit_val_batches=None if keeper.has_val else 0,
        num_sanity_val_steps=0,
        callbacks=[keeper],
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        benchmark=processes.on_cuda or None,
    )
