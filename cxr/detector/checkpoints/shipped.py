"""The weights that ship with the package, see the card in their folder."""

from __future__ import annotations

import logging
from pathlib import Path

from cxr.detector.network.registry import architecture
from cxr.detector.recipe import AUTO, PHANTOM
from cxr.errors import CheckpointError

log = logging.getLogger("cxr")

FOLDER = Path(__file__).with_name("phantom")
"""Where they lie; `cxr.detector.training.pretrain` makes them."""

SEED = 2000
"""Seed of the phantom that they were trained on; no other phantom of this project has it."""


def start_of(weights: str, architecture_name: str) -> str:
    """What a training starts from: a file's path, the name of a publisher, or "" for random weights.

    Args:
        weights: As the recipe has it. "auto" is "phantom" where weights for this network are here, else "".
        architecture_name: The network's name in the registry.

    Raises:
        CheckpointError: "phantom" for a network that has no weights here.
    """
    name = architecture(architecture_name).phantom
    if weights == AUTO and not name:
        return ""
    if weights not in (AUTO, PHANTOM):
        return weights
    if weights == AUTO and not (FOLDER / name).is_file():  # a Kaggle kernel carries the code alone
        log.warning("the weights %s are not here: the network starts from random ones", name)
        return ""
    if not name:
        raise CheckpointError(
            f"weights: none from phantoms ship for {architecture_name!r}; give a file, torchvision or ''"
        )
    return str(FOLDER / name)
