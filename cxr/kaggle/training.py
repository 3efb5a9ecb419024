"""A session that trains: everything it finishes is kept at once, and a submission is left in any case."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pandas as pd

from cxr import annotations as ann
from cxr import chain, params, report, schema, submission
from cxr.chain import PARAMETERS
from cxr.detector.checkpoints.run import METRICS, best_checkpoints, fold_folder
from cxr.detector.prediction.detector import load_detectors
from cxr.detector.prediction.looks import Looks
from cxr.detector.recipe import Recipe
from cxr.errors import ParameterError, RunError
from cxr.kaggle import budget, opening
from cxr.kaggle.inference import lines_from_boxes, predict_in_time
from cxr.kaggle.inputs import data_folder, find_run, localise
from cxr.kaggle.layout import keep, lay_out, take_over
from cxr.kaggle.opening import say
from cxr.kaggle.settings import Settings
from cxr.params import Value
from cxr.recipes import flat, from_values
from cxr.store import ImageStore


def begin(settings: str, parameters: str) -> TrainingSession:
    """Open a session: what is missing ends the notebook with one line.

    Args:
        settings: Of the session, JSON.
        parameters: A parameter file's text.
    """
    with opening.one_line():
        return TrainingSession(Settings.from_json(settings), parameters)


class TrainingSession:
    """The session, its first minute over: inputs found and checked, a valid submission written.

    Args:
        settings: What the kernel is to do.
        parameters: A parameter file's text.

    Raises:
        CxrError: Something is missing.
    """

    def __init__(self, settings: Settings, parameters: str) -> None:
        self.settings = settings
        self.clock = opening.Clock(settings.session_minutes)
        self.run, self.kept = settings.scratch / "run", settings.working / "run"
        self.broken = self.finished = False
        data = data_folder(
            settings.input,
            settings.scratch / "data",
            competition=settings.competition,
            copies=settings.data_dataset,
        )
        self.data = data
        values = chain.load_parameters(
            opening.write_parameters(settings, parameters), [f"data_dir={data}", f"run_dir={self.run}"]
        )
        lines: list[str] = []
        self.values: dict[str, Value] = localise(
            values, settings.input, settings.scratch / "inputs", folds=_folds(values), say=lines.append
        )
        earlier = find_run(settings.input, settings.earlier) if settings.earlier else None
        if earlier:
            same_run(self.values, earlier)
        self.rehearsal = opening.run_child("rehearse", self.values, settings.scratch / "child", echo=False)
        for line in (self.rehearsal["device"], self.rehearsal["weights"], *lines):
            say(line)
        self.image_ids = opening.test_ids(data)
        opening.write_fallback(settings, data, self.image_ids)
        self.needs = budget.estimate(
            self.values, data, train_seconds=self.rehearsal["train_seconds"] / self.rehearsal["devices"],
            predict_seconds=self.rehearsal["predict_seconds"], session_minutes=settings.session_minutes,
        )  # fmt: skip
        opening.check_room(
            settings,
            images=self.needs.images,
            image_size=int(cast(int, values["image_size"])),
            share=opening.share_of_square([data / "train", data / "test"]),
        )
        for line in self.needs.lines(settings, continued=bool(earlier)):
            say(line)
        if not earlier and self.needs.left(settings, continued=False) <= 0:
            raise ParameterError(
                f"session_minutes: {settings.session_minutes:g} min leave nothing for training, see above"
            )
        lay_out(self.run, self.kept, keep_images=settings.keep_images)
        if earlier:
            take_over(earlier, self.run, link_images=not settings.keep_images)
            say(f"goes on from {earlier}")

    def prepare(self) -> None:
        """Notebooks 01 to 05; their results are kept at once."""
        minutes = self.clock.left - self.needs.after
        self.broken = not opening.attempt("preparing", lambda: self._chain(last="05", minutes=minutes))

    def train(self) -> None:
        """Every fold, on all devices, within the time that evaluation and submission leave."""
        if not self.broken:
            opening.attempt("training", self._train)

    def _train(self) -> None:
        minutes = self.clock.left - self.needs.after
        if minutes <= 0:
            say(f"no time to train: {self.clock.left:.0f} min left, {self.needs.after:.0f} for what follows")
            return
        changes: dict[str, Value] = {}
        if self.settings.pause:
            own = float(cast(float, self.values["pause_minutes"]))
            changes["pause_minutes"] = min(own, minutes) if own else minutes
        else:
            limit = float(cast(float, self.values["max_minutes"]))
            share = budget.share(minutes, [self._spent(fold) for fold in _folds(self.values)])
            self.values["max_minutes"] = min(limit, share) if limit else share
            say(f"training: {minutes:.1f} min, up to {self.values['max_minutes']:.1f} min a fold in all")
        result = opening.run_child(
            "train",
            {**self.values, **changes},
            self.settings.scratch / "child",
            processes=int(self.rehearsal["devices"]),
            minutes=self.clock.left - 0.5 * self.needs.after,
        )
        self.finished = bool(result["finished"])
        say(result["message"])

    def _spent(self, fold: int) -> float:
        """Minutes that a fold's training has taken in earlier sessions."""
        path = fold_folder(self.run / schema.CHECKPOINTS_DIR, fold) / METRICS
        return float(pd.read_csv(path)["seconds"].iloc[-1]) / 60 if path.is_file() else 0.0

    def submit(self) -> None:
        """The submission of the best there is; whatever fails, a valid one stays and all is kept."""
        detectors = best_checkpoints(self.run / schema.CHECKPOINTS_DIR)
        made = False
        if detectors or self.values["checkpoints"]:
            if self.finished:
                made = opening.attempt("notebooks 06 to 08", lambda: self._submit(first="06"))
            if not made and self.clock.left > self.needs.after / 4:
                made = opening.attempt("notebooks 07 and 08", lambda: self._submit(first="07"))
            made = made or opening.attempt("predicting", self._submit_boxes)
        opening.attempt("report", lambda: report.write_report(self.run))
        opening.attempt("keeping", lambda: keep(self.run, self.kept))
        if not made:
            say("submission.csv says 'no finding' for every image: the lines above say why")
        elif not self.finished:
            say("training is not finished; a kernel written with --continue goes on with this one's output")
        say(f"kept: {self.kept}; {self.clock.left:.0f} min were left")

    def _submit(self, *, first: str) -> None:
        # What is left over is for writing the boxes without notebooks.
        self._chain(first=first, minutes=self.clock.left - self.needs.after / 4)
        opening.publish(self.settings, self.data, self.run / schema.SUBMISSION_CSV)
        say(f"submission.csv: made by notebook 08 from {self.run / schema.CHECKPOINTS_DIR}")

    def _submit_boxes(self) -> None:
        """Without notebooks, without a gate: what the detectors find on the test images."""
        store = ImageStore(self.run / schema.IMAGES_DIR)
        classes = ann.read_classes(self.data)
        device = "cpu" if self.values["accelerator"] == "cpu" else "auto"
        found = predict_in_time(
            load_detectors(list(best_checkpoints(self.run / schema.CHECKPOINTS_DIR).values()), device=device),
            store,
            [image_id for image_id in self.image_ids if image_id in store],
            looks=from_values(Looks, self.values),
            batch_size=int(cast(int, self.values["predict_batch_size"])),
            clock=self.clock,
        )
        made = self.settings.scratch / "submission.csv"
        boxes = lines_from_boxes(found, self.image_ids, classes=classes)
        submission.write(boxes, self.image_ids, made, classes=classes)
        opening.publish(self.settings, self.data, made)
        say("submission.csv: the detectors' boxes, without a gate")

    def _chain(self, *, first: str = "", last: str = "", minutes: float) -> None:
        """Notebooks in a process of its own, which ends when its time is over."""
        if minutes <= 0:
            raise RunError("no time is left")
        try:
            opening.run_child(
                "notebooks",
                {"values": self.values, "first": first, "last": last},
                self.settings.scratch / "child",
                minutes=minutes,
            )
        finally:
            keep(self.run, self.kept)


def same_run(values: Mapping[str, Value], earlier: Path) -> None:
    """Refuse to go on with other parameters than the earlier session had: its training would start anew.

    Args:
        values: Parameters of this session.
        earlier: The run to go on with.

    Raises:
        ParameterError: They differ in what a training depends on.
    """
    if not best_checkpoints(earlier / schema.CHECKPOINTS_DIR):
        return
    before = params.read_file(earlier / PARAMETERS)
    names = [*flat(Recipe(), machine=False, grows=False), "image_size", "folds"]
    # A file of weights lies behind a link whose path is the same in all sessions.
    other = [name for name in names if name in before and before[name] != values[name]]
    if other:
        told = ", ".join(f"{name} {before[name]!r}, now {values[name]!r}" for name in other)
        raise ParameterError(
            f"the earlier session had {told}: its training would start anew; give the same values, "
            "or leave out --continue"
        )


def _folds(values: Mapping[str, Value]) -> list[int]:
    return cast(list[int], values["train_folds"])
