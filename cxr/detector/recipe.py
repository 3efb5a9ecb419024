"""How a detector is trained: every parameter of notebook 06, with its meaning, unit and range.

This is the only place that says what a parameter is. Notebook 06 repeats names, types, defaults and
meanings in its parameters cell, because papermill needs literals there; a test holds the two equal.
A parameter marked `machine` says where or how fast a training runs. It does not count when two
trainings are compared: another value neither starts a training anew nor keeps it from being resumed.
One marked `grows` does not count either: a larger value goes on with what a smaller one trained, and a
smaller one keeps what a larger one trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cxr.errors import ParameterError
from cxr.recipes import check, parameter

LABEL_MODES = ("fused", "every_reader", "agreement")
AUTO, PHANTOM = "auto", "phantom"
"""Values of `weights`: what ships with the package, or random weights where nothing does; what ships."""
PUBLISHERS = ("torchvision", "timm")
"""Values of `weights` that are fetched from the internet."""


def names_file(weights: str) -> bool:
    """Whether a value of `weights` is the path of a file."""
    return weights not in ("", AUTO, PHANTOM, *PUBLISHERS)


@dataclass(frozen=True)
class Network:
    """Which network, what it starts from, and the size of its images."""

    architecture_name: str = parameter(
        "light", "a network of the registry, such as resnet50_fpn_v2, or timm/NAME"
    )
    weights: str = parameter(
        "auto", 'file ({fold}: the fold), phantom, torchvision, timm, "" random; auto: phantom or ""'
    )
    weights_sha256: str = parameter("", 'expected hash of that file, "" to not check')
    detector_image_size: int = parameter(
        384, "longer side of the image that the network sees", unit="px", low=32
    )
    anchor_sizes: tuple[float, ...] = parameter(
        (), "small to large, as many for each level; [] to fit them", unit="network px", low=1.0
    )
    aspect_ratios: tuple[float, ...] = parameter(
        (), "height / width of the anchors; [] to fit them", low=0.01
    )
    batch_norm: str = parameter(
        "auto",
        "trained, frozen, or auto: frozen with given weights and fewer than 8 images a step",
        choices=("auto", "trained", "frozen"),
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Labels:
    """Which readers' boxes are learnt, and how much each counts."""

    label_mode: str = parameter(
        "agreement",
        "agreement weighs fused boxes by who drew them; or fused, every_reader",
        choices=LABEL_MODES,
    )
    readers: tuple[str, ...] = parameter((), "learn only from these readers; [] for all")
    skip_readers: tuple[str, ...] = parameter((), "leave out images that one of these readers read")

    def __post_init__(self) -> None:
        check(self)

    @property
    def by_reader(self) -> bool:
        """Whether a training must know which reader drew which box."""
        return self.label_mode == "every_reader" or bool(self.readers) or bool(self.skip_readers)


@dataclass(frozen=True)
class Sampling:
    """Which images an epoch shows, and in what batches."""

    images_per_epoch: int = parameter(480, "images shown in an epoch, 0 for about all that have boxes", low=0)
    negative_fraction: float = parameter(
        0.15, "share of images without boxes in an epoch, below 0 as in the data", high=1.0
    )
    class_balance: float = parameter(
        0.5, "0 shows images alike, 0.5 shows those with rare findings more often", low=0.0
    )
    batch_size: int = parameter(4, "images a step and device", low=1)
    accumulate: int = parameter(1, "batches an optimiser step", low=1)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Augmentation:
    """How training images differ from stored ones; `NO_AUGMENTATION` leaves them as they are.

    Zoom and shift are reined in so that boxes stay whole. After a rotation a box is the hull of its
    turned self.
    """

    hflip: float = parameter(
        0.5, "probability of a mirror image; right and left classes swap", low=0.0, high=1.0
    )
    flip_bound: tuple[str, ...] = parameter((), "findings bound to a side: images with one are not mirrored")
    scale: tuple[float, ...] = parameter((0.85, 1.2), "smallest and largest zoom", low=0.1, high=10.0)
    shift: float = parameter(0.06, "largest shift, share of the side", low=0.0, high=1.0)
    rotate_deg: float = parameter(0.0, "largest rotation", unit="degrees", low=0.0, high=180.0)
    brightness: float = parameter(0.1, "largest change, share of full white", low=0.0, high=1.0)
    contrast: float = parameter(0.2, "largest relative change", low=0.0, high=1.0)
    gamma: float = parameter(0.2, "exponents from 1 / (1 + gamma) to 1 + gamma", low=0.0)
    noise: float = parameter(0.02, "largest standard deviation, share of full white", low=0.0, high=1.0)
    multi_scale: tuple[float, ...] = parameter(
        (1.0,), "factors of the image size, one drawn for each batch", low=0.1, high=10.0
    )

    def __post_init__(self) -> None:
        check(self)
        if len(self.scale) != 2 or self.scale[0] > self.scale[1]:
            raise ParameterError(f"scale: expected smallest and largest zoom, got {list(self.scale)}")
        if not self.multi_scale:
            raise ParameterError("multi_scale: expected at least one factor, got none")


NO_AUGMENTATION = Augmentation(
    hflip=0.0, scale=(1.0, 1.0), shift=0.0, brightness=0.0, contrast=0.0, gamma=0.0, noise=0.0
)


@dataclass(frozen=True)
class Optimisation:
    """The optimiser and its steps."""

    optimizer: str = parameter("adamw", "optimiser", choices=("adamw", "sgd"))
    learning_rate: float = parameter(
        0.0, "largest of the schedule, 0 for a rule by network and batch size", low=0.0
    )
    weight_decay: float = parameter(0.01, "of weights, not of biases and normalisation", low=0.0)
    momentum: float = parameter(0.9, "of sgd", low=0.0, high=1.0)
    clip_norm: float = parameter(5.0, "largest norm of the gradient, 0 for no clipping", low=0.0)
    ema_decay: float = parameter(
        0.998, "of the averaged weights that are validated and kept, 0 for none", low=0.0, high=0.999999
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Schedule:
    """How long a training goes, and how its learning rate and validations are spread."""

    epochs: int = parameter(8, "each shows images_per_epoch images", low=1)
    max_minutes: float = parameter(
        0.0,
        "training ends after this, its schedule brought down in time; 0 for no limit",
        unit="min",
        grows=True,
        low=0.0,
    )
    schedule: str = parameter(
        "onecycle", "course of the learning rate", choices=("onecycle", "cosine", "constant")
    )
    warmup_steps: int = parameter(
        500, "rise of cosine and constant, at most a twentieth of all", unit="optimiser steps", low=0
    )
    validate_every: int = parameter(1, "epochs between validations; the last is always validated", low=1)
    patience: int = parameter(0, "stop after so many validations without a better one, 0 for never", low=0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Machine:
    """Where and how fast a training runs."""

    accelerator: str = parameter("auto", "device", machine=True, choices=("auto", "cpu", "gpu"))
    devices: int = parameter(
        0, "devices on each machine, 0 for all; a notebook trains on one", machine=True, low=0
    )
    num_nodes: int = parameter(1, "machines, when torchrun starts the training", machine=True, low=1)
    pause_minutes: float = parameter(
        0.0,
        "pause before an epoch that would end later than this; 0 for never",
        unit="min",
        machine=True,
        low=0.0,
    )
    num_workers: int = parameter(0, "loading processes of each device", machine=True, low=0)
    cache_mib: int = parameter(512, "memory for resized images", unit="MiB", machine=True, low=0)
    precision: str = parameter(
        "auto",
        "16 bits where that is faster, else float32",
        choices=("auto", "32-true", "16-mixed", "bf16-mixed"),
    )
    compile_backbone: bool = parameter(False, "torch.compile, pays on CUDA in long trainings", machine=True)
    tensorboard: bool = parameter(False, "also log for TensorBoard, needs that package", machine=True)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Recipe:
    """All that can be told to a training besides its data.

    Two trainings with the same recipe on the same data and the same CPU give the same detector, bit by
    bit, also after a kill and a resume (unless `max_minutes` ties them to the clock).
    """

    network: Network = field(default_factory=Network)
    labels: Labels = field(default_factory=Labels)
    sampling: Sampling = field(default_factory=Sampling)
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimisation: Optimisation = field(default_factory=Optimisation)
    schedule: Schedule = field(default_factory=Schedule)
    machine: Machine = field(default_factory=Machine)
    seed: int = parameter(0, "for weights, order and augmentation", low=0)

    def __post_init__(self) -> None:
        check(self)
