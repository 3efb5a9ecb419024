"""The command that writes kernels for Kaggle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr.cli.application import Overrides, ParameterFile, app, say
from cxr.errors import ParameterError

_MOUNT = {"metavar": "OWNER/SLUG"}


@app.command("kaggle")
def write_kaggle_kernel(
    parameter_file: ParameterFile,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    sources: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN_OR_CHECKPOINTS...", help="With --infer: one run, or checkpoints."),
    ] = None,
    overrides: Overrides = None,
    infer: Annotated[
        bool, typer.Option("--infer", help="Only predict, with detectors from a data set made here too.")
    ] = False,
    earlier: Annotated[
        str, typer.Option("--continue", **_MOUNT, help="Go on with the output of this notebook.")
    ] = "",
    earlier_dataset: Annotated[
        str, typer.Option("--continue-dataset", **_MOUNT, help="Go on with a run in this data set.")
    ] = "",
    pause: Annotated[
        bool, typer.Option("--pause", help="Pause training at the end, its schedule unchanged, to continue.")
    ] = False,
    keep_images: Annotated[
        bool, typer.Option("--keep-images", help="Keep preprocessed images in the output, too.")
    ] = False,
    session_minutes: Annotated[float, typer.Option(help="Time for everything.")] = 525.0,
    machine: Annotated[
        str, typer.Option("--accelerator", help="Kaggle's name of the machine.")
    ] = "NvidiaTeslaT4",
    user: Annotated[str, typer.Option(help="Kaggle user; default: the one the Kaggle client knows.")] = "",
    title: Annotated[
        str, typer.Option(help="Title of the kernel; default: CXR abnormality detector, or inference.")
    ] = "",
    kit_title: Annotated[
        str, typer.Option(help="With --infer: title of the data set; default: CXR detectors.")
    ] = "",
    competition: Annotated[
        str, typer.Option(metavar="SLUG", help="Competition; default: VinBigData's.")
    ] = "vinbigdata-chest-xray-abnormalities-detection",
    data_dataset: Annotated[
        str, typer.Option(**_MOUNT, help="Data set with PNG copies of the images and train_meta.csv.")
    ] = "",
    dataset: Annotated[list[str] | None, typer.Option(**_MOUNT, help="Data set to mount.")] = None,
) -> None:
    """Write a kernel that pushes as it is and runs with the internet off: train, go on, or predict."""
    from cxr import chain, kaggle

    if bool(sources) != infer:
        raise ParameterError("--infer and a run or checkpoints go together; give both or neither")
    for name, given in (
        ("continue", earlier or earlier_dataset),
        ("pause", pause),
        ("keep-images", keep_images),
    ):
        if infer and given:
            raise ParameterError(f"--infer and --{name}: a kernel either predicts or trains, give one")
    if earlier and earlier_dataset:
        raise ParameterError("--continue and --continue-dataset: there is one run to go on with, give one")
    if kit_title and not infer:
        raise ParameterError("--kit-title is for the data set that --infer writes; give both or neither")
    values = chain.load_parameters(parameter_file, overrides or [])
    listing = kaggle.Listing(
        title=title or (kaggle.INFERENCE_TITLE if infer else kaggle.TITLE),
        user=user,
        competition=competition,
        datasets=tuple(filter(None, [*(dataset or []), data_dataset, earlier_dataset])),
        notebooks=(earlier,) if earlier else (),
        accelerator="" if values["accelerator"] == "cpu" else machine,
    )
    settings = kaggle.Settings(
        competition=competition,
        data_dataset=data_dataset,
        earlier=earlier or earlier_dataset,
        session_minutes=session_minutes,
        keep_images=keep_images,
        pause=pause,
    )
    if infer:
        from cxr.kaggle import kit

        for line in kit.write_inference(
            sources or [], values, out, listing, settings, title=kit_title or kit.TITLE
        ):
            say(line)
    else:
        path = kaggle.write_kernel(values, out, listing, settings)
        if values["weights"] in ("", "auto") and not settings.earlier:
            say("training starts from random weights; docs/kaggle.md says how to give it others")
        say(f"{path}; push it with `kaggle kernels push -p {out}`")
    if listing.owner == kaggle.NO_USER:
        say(f"set your name for {kaggle.NO_USER} in {out} first, or give --user")
