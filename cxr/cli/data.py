"""Commands that make data folders and image stores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr.cli.application import Jobs, app, say


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
    hard: Annotated[
        bool, typer.Option(help="Poor films, faint findings, devices and jewellery, to learn from.")
    ] = False,
    jobs: Jobs = -1,
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
        hard=hard,
        jobs=jobs,
        progress=progress_printer("radiographs"),
    )
    say(f"{made}: phantom of {images} training images")


@app.command("preprocess")
def preprocess_folder(
    folder: Annotated[
        Path, typer.Argument(metavar="DICOM_DIR", help="Folder of radiographs, without its subfolders.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder for the store, the headers and the failures.")
    ],
    image_size: Annotated[int, typer.Option(help="Longer side of the stored images, px.")] = 1024,
    jobs: Jobs = -1,
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
    say(f"{result.summary}; {out}")


@app.command("adopt")
def adopt_data(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder of images and boxes.")],
    data_dir: Annotated[Path, typer.Argument(metavar="DATA_DIR", help="Data folder to make.")],
    format: Annotated[
        str,
        typer.Option(help="vindr, nih, rsna, yolo, coco, voc or table; recognised by itself otherwise."),
    ] = "",
    classes: Annotated[
        str, typer.Option(help="own keeps the source's classes, kaggle brings them to the competition's.")
    ] = "own",
    copy: Annotated[
        bool, typer.Option("--copy/--link", help="Copy the images, or link to where they are.")
    ] = False,
    jobs: Jobs = -1,
) -> None:
    """Lay out other people's images and boxes as a data folder; docs/data-formats.md lists the forms."""
    from cxr import layouts
    from cxr.rundir import progress_printer

    adopted = layouts.adopt(
        source,
        data_dir,
        form=format,
        classes=classes,
        copy=copy,
        jobs=jobs,
        progress=progress_printer("headers"),
    )
    for line in adopted.lines:
        say(line)
    counts = (
        f"{adopted.images['train']} training and {adopted.images['test']} test images, {adopted.boxes} boxes"
    )
    say(f"{data_dir}: {counts}" + ("" if adopted.made else "; was there already, unchanged"))


@app.command("uids")
def list_uids(
    folder: Annotated[Path, typer.Argument(metavar="DICOM_DIR", help="Folder of radiographs.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.csv", help="Table to write.")],
) -> None:
    """List SOP Instance UIDs beside the codes that stand for them; the list identifies images."""
    from cxr import preprocess, survey
    from cxr.errors import DataError
    from cxr.files import replacing

    files = preprocess.find_images(folder)
    table = survey.uid_table(files)
    if not len(table):
        raise DataError(f"{folder}: none of {len(files)} images has a SOP Instance UID")
    with replacing(out) as temporary:
        table.to_csv(temporary, index=False)
    say(f"{len(table)} of {len(files)} images in {out}: keep it where the images are, it identifies them")
