"""How a session's time is shared out: reading, training, evaluation and submission."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr import annotations as ann
from cxr import schema
from cxr.kaggle.opening import reading_minutes
from cxr.kaggle.settings import Settings
from cxr.preprocess import find_images

_OVERHEAD = 0.05
"""Share of a session for scores with their intervals, figures and tables."""
_SAFETY = 1.25
"""What was measured on a few images is taken this much longer."""


@dataclass(frozen=True)
class Needs:
    """Minutes that the parts of a session need, from measured speed.

    Attributes:
        images: Files of training and test.
        reading: Preprocessing and features.
        reading_words: How that number comes about.
        training: All epochs of all folds.
        training_words: How that number comes about.
        after: Evaluation and submission.
    """

    images: int
    reading: float
    reading_words: str
    training: float
    training_words: str
    after: float

    def left(self, settings: Settings, *, continued: bool) -> float:
        """Minutes that training may have; none or fewer where the session is too short."""
        return settings.session_minutes - self.after - (0.0 if continued else self.reading)

    def lines(self, settings: Settings, *, continued: bool) -> list[str]:
        """What there is to say at the beginning.

        Args:
            settings: Of the session.
            continued: Whether an earlier session's results are at hand.
        """
        left = self.left(settings, continued=continued)
        known = "; less where the earlier session kept it" if continued else ""
        if left <= 0:
            last = "nothing is left for training: give more session_minutes"
        elif self.training <= left:
            last = f"{left:.0f} min are left for training, enough"
        elif settings.pause:
            last = f"{left:.0f} min are left for training; it pauses at the end, to be continued"
        else:
            last = f"{left:.0f} min are left for training; its schedule is brought down in that time"
        return [
            f"reading: about {self.reading:.1f} min ({self.reading_words}){known}",
            f"training: about {self.training:.1f} min ({self.training_words})",
            f"evaluation and submission: about {self.after:.1f} min",
            f"of {settings.session_minutes:g} min {last}",
        ]


def estimate(
    values: Mapping[str, Any],
    data: Path,
    *,
    train_seconds: float,
    predict_seconds: float,
    session_minutes: float,
) -> Needs:
    """What a session will need.

    Args:
        values: Parameters of the kernel.
        data: The data folder.
        train_seconds: Of one image in a training step, all devices together.
        predict_seconds: Of one image, all looks of one detector.
        session_minutes: Of the whole session.
    """
    counts = {split: len(find_images(data / split)) for split in ("train", "test")}
    reading, words = reading_minutes([data / split for split in counts], image_size=values["image_size"])
    trained, folds = len(values["train_folds"]), values["folds"]
    epoch = values["images_per_epoch"] or _with_boxes(data) * (folds - 1) / folds / (
        1 - max(0.0, min(0.9, values["negative_fraction"]))
    )
    shown = epoch * values["epochs"] * trained
    looked_at = (counts["train"] / folds + counts["test"]) * trained
    return Needs(
        images=sum(counts.values()),
        reading=_SAFETY * reading,
        reading_words=words,
        training=_SAFETY * shown * train_seconds / 60,
        training_words=(
            f"{trained} fold(s), {values['epochs']} epochs of {epoch:,.0f} images, {train_seconds:.3f} s each"
        ),
        after=_SAFETY * looked_at * predict_seconds / 60 + _OVERHEAD * session_minutes,
    )


def share(minutes: float, spent: Sequence[float]) -> float:
    """Time in all that each training may take, earlier sessions included, so that `minutes` are used up.

    What was trained for longer already gets nothing more; the others end up with the same time.

    Args:
        minutes: To give away.
        spent: What each training has had.
    """
    order = sorted(spent)
    total = order[0]
    for number, following in enumerate([*order[1:], float("inf")], start=1):
        step = min(following - total, minutes / number)
        total, minutes = total + step, minutes - step * number
        if minutes <= 0:
            break
    return total


def _with_boxes(data: Path) -> int:
    """Images with a finding, about."""
    classes = ann.read_classes(data)
    table = ann.read_annotations(data / schema.TRAIN_TABLE, classes=classes)
    return int(table.loc[table[schema.CLASS_ID] != classes.normal_id, schema.IMAGE_ID].nunique())
