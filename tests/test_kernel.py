"""The Kaggle kernel of a finished run repeats it, on a machine like Kaggle's."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import papermill
import pytest
from smoke_run import TABLES

from cxr import chain, kaggle, report, schema

pytestmark = [pytest.mark.chain, pytest.mark.slow]

# Packages of ours that Kaggle's image lacks, or may lack.
NOT_ON_KAGGLE = ["cxr.cli", "faster_coco_eval", "gdcm", "openjpeg", "pycocotools", "pylibjpeg", "safetensors"]
WITHOUT_THEM = f"""
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *where: None if name in {NOT_ON_KAGGLE} else find_spec(name, *where)
"""


def test_the_kernel_runs_on_a_machine_like_kaggle_s_and_repeats_the_run(
    smoke: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run_dir, data_dir = smoke
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT_THEM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    mounted = tmp_path / "input" / "competitions" / kaggle.COMPETITION
    mounted.parent.mkdir(parents=True)
    mounted.symlink_to(data_dir)
    working = tmp_path / "working"
    working.mkdir()
    values = chain.load_parameters(run_dir / chain.PARAMETERS)
    kernel = kaggle.write_kernel(
        values,
        tmp_path / "kernel",
        user="me",
        input_root=str(tmp_path / "input"),
        working=str(working),
        scratch=str(tmp_path / "scratch"),
    )
    notebook = tmp_path / "kernel" / json.loads(kernel.read_text())["code_file"]
    papermill.execute_notebook(notebook, tmp_path / "out.ipynb", progress_bar=False, cwd=working)
    for table in TABLES:
        assert (working / "run" / table).read_bytes() == (run_dir / table).read_bytes(), table
    assert (working / "submission.csv").read_bytes() == (run_dir / schema.SUBMISSION_CSV).read_bytes()
    assert (working / "run" / report.REPORT).is_file()
    assert not (working / "run" / schema.IMAGES_DIR).exists(), "18 GB would not fit"
    for name in (one.name for one in chain.read_notebooks()):
        copy = Path(name) / f"{name}.ipynb"
        assert checked_cells(working / "run" / copy) == checked_cells(run_dir / copy), name


def checked_cells(path: Path) -> list[list[object]]:
    """What the cells print that are marked as the same in every run."""
    cells = [cell for cell in nbformat.read(path, 4).cells if "NBVAL_CHECK_OUTPUT" in cell.source]
    assert cells, path
    return [[output.get("text", output.get("data")) for output in cell.outputs] for cell in cells]
