"""Commands that make runs: the chain of notebooks, and training without one."""

from __future__ import annotations

import io
import sys
from typing import Annotated, cast

import typer

from cxr import schema
from cxr.cli.application import Overrides, ParameterFile, app, say


class _Relay(io.TextIOBase):
    """Passes on what a notebook writes while it runs, indented, without empty lines."""

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if line.strip():
                print(f"    {line}", flush=True)
        return len(text)

    def flush(self) -> None:
        sys.stdout.flush()


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
    from cxr.detector.network.registry import architecture
    from cxr.detector.training.folds import check_start, located
    from cxr.rundir import locate

    values = chain.load_parameters(parameter_file, overrides or [])
    root = locate(str(values["run_dir"]))
    if "06_detector" in [one.name for one in chain.selected(chain.read_notebooks(), first, last)]:
        architecture(str(values["architecture_name"]))
        check_start(located(str(values["weights"])), cast(list[int], values["train_folds"]))
    executed = chain.run(values, first=first, last=last, force=force, say=say, notebook_log=_Relay())
    page = report.write_report(root)
    outdated = chain.outdated(values)
    if outdated:
        say(f"still to run with these parameters: {', '.join(outdated)}")
    else:
        say("done" if executed else "all is up to date")
        if score := report.submission_score(root):
            say(
                f"test mAP@{score['iou_threshold']:g}: {score['map']:.4f} over all classes, "
                f"{score['map_findings']:.4f} over the findings"
            )
    say(f"report: {page}")


@app.command("train")
def train_detectors(parameter_file: ParameterFile, overrides: Overrides = None) -> None:
    """Do notebook 06's work without a notebook; torchrun starts it on many nodes."""
    from cxr import chain
    from cxr.detector.checkpoints.run import best_checkpoints
    from cxr.detector.training import folds, launch
    from cxr.errors import PausedError
    from cxr.rundir import locate

    values = chain.load_parameters(parameter_file, overrides or [])
    try:
        table = folds.train_by_values(values)
    except PausedError as pause:  # asked for by pause_minutes; under torchrun every process comes here
        if launch.is_first_process():
            say(str(pause))
        return
    best = table.groupby(schema.FOLD)["val_map"].max()
    checkpoints = locate(str(values["run_dir"])) / schema.CHECKPOINTS_DIR
    for fold, path in best_checkpoints(checkpoints).items():
        say(f"fold {fold}: best validation mAP {best.get(fold, float('nan')):.4f}, {path}")
