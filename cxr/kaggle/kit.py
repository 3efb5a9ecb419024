"""Detectors for a kernel that only predicts: a folder that `kaggle datasets create -p` takes as it is.

The folder is flat, since the client passes over subfolders. `kit.json` names its parts: detectors without
the state of their training, how they look at images and what their scores are worth, the gate, and the
classifier that speaks into it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from cxr import params, schema, submission
from cxr.chain import PARAMETERS
from cxr.classifier import load as load_classifier
from cxr.detector.checkpoints.files import read_detector, write_slim
from cxr.detector.checkpoints.run import chosen_checkpoints
from cxr.detector.prediction.detector import load_detectors
from cxr.detector.prediction.looks import Looks, LooksRecord, read_looks
from cxr.detector.training.rehearsal import rehearse_prediction
from cxr.errors import CheckpointError, CxrError, DataError
from cxr.files import check_sha256, sidecar
from cxr.kaggle.folder import write_kernel
from cxr.kaggle.metadata import DATASET_METADATA, Listing, dataset_metadata
from cxr.kaggle.settings import Settings
from cxr.params import Value
from cxr.recipes import from_values
from cxr.rundir import read_json, write_json
from cxr.submission import Gate

log = logging.getLogger("cxr")

KIT = "kit.json"
TITLE = "CXR detectors"
_FORMAT = "cxr-kit-1"
_SUFFIXES = (".ckpt", ".safetensors")
_READ_SECONDS = 0.234
"""Of a JPEG 2000 file, the slowest form (docs/measurements.md)."""
_CORES = 4  # of Kaggle's GPU machines
_NO_FILES: dict[str, Value] = {"weights": "", "checkpoints": [], "oof_detections": "", "test_detections": ""}
_CLASSIFIERS = (schema.CLASSIFIER_UBJ, schema.FINDINGS_UBJ)


@dataclass(frozen=True)
class Kit:
    """What a kernel predicts with.

    Attributes:
        detectors: Files of detectors.
        record: How they look, and what their scores are worth by the hash of their file.
        gate: How the classifier speaks into their boxes; None without a classifier.
        classifiers: Files of the classifier and of the one for each finding; none where there is none.
        image_size: Longer side of the preprocessed images, in pixels.
    """

    detectors: tuple[Path, ...]
    record: LooksRecord
    gate: Gate | None
    classifiers: tuple[Path, ...]
    image_size: int


def gather(sources: Sequence[Path], *, looks: Looks, image_size: int) -> Kit:
    """What runs and checkpoints have for predicting.

    Args:
        sources: Either one run with all that belongs to it, or checkpoints (`.ckpt`, `.safetensors`).
        looks: How to look where no run says it.
        image_size: Longer side of the preprocessed images where no run says it.

    Raises:
        DataError: A path is neither, a run is not finished, or a run stands beside others.
        CheckpointError: There is no detector.
    """
    runs = [path for path in sources if path.is_dir()]
    if not sources:
        raise CheckpointError("--infer: expected a run or checkpoints, got none")
    if runs and len(sources) > 1:
        raise DataError(
            f"--infer: expected one run or any number of checkpoints, got the run {runs[0]} among others; "
            "name the checkpoints of all"
        )
    if runs:
        return _of_run(runs[0])
    for path in sources:
        if path.suffix not in _SUFFIXES or not path.is_file():
            found = "another file" if path.exists() else "nothing"
            raise DataError(
                f"--infer: expected a run's folder, a .ckpt or a .safetensors, found {found} at {path}"
            )
    return Kit(tuple(sources), LooksRecord(looks, (), 0.4, {}), None, (), image_size)


def _of_run(root: Path) -> Kit:
    for needed, writer in ((PARAMETERS, "cxr run"), (schema.LOOKS_JSON, "notebook 07")):
        if not (root / needed).is_file():
            raise DataError(f"{root}: expected a run with {needed}, which {writer} writes")
    record = read_looks(root / schema.LOOKS_JSON)
    detectors = chosen_checkpoints(root / schema.CHECKPOINTS_DIR, record.checkpoints)
    if not detectors:
        raise CheckpointError(f"{root}: expected detectors in {schema.CHECKPOINTS_DIR}, found none")
    image_size = params.read_file(root / PARAMETERS)["image_size"]
    kit = Kit(tuple(detectors), record, None, (), int(image_size))
    classifiers = [root / name for name in _CLASSIFIERS]
    if not all(path.is_file() for path in classifiers):
        log.warning("%s: no classifier, so normal lines follow from the boxes", root)
        return kit
    if "detector" in load_classifier(classifiers[0]).groups:
        log.warning(
            "%s: its classifier needs detections of another run, so it is left out and normal lines follow "
            "from the boxes",
            root,
        )
        return kit
    gate = submission.gate_by_name("auto", read_json(root / schema.EVALUATION_JSON))
    return replace(kit, gate=gate, classifiers=tuple(classifiers))


def write_kit(kit: Kit, folder: Path, *, title: str, owner: str) -> list[str]:
    """Write the data set.

    Args:
        kit: From `gather`.
        folder: Folder to write; what it held is replaced.
        title: Of the data set.
        owner: Kaggle user name.

    Returns:
        A line for each detector.

    Raises:
        CheckpointError: A file is no detector, or they are of different classes.
        ParameterError: The title breaks one of Kaggle's rules.
        DataError: The folder holds something else.
    """
    metadata = dataset_metadata(title, owner)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / KIT).is_file():
        raise DataError(f"{folder}: expected a new folder, or one written here before; it holds other files")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names, lines, classes = [], [], set()
    calibrations: dict[str, Any] = {}
    for number, path in enumerate(kit.detectors):
        net, spec, digest = read_detector(path)
        name = f"detector{number}.ckpt"
        written = write_slim(net, spec, folder / name)
        if digest in kit.record.calibrations:
            calibrations[written] = kit.record.calibrations[digest]
        classes.add(spec.class_names)
        names.append(name)
        size = (folder / name).stat().st_size / 1e6
        lines.append(f"{name}: {path}, {spec.architecture} at {spec.image_size} px, {size:.1f} MB")
    if len(classes) > 1:
        raise CheckpointError("--infer: expected detectors of the same classes, got several lists of classes")
    for path in kit.classifiers:
        for file in (path, sidecar(path)):
            shutil.copy(file, folder / file.name)
    content = {
        "format": _FORMAT,
        "detectors": names,
        "looks": replace(kit.record, checkpoints=(), calibrations=calibrations).to_dict(),
        "gate": kit.gate and {f"gate_{field.name}": getattr(kit.gate, field.name) for field in fields(Gate)},
        "classifiers": [path.name for path in kit.classifiers],
        "image_size": kit.image_size,
    }
    write_json(folder / KIT, content)
    write_json(folder / DATASET_METADATA, metadata)
    return lines


def read_kit(folder: Path) -> Kit:
    """The inverse of `write_kit`.

    Raises:
        DataError: The folder holds no such kit.
    """
    if not (folder / KIT).is_file():
        raise DataError(f"{folder}: expected a data set made by `cxr kaggle --infer` with {KIT}, found none")
    content = read_json(folder / KIT)
    try:
        if content["format"] != _FORMAT:
            raise ValueError(content["format"])
        record = LooksRecord.from_dict(content["looks"])
        gate = submission.gate_by_name("auto", content["gate"]) if content["gate"] else None
        files = [folder / name for name in (*content["detectors"], *content["classifiers"])]
        kit = Kit(
            tuple(files[: len(content["detectors"])]),
            record,
            gate,
            tuple(files[len(content["detectors"]) :]),
            int(content["image_size"]),
        )
    except (KeyError, TypeError, ValueError, CxrError) as error:
        raise DataError(
            f"{folder / KIT}: made by another version of this project, or damaged ({error})"
        ) from error
    if missing := [path.name for path in files if not path.is_file()]:
        raise CheckpointError(
            f"{folder}: expected {missing[0]}, which {KIT} names; the data set is incomplete"
        )
    for path in files:
        check_sha256(path, error=CheckpointError)
    return kit


def write_inference(
    sources: Sequence[Path],
    values: Mapping[str, Value],
    folder: Path,
    listing: Listing,
    settings: Settings,
    *,
    title: str,
) -> list[str]:
    """Write a kernel that only predicts, and below it the data set with its detectors.

    Args:
        sources: See `gather`.
        values: Checked parameters; they say how to look where no run does.
        folder: Folder of the kernel; the data set goes into `detectors/` in it.
        listing: How Kaggle lists the kernel.
        settings: What the kernel does in its session.
        title: Of the data set.

    Returns:
        Lines to show: the detectors, how to push both, how long it will take.
    """
    looks = from_values(Looks, values)
    kit = gather(sources, looks=looks, image_size=int(str(values["image_size"])))
    home = folder / "detectors"
    verb = "version -m again" if (home / KIT).is_file() else "create"
    lines = write_kit(kit, home, title=title, owner=listing.owner)
    mounted = str(dataset_metadata(title, listing.owner)["id"])
    write_kernel(
        {**values, **_NO_FILES},
        folder,
        replace(listing, datasets=(*listing.datasets, mounted)),
        replace(settings, detectors=mounted),
    )
    return [
        *lines,
        _forecast(read_kit(home), settings.session_minutes),
        f"first `kaggle datasets {verb} -p {home}`, then `kaggle kernels push -p {folder}`",
    ]


def _forecast(kit: Kit, session_minutes: float, *, images: int = 3000) -> str:
    """How long the kernel will take, from the detectors' speed on this machine.

    Kaggle's GPUs are faster than a CPU; the kernel measures again.
    """
    detectors = load_detectors(kit.detectors, kit.record.calibrations)
    shown = rehearse_prediction(detectors, kit.record.looks, accelerator="cpu")
    looking = images * shown.predict_seconds / 60
    reading = images * _READ_SECONDS / _CORES / 60
    fits = "which fits" if reading + looking <= session_minutes else "too long without a faster device"
    return (
        f"{images:,} images: about {reading:.1f} min to read them, {looking:.1f} min to look at them at the "
        f"speed of this machine ({shown.device}); the session has {session_minutes:g} min, {fits}"
    )
