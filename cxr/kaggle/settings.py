"""What a kernel is to do in its session, as it is written into the kernel."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from cxr.errors import ParameterError
from cxr.kaggle.metadata import COMPETITION, check_source

SESSION_MINUTES = 525.0
"""Kaggle has ended sessions after nine hours and after twelve; the default suits the shorter one, less some
minutes to start it and to keep its output."""
LONGEST_MINUTES = 720.0


@dataclass(frozen=True)
class Settings:
    """One session.

    Attributes:
        competition: Slug of the competition whose images are read.
        data_dataset: Data set with PNG or JPEG copies of the images, as `owner/slug`; empty for none.
        detectors: Data set that `--infer` made, as `owner/slug`; empty for a kernel that trains.
        earlier: Notebook or data set with the run to continue, as `owner/slug`; empty to start one.
        session_minutes: Time for everything.
        keep_images: Keep the preprocessed images among the output, so that a later session has them.
        pause: Leave the schedule of the training as it is and pause at the end, to be continued; without it
            the schedule is brought down within the session.
        root: Folder that holds `input`, `working` and `temp`.
    """

    competition: str = COMPETITION
    data_dataset: str = ""
    detectors: str = ""
    earlier: str = ""
    session_minutes: float = SESSION_MINUTES
    keep_images: bool = False
    pause: bool = False
    root: str = "/kaggle"

    def __post_init__(self) -> None:
        if not 0 < self.session_minutes <= LONGEST_MINUTES:
            raise ParameterError(
                f"session_minutes: expected more than 0 and at most {LONGEST_MINUTES:g}, the longest session "
                f"that Kaggle has, got {self.session_minutes:g}"
            )
        if self.data_dataset:
            check_source("data set", self.data_dataset, shortest=3)

    @property
    def input(self) -> Path:
        """Where Kaggle mounts data, read-only."""
        return Path(self.root) / "input"

    @property
    def working(self) -> Path:
        """Where Kaggle keeps what a kernel writes, 20 GB at the most."""
        return Path(self.root) / "working"

    @property
    def scratch(self) -> Path:
        """Where a kernel has more room, gone with its session."""
        return Path(self.root) / "temp"

    def to_json(self) -> str:
        """Text that `from_json` reads."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """The inverse of `to_json`."""
        return cls(**json.loads(text))
