"""Commands that use what runs made: predict, score, give to other tools and to Kaggle."""

from __future__ import annotations

import json
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from cxr import schema
from cxr.cli.application import app, say
from cxr.errors import DataError


@app.command("predict")
def predict_files(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help=".ckpt or .safetensors.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE_OR_DIR...", help="Radiographs.")],
    out: Annotated[Path, typer.Option(help="Folder for predictions.csv and predictions.json.")],
    pictures: Annotated[bool, typer.Option("--pictures", help="Also draw a picture of each image.")] = False,
    score_threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Boxes below this score are left out.")
    ] = 0.05,
    flip: Annotated[bool, typer.Option(help="Also look at the mirror image.")] = False,
    scale: Annotated[
        list[float] | None,
        typer.Option(
            min=0.1, metavar="FACTOR", help="Also look at this size, 1 is its own; may be repeated."
        ),
    ] = None,
    also: Annotated[
        list[Path] | None,
        typer.Option("--with", metavar="CHECKPOINT", help="Fuse with this detector; may be repeated."),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="A run's 07_evaluation/looks.json, for several detectors.")
    ] = None,
    write: Annotated[
        list[str] | None,
        typer.Option(metavar="FORMAT", help="Also write coco, dicom-sr or gsps; may be repeated."),
    ] = None,
    max_boxes: Annotated[int, typer.Option(min=1, help="Most boxes an image.")] = 300,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Find abnormalities on radiographs: boxes in pixels of the original files."""
    from cxr import export, predictions
    from cxr.detector.prediction import detector, looks
    from cxr.detector.prediction.files import image_files, predict_in_parts
    from cxr.recipes import flat
    from cxr.rundir import progress_printer

    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: expected a folder for the predictions, or a new name, got a file")
    how = looks.Looks(
        score_floor=score_threshold,
        max_boxes=max_boxes,
        tta_flip=flip,
        tta_scales=(1.0, *(factor for factor in scale or [] if factor != 1)),
    )
    formats = list(dict.fromkeys(write or []))
    export.check_formats(formats)
    known = None
    if calibration:
        record = looks.read_looks(calibration)
        record.warn_unless(how)
        known = record.calibrations
    image_files(files)  # a wrong path is refused before detectors are loaded
    detectors = detector.load_detectors([checkpoint, *(also or [])], known, device=device)
    show, classes = progress_printer("images"), detectors[0].spec.classes
    algorithm = export.Algorithm(
        tuple(one.sha256 for one in detectors),
        tuple(f"{name}={value}" for name, value in flat(how).items()),
    )
    others = export.FoundWriter(out, formats=formats, algorithm=algorithm, classes=classes)
    with predictions.PredictionWriter(out, classes=classes, pictures=pictures) as writer:
        for part in predict_in_parts(detectors, files, looks=how, batch_size=batch_size):
            writer.add(part.detections, part.failures, part.files)
            others.add(part.detections, part.files)
            show(part.done, part.total)
    say(f"{writer.boxes} boxes on {len(writer.files)} images, {writer.failed} files failed; {out}")
    if not writer.files:
        raise DataError(f"none of the {writer.failed} files could be read")
    for line in others.finish():
        say(line)


@app.command("score")
def score_submission(
    submission_file: Annotated[
        Path, typer.Argument(metavar="FOUND.csv", help="A submission, or a table like predictions.csv.")
    ],
    truth_file: Annotated[Path, typer.Argument(metavar="TRUTH.csv", help="Columns of train.csv.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    classes_from: Annotated[
        Path | None,
        typer.Option("--data-dir", help="Data folder whose classes.csv holds; default VinBigData's."),
    ] = None,
    resamples: Annotated[
        int, typer.Option(min=0, help="Bootstrap resamples for the 95% intervals; 0 for none.")
    ] = 200,
) -> None:
    """Score a submission, or a table with a box in each row, by PASCAL VOC mAP at IoU > 0.4."""
    from cxr import annotations, metrics, submission

    classes = annotations.read_classes(classes_from or truth_file.parent)
    drawn = annotations.read_drawn(truth_file, classes=classes)
    truth = drawn.truth
    if drawn.fused:
        print(f"cxr: {truth_file}: several readers an image, fused by weighted boxes fusion", file=sys.stderr)
    detections = submission.read_detections(submission_file, classes=classes)
    _compare_images(set(detections[schema.IMAGE_ID]), set(truth[schema.IMAGE_ID]), submission_file)
    normal = classes.normal_id
    if normal in set(truth[schema.CLASS_ID]) and normal not in set(detections[schema.CLASS_ID]):
        text = f"no line of class {normal}, which scores 0; the mean over the findings leaves it out"
        print(f"cxr: {submission_file}: {text}", file=sys.stderr)
    card = metrics.scorecard(detections, truth, classes=classes, resamples=resamples)
    print(json.dumps(card.as_dict(), indent=2) if as_json else card.text())


def _compare_images(answered: set[str], asked: set[str], path: Path) -> None:
    """Say on standard error which images a submission leaves out or adds; the score cannot."""
    if missing := sorted(asked - answered):
        text = f"{len(missing)} of {len(asked)} images of the truth have no row, {missing[0]} first"
        print(f"cxr: {path}: {text}; they count as unanswered", file=sys.stderr)
    if extra := sorted(answered - asked):
        text = f"{len(extra)} images are not in the truth, {extra[0]} first"
        print(f"cxr: {path}: {text}; they are left out", file=sys.stderr)


@app.command("export")
def export_images(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder.")],
    format: Annotated[
        str,
        typer.Option(
            help="Images and boxes: png, coco or yolo. Detectors: safetensors or onnx. What they found, for "
            "each DICOM file: dicom-sr or gsps."
        ),
    ],
    score_threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Boxes below this score stay out of DICOM objects.")
    ] = 0.05,
) -> None:
    """Write a run's images and boxes, its detectors or what they found, for other tools."""
    from cxr import export
    from cxr.rundir import progress_printer

    for line in export.export_as(
        run_dir, out, format, score_threshold=score_threshold, progress=progress_printer("images")
    ):
        say(line)


@app.command("view")
def view_images(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_OR_PREDICTIONS", help="A run, a folder of cxr predict, or a CSV of predictions."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Page to write; default view.html in the folder given."),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Most images in the page.")] = 200,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DATA_DIR", help="Folder with the images of a CSV, or of a moved run."
        ),
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Write the page, open no browser.")] = False,
) -> None:
    """Look through images with their boxes: one HTML page, the most wrong images first."""
    from cxr import viewer
    from cxr.rundir import progress_printer

    page = viewer.make_page(
        viewer.gather(path, data_dir=data_dir), images=images, progress=progress_printer("images")
    )
    target = (out or (path if path.is_dir() else path.parent) / "view.html").resolve()
    if target.is_dir():
        raise DataError(f"{target}: expected a file for the page, got a folder")
    page.write(target)
    if page.left_out:
        first, reason = next(iter(page.left_out.items()))
        print(f"cxr: {len(page.left_out)} images left out, {first} first: {reason}", file=sys.stderr)
    say(f"{page.images} images in {target} ({target.stat().st_size / 1e6:.1f} MB)")
    if not no_open:
        webbrowser.open(target.as_uri())
