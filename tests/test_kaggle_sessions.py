"""The three kernels in a stand-in for Kaggle: mounts as folders, its image's packages, no network.

Where the machine allows a user namespace, inputs are mounted read-only there and the network is cut; the
tests run without that elsewhere.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
import yaml
from smoke_run import TABLES

from cxr import chain, kaggle, schema, submission
from cxr.chain.manifest import read_manifest
from cxr.detector.checkpoints.run import BEST, LAST, METRICS
from cxr.detector.checkpoints.weights import read_checkpoint
from cxr.detector.training.folds import train_by_values
from cxr.kaggle import child, inference, kit, layout, opening, training

ROOT = Path(__file__).resolve().parents[1]
SMOKE = ROOT / "params" / "smoke.yaml"
SMALL = ["accelerator=cpu", "jobs=1", "epochs=2", "tta_flip=false", "resamples=10", "weights="]
pytestmark = [pytest.mark.chain, pytest.mark.slow]

# Packages of ours that Kaggle's image lacks, or may lack.
NOT_ON_KAGGLE = ["cxr.cli", "faster_coco_eval", "gdcm", "openjpeg", "pycocotools", "pylibjpeg", "safetensors"]
WITHOUT_THEM = f"""
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *where: None if name in {NOT_ON_KAGGLE} else find_spec(name, *where)
"""

# With its own network, in which nothing is but this machine, and inputs that cannot be written.
CAGE = """
import fcntl, os, socket, struct, subprocess, sys
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 0x41))
for options in (["--bind", sys.argv[1]], ["-o", "remount,ro,bind"]):
    subprocess.run(["mount", *options, sys.argv[1]], check=True)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@functools.cache
def caged(root: Path) -> bool:
    """Whether this machine lets us cut the network and mount the inputs read-only."""
    try:
        done = subprocess.run([*_cage(root), "-c", "pass"], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0


def _cage(root: Path) -> list[str]:
    return ["unshare", "-rnm", sys.executable, "-c", CAGE, str(root / "input")]


class StandIn:
    """A folder in place of `/kaggle`, for one session after another."""

    def __init__(self, root: Path, data: Path) -> None:
        self.root = root
        shutil.copytree(data, root / "input" / "competitions" / kaggle.COMPETITION)
        (root / "site").mkdir()
        (root / "site" / "sitecustomize.py").write_text(WITHOUT_THEM)

    def run(self, folder: Path, *, notebook: bool = False) -> str:
        """Run a kernel in a new session, as a notebook or its cells one after the other; what it said."""
        for name in ("working", "temp"):
            shutil.rmtree(self.root / name, ignore_errors=True)
            (self.root / name).mkdir()
        code = folder / json.loads((folder / kaggle.KERNEL_METADATA).read_text())["code_file"]
        out = folder / "out.ipynb"
        if notebook:
            command = ["-m", "papermill", "--no-progress-bar", "--log-output", str(code), str(out)]
        else:
            cells = [cell.source for cell in nbformat.read(code, 4).cells if cell.cell_type == "code"]
            (folder / "cells.py").write_text("\n".join(cells))
            command = [str(folder / "cells.py")]
        prefix = _cage(self.root) if caged(self.root) else [sys.executable]
        done = subprocess.run(
            [*prefix, *command], cwd=self.root / "working", capture_output=True, text=True, check=False,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.root), "PYTHONPATH": str(self.root / "site"),
                 "OMP_NUM_THREADS": "1",
                 # What sessions compile is the same: once is enough for the tests.
                 "NUMBA_CACHE_DIR": str(self.root / "numba"), "PYTHONPYCACHEPREFIX": str(self.root / "pyc")},
        )  # fmt: skip
        self.status = done.returncode
        return done.stdout + done.stderr

    @property
    def kept(self) -> Path:
        """The run in the output of the last session."""
        return self.root / "working" / "run"

    def mount_output(self, slug: str) -> None:
        """Mount the output of the last session as Kaggle mounts that of a notebook."""
        shutil.copytree(self.root / "working", self.root / "input" / "notebooks" / "me" / slug)

    def settings(self, **changes: object) -> kaggle.Settings:
        return kaggle.Settings(root=str(self.root), session_minutes=60, **changes)


def listing(title: str) -> kaggle.Listing:
    return kaggle.Listing(title, user="me", accelerator="")


@pytest.fixture(scope="module")
def stand_in(phantom_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    return StandIn(tmp_path_factory.mktemp("kaggle"), phantom_dir)


@pytest.fixture(scope="module")
def paused(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a first session said, whose training paused after one epoch; its output is mounted."""
    values = chain.load_parameters(SMOKE, [*SMALL, "pause_minutes=0.0001"])
    folder = tmp_path_factory.mktemp("kernel")
    settings = stand_in.settings(pause=True, keep_images=True)
    kaggle.write_kernel(values, folder, listing("First session"), settings)
    said = stand_in.run(folder, notebook=True)
    assert stand_in.status == 0, said[-3000:]
    stand_in.mount_output("first-session")
    return said


def lines_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def test_a_session_that_paused_has_kept_all_and_submits_what_it_has(paused: str, stand_in: StandIn):
    output = stand_in.root / "input" / "notebooks" / "me" / "first-session"
    assert "fold 0: paused after epoch 1 of 2; the same call goes on from there" in paused
    assert "training is not finished; a kernel written with --continue goes on" in paused
    places = [paused.index(text) for text in ("device: CPU", "weights: none", "reading: about", "of 60 min ")]
    assert places == sorted(places), "the device is the first that is said"
    assert {
        path.name for path in (output / "run" / "06_detector" / "checkpoints" / "fold0").glob("*.ckpt")
    } == {BEST, LAST}
    assert read_manifest(output / "run" / "06_detector") is None
    assert read_manifest(output / "run" / "08_submission") is not None
    assert list((output / "run" / schema.IMAGES_DIR).glob("*.h5"))
    assert (output / "run" / "report.html").is_file()
    submitted = submission.check(
        output / "submission.csv",
        stand_in.root / "input" / "competitions" / kaggle.COMPETITION / "sample_submission.csv",
    )
    assert (submitted.class_id != schema.VINBIGDATA.normal_id).any(), "boxes of the one epoch"


@pytest.fixture(scope="module")
def continued(paused: str, stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a second session said that goes on with the first one's output."""
    if caged(stand_in.root):  # read-only mounts have times of their own
        for path in (stand_in.root / "input").rglob("*"):
            path.touch()
    values = chain.load_parameters(SMOKE, SMALL)
    folder = tmp_path_factory.mktemp("kernel")
    settings = stand_in.settings(pause=True, earlier="me/first-session")
    kaggle.write_kernel(values, folder, listing("Second session"), settings)
    said = stand_in.run(folder)
    assert stand_in.status == 0, said[-3000:]
    return said


def test_going_on_gives_what_one_long_session_gives(continued: str, stand_in: StandIn, tmp_path: Path):
    assert (
        f"goes on from {stand_in.root / 'input' / 'notebooks' / 'me' / 'first-session' / 'run'}" in continued
    )
    assert "[2/5] 02_preprocess: up to date" in continued, "the images were kept"
    assert "[5/5] 05_classifier: up to date" in continued
    assert "every fold is trained" in continued
    assert "06_detector: done" in continued
    assert not list((stand_in.kept / "02_preprocess").glob("images")), "this session keeps no images"
    first = stand_in.root / "input" / "notebooks" / "me" / "first-session" / "run"
    shutil.copytree(first, tmp_path / "run", ignore=shutil.ignore_patterns("06_detector", "07_*", "08_*"))
    values = chain.load_parameters(
        SMOKE, [*SMALL, f"run_dir={tmp_path / 'run'}", f"data_dir={stand_in.root}"]
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the stand-in: sums over more threads end in other last digits
    try:
        train_by_values(values)
    finally:
        torch.set_num_threads(threads)
    long, parts = (run / schema.CHECKPOINTS_DIR / "fold0" for run in (tmp_path / "run", stand_in.kept))
    tables = [pd.read_csv(folder / METRICS).drop(columns="seconds") for folder in (long, parts)]
    pd.testing.assert_frame_equal(*tables)
    for name in (BEST, LAST):
        one, two = (torch.load(folder / name, weights_only=True)["state_dict"] for folder in (long, parts))
        assert all(torch.equal(one[key], two[key]) for key in one | two), name


def test_two_processes_train_together(paused: str, stand_in: StandIn, tmp_path: Path):
    earlier = stand_in.root / "input" / "notebooks" / "me" / "first-session" / "run"
    run, kept = tmp_path / "run", tmp_path / "kept"
    layout.lay_out(run, kept, keep_images=True)
    layout.take_over(earlier, run, link_images=False)
    shutil.rmtree(kept / "06_detector")
    (kept / "06_detector").mkdir()
    data = stand_in.root / "input" / "competitions" / kaggle.COMPETITION
    values = chain.load_parameters(SMOKE, [*SMALL, "devices=2", f"run_dir={run}", f"data_dir={data}"])
    result = opening.run_child("train", values, tmp_path / "child", processes=2, minutes=10)
    assert result["finished"]
    last = read_checkpoint(kept / "06_detector" / "checkpoints" / "fold0" / LAST)
    assert last["hyper_parameters"]["record"]["processes"] == 2


def checked_cells(path: Path) -> list[list[object]]:
    """What the cells print that are marked as the same in every run."""
    cells = [cell for cell in nbformat.read(path, 4).cells if "NBVAL_CHECK_OUTPUT" in cell.source]
    assert cells, path
    return [[output.get("text", output.get("data")) for output in cell.outputs] for cell in cells]


def test_what_sessions_make_before_the_training_is_what_a_run_makes(
    continued: str, stand_in: StandIn, smoke: tuple[Path, Path]
):
    run_dir, _ = smoke
    before = [name for name in TABLES if name[:2] < "06"]
    assert len(before) == 7
    for table in before:
        assert (stand_in.kept / table).read_bytes() == (run_dir / table).read_bytes(), table
    for name in (one.name for one in chain.read_notebooks()[:5]):
        copy = Path(name) / f"{name}.ipynb"
        assert checked_cells(stand_in.kept / copy) == checked_cells(run_dir / copy), name


def test_detectors_from_a_data_set_give_the_run_s_own_submission(
    continued: str, stand_in: StandIn, tmp_path: Path
):
    run, wanted = tmp_path / "run", (stand_in.kept / schema.SUBMISSION_CSV).read_bytes()
    shutil.copytree(stand_in.kept, run)
    values = chain.load_parameters(SMOKE, SMALL)
    lines = kit.write_inference(
        [run], values, tmp_path / "kernel", listing("Only predict"), stand_in.settings(), title="My detectors"
    )
    assert any(line.startswith("3,000 images: about ") and line.endswith("which fits") for line in lines)
    written = tmp_path / "kernel" / "detectors"
    assert not [path for path in written.iterdir() if path.is_dir()], "the client passes over folders"
    told = json.loads((written / "dataset-metadata.json").read_text())
    assert told == {"title": "My detectors", "id": "me/my-detectors", "licenses": [{"name": "other"}]}
    size = (run / schema.CHECKPOINTS_DIR / "fold0" / LAST).stat().st_size
    assert (written / "detector0.ckpt").stat().st_size < size / 2
    shutil.copytree(written, stand_in.root / "input" / "datasets" / "me" / "my-detectors")
    said = stand_in.run(tmp_path / "kernel")
    assert stand_in.status == 0, said[-3000:]
    assert lines_of(said)[0].startswith("device: CPU")
    assert (stand_in.root / "working" / "submission.csv").read_bytes() == wanted
    assert [path.name for path in (stand_in.root / "working").iterdir()] == ["submission.csv"]


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({}, {"accelerator": "auto"}, "ParameterError: accelerator: expected a GPU, found none"),
        ({}, {"weights": "/kaggle/input/absent/a.pth"}, "no input 'absent'; mounted are "),
        ({}, {"weights": f"/kaggle/input/{kaggle.COMPETITION}/a.pth"}, r"weights: .*a\.pth: no such file"),
        ({}, {"weights": f"/kaggle/input/{kaggle.COMPETITION}/train.csv"}, "CheckpointError: .* torch file"),
        ({}, {"train_folds": []}, "train_folds: expected at least one fold"),
        ({}, {"train_folds": [7]}, r"train_folds: expected some of \[0, 1, 2\], got \[7\]"),
        (
            {},
            {"checkpoints": [f"/kaggle/input/{kaggle.COMPETITION}/train.csv"]},
            "CheckpointError: .* torch file",
        ),
        (
            {},
            {"oof_detections": f"/kaggle/input/{kaggle.COMPETITION}/sample_submission.csv"},
            r"sample_submission\.json: no such file",
        ),
        ({}, {"architecture_name": "other"}, "architecture_name: expected one of"),
        ({"competition": "another"}, {}, f"no input 'another'; mounted are {kaggle.COMPETITION}"),
        ({"earlier": "me/gone"}, {}, "no input 'me/gone'; mounted are "),
        ({"earlier": f"me/{kaggle.COMPETITION}"}, {}, "expected one run to continue"),
        ({"data_dataset": "me/pngs"}, {}, "no input 'me/pngs'; mounted are "),
        ({"detectors": "me/gone"}, {}, "no input 'me/gone'; mounted are "),
        ({"detectors": f"me/{kaggle.COMPETITION}"}, {}, "expected a data set made by `cxr kaggle --infer`"),
    ],
)
def test_what_is_missing_ends_a_session_with_one_line(
    changes: dict,
    overrides: dict,
    message: str,
    phantom_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    if torch.cuda.is_available() and "accelerator" in overrides:
        pytest.skip("there is a GPU here")
    if "accelerator" not in overrides:  # one process of its own is enough to see that its errors arrive
        here = lambda task, values, folder, **options: child.TASKS[task](values)  # noqa: E731
        monkeypatch.setattr(opening, "run_child", here)
    (tmp_path / "input" / "competitions").mkdir(parents=True)
    (tmp_path / "input" / "competitions" / kaggle.COMPETITION).symlink_to(phantom_dir)
    settings = kaggle.Settings(root=str(tmp_path), **changes)
    values = yaml.safe_dump({**chain.load_parameters(SMOKE, SMALL), **overrides})
    begin = inference.begin if settings.detectors else training.begin
    with pytest.raises(SystemExit, match=f"^cxr: .*{message}") as ended:
        begin(settings.to_json(), values)
    assert "\n" not in str(ended.value)
