"""The runner on two toy notebooks: what runs, what is skipped, what a failure leaves behind."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import nbformat
import pytest

from cxr import chain, schema
from cxr.chain import manifest
from cxr.errors import DataError, ParameterError, RunError

HEADER = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% tags=["parameters"]
run_dir: str = "outputs/toy"  # machine: folder of the run
data_dir: str = "data"  # machine: any files
"""
FIRST = (
    HEADER
    + """\
jobs: int = 1  # machine: processes
level: int = 1  # what the table holds
pause_s: float = 0.0

# %%
import time
import pandas as pd
from cxr import schema
from cxr.rundir import RunDir

run = RunDir(run_dir, "01_eda")
time.sleep(pause_s)
run.write_csv(pd.DataFrame({"level": [level]}), schema.TRAIN_FULL_CSV)
if level == 1:
    run.write_csv(pd.DataFrame({"row": []}), schema.LEFT_OUT_CSV)
"""
)
SECOND = (
    HEADER
    + """\
fail: str = ""

# %%
import os
import signal

import pandas as pd
from cxr import schema
from cxr.errors import AnnotationError
from cxr.rundir import RunDir

run = RunDir(run_dir, "04_split")
table = pd.read_csv(run.input(schema.TRAIN_FULL_CSV))
if fail == "dead":
    os.kill(os.getpid(), signal.SIGKILL)
if fail == "named":
    raise AnnotationError("train.csv row 3: bad")
assert not fail, fail

# %%
run.write_csv(table, schema.CONSENSUS_CSV)
"""
)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two notebooks with an empty data folder; the working directory is in it."""
    for name in ("params", "notebooks", "data"):
        (tmp_path / name).mkdir()
    (tmp_path / "notebooks" / "01_eda.py").write_text(FIRST)
    (tmp_path / "notebooks" / "04_split.py").write_text(SECOND)
    (tmp_path / "params" / "toy.yaml").write_text("level: 1\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(toy: Path, *overrides: str, **options: str | bool) -> list[str]:
    notebooks = toy / "notebooks"
    values = chain.load_parameters(toy / "params" / "toy.yaml", overrides, notebooks=notebooks)
    return chain.run(values, notebooks=notebooks, **options)


def outdated(toy: Path, *overrides: str) -> list[str]:
    notebooks = toy / "notebooks"
    return chain.outdated(
        chain.load_parameters(toy / "params" / "toy.yaml", overrides, notebooks=notebooks),
        notebooks=notebooks,
    )


BOTH = ["01_eda", "04_split"]


@pytest.mark.slow
def test_runs_once_then_only_what_changed(toy: Path):
    assert run(toy) == BOTH
    root = toy / "outputs" / "toy"
    done = json.loads((root / "04_split" / "manifest.json").read_text())
    assert done["outputs"].keys() == {"consensus.csv", "04_split.ipynb"}
    assert done["inputs"]["01_eda/train_full_dataset.csv"]
    assert done["versions"]["numpy"]
    assert done["seconds"] > 0
    assert done["peak_memory_mb"] > 10
    assert nbformat.read(root / "04_split" / "04_split.ipynb", 4).cells[-1].execution_count

    assert run(toy) == []
    assert run(toy, "jobs=2") == [], "how many processes work is no reason to work again"
    assert (root / schema.LEFT_OUT_CSV).is_file()
    assert outdated(toy, "level=2") == ["01_eda"], "as its reader's input is, the reader is up to date"
    assert run(toy, "level=2") == BOTH, "another table, so the reader of the table runs too"
    assert not (root / schema.LEFT_OUT_CSV).exists(), "what was not written again is of another run"
    assert outdated(toy, "level=2") == []
    assert run(toy, "level=2", "pause_s=0.1") == ["01_eda"], "the same table: its reader stays"
    assert run(toy, "level=2", "pause_s=0.1", force=True, first="04") == ["04_split"]

    (root / "04_split" / "consensus.csv").write_text("damaged\n")
    assert run(toy, "level=2", "pause_s=0.1") == ["04_split"]
    os.utime(root / "04_split" / "consensus.csv")
    assert run(toy, "level=2", "pause_s=0.1") == [], "touched, but the same"
    (toy / "data" / "new.csv").symlink_to("nowhere")
    assert run(toy, "level=2", "pause_s=0.1") == BOTH


@pytest.mark.slow
def test_a_failure_is_named_and_loses_nothing(toy: Path):
    with pytest.raises(DataError, match=r"04_split cell \d: train\.csv row 3: bad"):
        run(toy, "fail=named")
    folder = toy / "outputs" / "toy" / "04_split"
    assert [p.name for p in folder.iterdir()] == ["04_split.failed.ipynb"]
    with pytest.raises(RunError, match=r"04_split cell \d: AssertionError: other"):
        run(toy, "fail=other")
    with pytest.raises(RunError, match=r"04_split: its process ended .* for want of memory"):
        run(toy, "fail=dead")
    assert run(toy) == ["04_split"], "the first notebook's work stayed"
    assert not (folder / "04_split.failed.ipynb").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on(toy: Path, stop: signal.Signals):
    code = textwrap.dedent(f"""
        import signal, sys
        from pathlib import Path
        from cxr import chain, cli
        signal.signal(signal.SIGTERM, cli.entry._stop)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may have switched it off
        folder = Path({str(toy / "notebooks")!r})
        values = chain.load_parameters("params/toy.yaml", ["pause_s=60"], notebooks=folder)
        chain.run(values, notebooks=folder, say=print)
    """)
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert "running" in process.stdout.readline()
    time.sleep(2)
    process.send_signal(stop)
    assert process.wait(timeout=30) != 0
    assert manifest.read_manifest(toy / "outputs" / "toy" / "01_eda") is None
    assert run(toy) == BOTH


def test_one_run_a_folder(toy: Path):
    root = toy / "outputs" / "toy"
    root.mkdir(parents=True)
    with open(root / ".lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another run is working in this folder"):
            run(toy)


def test_bad_input_stops_before_anything_is_written(toy: Path):
    with pytest.raises(
        ParameterError, match=r"toy\.yaml: no notebook declares a parameter 'levl'; the nearest is level"
    ):
        (toy / "params" / "toy.yaml").write_text("levl: 1\n")
        run(toy)
    (toy / "params" / "toy.yaml").write_text("data_dir: nowhere\n")
    with pytest.raises(DataError, match=r"data_dir .*nowhere: no such folder"):
        run(toy)
    (toy / "params" / "toy.yaml").write_text("")
    with pytest.raises(ParameterError, match="no notebook '7'; there are 01_eda, 04_split"):
        run(toy, first="7")
    with pytest.raises(ParameterError, match="--from 4 comes after --to 1"):
        run(toy, first="4", last="1")
    assert not (toy / "outputs").exists()


def test_a_notebook_has_one_parameters_cell(toy: Path):
    (toy / "notebooks" / "01_eda.py").write_text("# %%\n1\n")
    with pytest.raises(ParameterError, match=r"01_eda\.py: expected one cell tagged parameters, found 0"):
        chain.read_notebooks(toy / "notebooks")


@pytest.mark.slow
def test_a_dangling_link_in_the_data_stops_nothing(toy: Path):
    (toy / "data" / "gone.dicom").symlink_to(toy / "nowhere")
    assert run(toy)
    assert run(toy) == []
