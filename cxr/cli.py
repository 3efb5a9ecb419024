"""The `cxr` command: arguments in, one clear line out when something is wrong.

Exit status: 0 done, 1 the work failed, 2 bad input or usage, 130 interrupted, 143 terminated.

Each command imports what it works with: the libraries take seconds to load, and nobody should
wait for PyTorch to read a help page.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from cxr import schema
from cxr.errors import CxrError, DataError

app = typer.Typer(
    name="cxr",
    help="Find thoracic abnormalities on chest radiographs. Not a medical device.",
    epilog="With --debug, anywhere in a command, all that is logged is shown, and where an error came from.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_GOES_ON = "what is finished stays, the same command goes on from there"
_PATH_ERRORS = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)

Overrides = Annotated[
    list[str] | None, typer.Option("-p", metavar="KEY=VALUE", help="Set a parameter; may be repeated.")
]
ParameterFile = Annotated[Path, typer.Argument(metavar="PARAMS.yaml", help="Parameter file.")]


class _Relay:
    """Passes on what a notebook writes while it runs, indented, without empty lines."""

    def write(self, text: str) -> None:
        for line in text.splitlines():
            if line.strip():
                print(f"    {line}", flush=True)

    def flush(self) -> None:
        sys.stdout.flush()


def _say(line: str) -> None:
    print(line, flush=True)


@app.command("phantom")
def make_phantom(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make.")],
    images: Annotated[
        int, typer.Option(help="Training images; a quarter as many test images are added.")
    ] = 240,
    size: Annotated[int, typer.Option(help="Longer side of the largest images, px, 256 to 3072.")] = 1024,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    header_leak: Annotated[
        bool, typer.Option(help="Let headers tell normal from abnormal, as in the real data.")
    ] = True,
    abnormal_fraction: Annotated[float, typer.Option(help="Share of patients with findings.")] = 0.3,
    jobs: Annotated[int, typer.Option(help="Processes; -1 for one a core.")] = -1,
) -> None:
    """Make the synthetic data set, in the competition's layout."""
    from cxr import phantom
    from cxr.rundir import progress_printer

    made = phantom.make_phantom(
        folder,
        images=images,
        size=size,
        seed=seed,
        header_leak=header_leak,
        abnormal_fraction=abnormal_fraction,
        jobs=jobs,
        progress=progress_printer("radiographs"),
    )
    _say(f"{made}: phantom of {images} training images")


@app.command("run")
def run_chain(
    parameter_file: ParameterFile,
    overrides: Overrides = None,
    first: Annotated[
        str, typer.Option("--from", metavar="NB", help="First notebook, e.g. 05 or 05_classifier.")
    ] = "",
    last: Annotated[str, typer.Option("--to", metavar="NB", help="Last notebook.")] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Execute even what is finished and unchanged.")
    ] = False,
) -> None:
    """Execute the notebooks in order; finished, unchanged ones are skipped."""
    from cxr import chain, report
    from cxr.rundir import locate

    values = chain.load_parameters(parameter_file, overrides or [])
    root = locate(str(values["run_dir"]))
    executed = chain.run(values, first=first, last=last, force=force, say=_say, notebook_log=_Relay())
    page = report.write_report(root)
    outdated = chain.outdated(values)
    if outdated:
        _say(f"still to run with these parameters: {', '.join(outdated)}")
    else:
        _say("done" if executed else "all is up to date")
        if score := report.submission_score(root):
            _say(
                f"test mAP@{score['iou_threshold']:g}: {score['map']:.4f} over all classes, "
                f"{score['map_findings']:.4f} over the findings"
            )
    _say(f"report: {page}")


@app.command("preprocess")
def preprocess_folder(
    folder: Annotated[
        Path, typer.Argument(metavar="DICOM_DIR", help="Folder of radiographs, without its subfolders.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder for the store, the headers and the failures.")
    ],
    image_size: Annotated[int, typer.Option(help="Longer side of the stored images, px.")] = 1024,
    jobs: Annotated[int, typer.Option(help="Processes; -1 for one a core.")] = -1,
    scheduler: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Dask scheduler to work on instead.")
    ] = "",
    compression: Annotated[str, typer.Option(help="none (fast) or gzip (compact).")] = "none",
    max_failed_fraction: Annotated[
        float, typer.Option(help="More failed files than this is an error.")
    ] = 0.1,
    seconds_per_file: Annotated[
        float, typer.Option(help="A file that takes longer is tried once more, then it failed.")
    ] = 10.0,
    restart: Annotated[
        bool, typer.Option("--restart", help="Delete the store in OUT and make all anew.")
    ] = False,
) -> None:
    """Read radiographs into an image store; a second call does what is left."""
    from cxr import preprocess
    from cxr.rundir import progress_printer

    result = preprocess.preprocess(
        {"": folder},
        out,
        image_size=image_size,
        jobs=jobs,
        scheduler=scheduler,
        compression=compression,
        max_failed_fraction=max_failed_fraction,
        seconds_per_file=seconds_per_file,
        restart="always" if restart else "never",
        progress=progress_printer("images"),
    )
    _say(f"{result.summary}; {out}")


@app.command("train")
def train_detectors(parameter_file: ParameterFile, overrides: Overrides = None) -> None:
    """Do notebook 06's work without a notebook; torchrun starts it on many nodes."""
    from cxr import annotations, chain
    from cxr.detector.checkpoints.run import best_checkpoints
    from cxr.detector.recipe import Recipe
    from cxr.detector.training import folds, launch
    from cxr.recipes import from_values
    from cxr.rundir import RunDir, alone, locate

    values = chain.load_parameters(parameter_file, overrides or [])
    classes = annotations.read_classes(locate(str(values["data_dir"])))
    run = RunDir(str(values["run_dir"]), "06_detector")
    with alone(run.root) if launch.is_first_process() else nullcontext():
        table = folds.train_run(
            run,
            from_values(Recipe, values),
            held_out=values["train_folds"],
            classes=classes,
            progress=run.progress("steps"),
        )
    best = table.groupby(schema.FOLD)["val_map"].max()
    for fold, path in best_checkpoints(run.input(schema.CHECKPOINTS_DIR)).items():
        _say(f"fold {fold}: best validation mAP {best.get(fold, float('nan')):.4f}, {path}")


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
    max_boxes: Annotated[int, typer.Option(help="Most boxes an image.")] = 300,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Find abnormalities on radiographs: boxes in pixels of the original files."""
    from cxr import predictions
    from cxr.detector.prediction import detector, looks
    from cxr.detector.prediction.files import image_files
    from cxr.detector.prediction.files import predict_files as predict
    from cxr.rundir import progress_printer

    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: expected a folder for the predictions, or a new name, got a file")
    how = looks.Looks(
        score_floor=score_threshold,
        max_boxes=max_boxes,
        tta_flip=flip,
        tta_scales=(1.0, *(factor for factor in scale or [] if factor != 1)),
    )
    known = None
    if calibration:
        record = looks.read_looks(calibration)
        record.warn_unless(how)
        known = record.calibrations
    detectors = detector.load_detectors([checkpoint, *(also or [])], known, device=device)
    named, _ = image_files(files)
    detections, failures = predict(
        detectors, files, looks=how, batch_size=batch_size, progress=progress_printer("images")
    )
    count = predictions.write_predictions(
        detections, failures, named, out, classes=detectors[0].spec.classes, pictures=pictures
    )
    _say(f"{len(detections)} boxes on {count} images, {len(failures)} files failed; {out}")
    if count == 0:
        raise DataError(f"none of the {len(failures)} files could be read")


@app.command("score")
def score_submission(
    submission_file: Annotated[Path, typer.Argument(metavar="SUBMISSION.csv", help="Competition format.")],
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
    """Score a submission by PASCAL VOC mAP at IoU > 0.4."""
    from cxr import annotations, metrics, submission

    classes = annotations.read_classes(classes_from or truth_file.parent)
    truth = annotations.read_annotations(truth_file, classes=classes)
    if truth.groupby(schema.IMAGE_ID)[schema.RAD_ID].nunique().max() > 1:
        truth = annotations.fuse_readers(truth, classes=classes)
        print(f"cxr: {truth_file}: several readers an image, fused by weighted boxes fusion", file=sys.stderr)
    detections = submission.parse(submission_file, classes=classes)
    _compare_images(set(detections[schema.IMAGE_ID]), set(truth[schema.IMAGE_ID]), submission_file)
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


@app.command("kaggle")
def write_kaggle_kernel(
    parameter_file: ParameterFile,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    overrides: Overrides = None,
    user: Annotated[str, typer.Option(help="Kaggle user; default: the one the Kaggle client knows.")] = "",
    title: Annotated[str, typer.Option(help="Title of the kernel.")] = "CXR abnormality detector",
    dataset: Annotated[
        list[str] | None, typer.Option(metavar="OWNER/SLUG", help="Data set to mount.")
    ] = None,
) -> None:
    """Write a kernel folder that pushes as it is and runs with the internet off."""
    from cxr import chain, kaggle

    values = chain.load_parameters(parameter_file, overrides or [])
    path = kaggle.write_kernel(values, out, user=user, title=title, datasets=dataset or [])
    _say(f"{path}; push it with `kaggle kernels push -p {out}`")
    if kaggle.NO_USER in path.read_text(encoding="utf-8"):
        _say(f"set your name for {kaggle.NO_USER} in it first, or give --user")


@app.command("export")
def export_images(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder.")],
    format: Annotated[str, typer.Option(help="png, coco or yolo; safetensors or onnx for the detectors.")],
) -> None:
    """Write a run's images and boxes, or its detectors, for other tools."""
    from cxr import export
    from cxr.rundir import progress_printer

    for line in export.export_as(run_dir, out, format, progress=progress_printer("images")):
        _say(line)


def _stop(signal_number: int, frame: FrameType | None) -> None:
    """Turn SIGTERM into an exception, so that locks are let go and temporary files go away."""
    raise SystemExit(128 + signal_number)


def main() -> None:
    """Entry point; turns named errors into one line and an exit status."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(message)s")
    logging.getLogger("cxr").setLevel(logging.DEBUG if debug else logging.INFO)
    signal.signal(signal.SIGTERM, _stop)
    try:
        app(args=arguments)
    except KeyboardInterrupt:
        _fail(f"interrupted; {_GOES_ON}", 130)
    except SystemExit as end:
        if end.code == 130:
            _fail(f"interrupted; {_GOES_ON}", 130)
        if end.code == 128 + signal.SIGTERM:
            _fail(f"terminated; {_GOES_ON}", 128 + signal.SIGTERM)
        raise
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, CxrError):
            _fail(f"{type(error).__name__}: {error}", error.exit_code)
        if isinstance(error, _PATH_ERRORS):
            _fail(f"{error.filename}: {error.strerror}; give another path", 2)
        if isinstance(error, OSError):
            _fail(str(error), 1)
        _fail(f"unexpected {type(error).__name__}: {error} (--debug shows where)", 1)


def _fail(message: str, status: int) -> None:
    print(f"cxr: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
