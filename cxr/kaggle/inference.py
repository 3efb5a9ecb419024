"""A session that only predicts: detectors from a data set, test images in, `submission.csv` out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from cxr import annotations as ann
from cxr import chain, schema, submission
from cxr import classifier as clf
from cxr import features as feat
from cxr.detector.prediction.detector import Detector, load_detectors
from cxr.detector.prediction.looks import Looks
from cxr.detector.prediction.predict import predict_store
from cxr.detector.training.rehearsal import rehearse_prediction
from cxr.errors import ParameterError
from cxr.files import sha256
from cxr.kaggle import opening
from cxr.kaggle.inputs import data_folder, find_input
from cxr.kaggle.kit import Kit, read_kit
from cxr.kaggle.opening import say
from cxr.kaggle.settings import Settings
from cxr.preprocess import preprocess
from cxr.rundir import progress_printer
from cxr.schema import ClassTable
from cxr.store import ImageStore
from cxr.submission import NORMAL_LINE_ONLY
from cxr.survey import read_sizes

_PART = 64
"""Images predicted between two looks at the clock."""


def begin(settings: str, parameters: str) -> InferenceSession:
    """Open a session: what is missing ends the notebook with one line.

    Args:
        settings: Of the session, JSON.
        parameters: A parameter file's text.
    """
    with opening.one_line():
        return InferenceSession(Settings.from_json(settings), parameters)


class InferenceSession:
    """The session, its first minute over: inputs found and checked, a valid submission written.

    Args:
        settings: What the kernel is to do.
        parameters: A parameter file's text; of it the batch size and the machine's parameters count.

    Raises:
        CxrError: Something is missing.
    """

    def __init__(self, settings: Settings, parameters: str) -> None:
        self.settings = settings
        self.clock = opening.Clock(settings.session_minutes)
        self.values = chain.load_parameters(opening.write_parameters(settings, parameters))
        home = find_input(settings.input, settings.detectors)
        self.kit = read_kit(home)
        looks = self.kit.record.looks
        accelerator = str(self.values["accelerator"])
        self.detectors = load_detectors(
            self.kit.detectors,
            self.kit.record.calibrations,
            device="cpu" if accelerator == "cpu" else "auto",
        )
        rehearsal = rehearse_prediction(self.detectors, looks, accelerator=accelerator)
        say(rehearsal.device)
        self.data = data_folder(
            settings.input,
            settings.scratch / "data",
            competition=settings.competition,
            copies=settings.data_dataset,
            train=False,
        )
        self.classes = ann.read_classes(self.data)
        self.detectors[0].require_classes(self.classes)
        self.image_ids = opening.test_ids(self.data)
        opening.write_fallback(settings, self.data, self.image_ids)
        for path in (*self.kit.detectors, *self.kit.classifiers):
            say(f"{path}, {path.stat().st_size / 1e6:.1f} MB, sha256 {sha256(path)}")
        folder = self.data / "test"
        reading, words = opening.reading_minutes([folder], image_size=self.kit.image_size)
        looking = len(self.image_ids) * rehearsal.predict_seconds / 60
        share = opening.share_of_square([folder])
        opening.check_room(settings, images=len(self.image_ids), image_size=self.kit.image_size, share=share)
        say(f"reading the images: about {reading:.1f} min ({words})")
        say(
            f"looking at them: about {looking:.1f} min ({len(self.image_ids):,} images, "
            f"{rehearsal.predict_seconds:.3f} s each with {len(self.detectors)} detector(s))"
        )
        say(f"of {settings.session_minutes:g} min that leaves {self.clock.left - reading - looking:.0f} min")
        if self.clock.left < reading:
            raise ParameterError(
                f"session_minutes: {settings.session_minutes:g} min are over before the images are read"
            )

    @property
    def folder(self) -> Path:
        """Where images and tables go."""
        return self.settings.scratch / "infer"

    def read_images(self) -> None:
        """Preprocess the test images."""
        opening.attempt("reading the images", self._read)

    def _read(self) -> None:
        result = preprocess(
            {"test": self.data / "test"},
            self.folder,
            image_size=self.kit.image_size,
            jobs=int(str(self.values["jobs"])),
            max_failed_fraction=1.0,
            sizes=read_sizes(self.data, "test"),
            restart="changed",
            progress=progress_printer("images", every_s=60.0),
        )
        say(result.summary)

    def submit(self) -> None:
        """Boxes, gate, `submission.csv`; whatever fails, a valid one stays."""
        if not opening.attempt("predicting", self._submit):
            say("submission.csv says 'no finding' for every image: the line above says why")

    def _submit(self) -> None:
        store = ImageStore(self.folder / "images")
        readable = [image_id for image_id in self.image_ids if image_id in store]
        found = predict_in_time(
            self.detectors,
            store,
            readable,
            looks=self.kit.record.looks,
            batch_size=int(str(self.values["predict_batch_size"])),
            clock=self.clock,
        )
        made = self.folder / "submission.csv"
        submission.write(self._gated(found, store, readable), self.image_ids, made, classes=self.classes)
        opening.publish(self.settings, self.data, made)
        say(f"submission.csv: {len(self.image_ids):,} images, {len(found):,} boxes before the gate")

    def _gated(self, found: pd.DataFrame, store: ImageStore, readable: Sequence[str]) -> pd.DataFrame:
        gated: list[pd.DataFrame] = []

        def gate() -> None:
            answers = classify(self.kit, self.folder, store, readable)
            gated.append(apply_gate(self.kit, found, answers, self.image_ids, classes=self.classes))

        if not (self.kit.gate and opening.attempt("classifier", gate)):
            gated.append(lines_from_boxes(found, self.image_ids, classes=self.classes))
        return gated[0]


def predict_in_time(
    detectors: Sequence[Detector],
    store: ImageStore,
    image_ids: Sequence[str],
    *,
    looks: Looks,
    batch_size: int,
    clock: opening.Clock,
    show: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Detections of as many images as the session has time for.

    Args:
        detectors: One or several, of the same classes.
        store: Images.
        image_ids: Images to look at.
        looks: How to look, and how to fuse.
        batch_size: Largest batch.
        clock: Of the session.
        show: Called with images done and all; a line a minute by default.

    Returns:
        `schema.DETECTION_COLUMNS`, in original pixels.
    """
    show = show or progress_printer("images", every_s=60.0)
    tables = [pd.DataFrame(columns=schema.DETECTION_COLUMNS)]
    for start in range(0, len(image_ids), _PART):
        if clock.left < clock.minutes / 100:
            say(f"no time for the last {len(image_ids) - start:,} images: they get no boxes")
            break
        part = image_ids[start : start + _PART]
        tables.append(predict_store(detectors, store, part, looks=looks, batch_size=batch_size))
        show(start + len(part), len(image_ids))
    full = [table for table in tables if len(table)]
    return pd.concat(full, ignore_index=True) if full else tables[0]


def classify(kit: Kit, folder: Path, store: ImageStore, image_ids: Sequence[str]) -> pd.DataFrame:
    """Probabilities of the kit's classifiers: `image_id`, `p_abnormal` and one a finding.

    Args:
        kit: With classifiers.
        folder: Of the preprocessing, with the table of headers.
        store: Images.
        image_ids: Images that could be read.
    """
    headers = pd.read_csv(folder / Path(schema.HEADERS_CSV).name, dtype=str, keep_default_na=False)
    headers = headers[headers[schema.IMAGE_ID].isin(image_ids)]
    pixels = feat.pixel_feature_table(store, image_ids, jobs=-1)
    answers = pd.DataFrame({schema.IMAGE_ID: list(image_ids)})
    for path in kit.classifiers:
        model = clf.load(path)
        versions = feat.header_versions(model.feature_names)
        features = feat.join_features(pixels, feat.header_features(headers, versions=versions))
        answers = answers.merge(model.predict(features), on=schema.IMAGE_ID)
    return answers


def apply_gate(
    kit: Kit, found: pd.DataFrame, answers: pd.DataFrame, image_ids: Sequence[str], *, classes: ClassTable
) -> pd.DataFrame:
    """Boxes after the gate; an image without an answer gets the mean one, as in notebook 08."""
    assert kit.gate is not None
    answers = answers.set_index(schema.IMAGE_ID).reindex(list(image_ids))
    answers = answers.fillna(answers.mean()).fillna(0.5).reset_index()
    return submission.apply_gate(
        kit.gate,
        found,
        answers[[schema.IMAGE_ID, schema.P_ABNORMAL]],
        p_findings=answers.drop(columns=schema.P_ABNORMAL),
        classes=classes,
    )


def lines_from_boxes(found: pd.DataFrame, image_ids: Sequence[str], *, classes: ClassTable) -> pd.DataFrame:
    """Boxes with a normal line for every image, where no classifier says how abnormal it is.

    The line's score is 1 minus that of the image's best box: the surer a box, the less normal the image.
    """
    best = found.groupby(schema.IMAGE_ID)[schema.SCORE].max().astype(float)
    table = best.reindex(list(image_ids)).fillna(0.0).rename(schema.P_ABNORMAL).reset_index()
    return submission.apply_gate(NORMAL_LINE_ONLY, found, table, classes=classes)
