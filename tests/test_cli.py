"""The command's manners: one clear line for each bad input, and exit statuses that tell which kind."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import signal
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from cxr.cli import entry

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def cxr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Call the command in this process; gives status, standard output and standard error."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cxr", *map(str, arguments)])
        monkeypatch.setattr(entry.signal, "signal", lambda *_: None)
        monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # put back after the test
        with pytest.raises(SystemExit) as end:
            entry.main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return call


def test_the_version_is_that_of_the_package(cxr):
    status, out, _ = cxr("--version")
    assert (status, out) == (0, f"cxr {importlib.metadata.version('cxr')}\n")


def test_help_lists_every_command(cxr):
    status, out, _ = cxr("--help")
    assert status == 0
    commands = "phantom run preprocess adopt uids train predict score kaggle export view"
    for command in commands.split():
        assert command in out
        assert cxr(command, "--help")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "missing.yaml"], "DataError: missing.yaml: no such parameter file"),
        (
            ["run", "{demo}", "-p", "epoch=3"],
            "-p: no notebook declares a parameter 'epoch'; the nearest is epochs",
        ),
        (["run", "{demo}", "-p", "epochs=many"], "-p epochs: expected int, got str 'many'"),
        (["run", "{demo}", "-p", "data_dir=nowhere"], "nowhere: no such folder; `cxr phantom DIR` makes"),
        (["run", "{demo}", "--from", "9"], "no notebook '9'; there are 01_eda, 02_preprocess"),
        (["train", "{demo}", "-p", "data_dir=data"], "notebook 02_preprocess writes it"),
        (["preprocess", "nowhere", "out"], "nowhere: no such folder"),
        (["adopt", "nowhere", "out"], "nowhere: no such folder; expected one with images and boxes"),
        (["adopt", "a_file", "out"], "a_file: a file; expected the folder"),
        (["adopt", "data", "out"], "no form that is known"),
        (["adopt", "data", "out", "--format", "x"], "--format x: expected one of vindr, nih"),
        (["phantom", "made", "--size", "10"], "ParameterError"),
        (["score", "no.csv", "truth.csv"], "truth.csv"),
        (["predict", "no.ckpt", "a_file", "--out", "found"], "no.ckpt"),
        (["predict", "no.ckpt", "a_file", "--out", "a_file"], "a_file: expected a folder for the pred"),
        (["predict", "no.ckpt", "a_file", "--out", "o", "--calibration", "a_file"], "a_file: expected JSON"),
        (["export", "nowhere", "out", "--format", "png"], "nowhere: no run"),
        (["export", "nowhere", "out", "--format", "safetensors"], "nowhere: no detector"),
        (
            ["view", "nowhere", "--no-open"],
            "nowhere: expected a run's folder, a folder that cxr predict wrote",
        ),
        (["view", "a_file", "--no-open"], "a_file: a table holds no images; give their data folder"),
        (["kaggle", "{demo}", "kernel", "--title", "abc"], "at least 5 characters"),
        (["kaggle", "{demo}", "kernel", "--dataset", "Own/my weights"], "perhaps own/my-weights"),
        (["kaggle", "{demo}", "kernel", "-p", "weights=torchvision"], "a kernel has no internet"),
        (["kaggle", "{demo}", "kernel", "-p", "gate_mode=foo"], "gate_mode: expected one of auto, line, "),
        (["kaggle", "{demo}", "kernel", "-p", "train_folds=[]"], "train_folds: expected at least one fold"),
        (["kaggle", "{demo}", "kernel", "--infer"], "--infer and a run or checkpoints go together"),
        (["kaggle", "{demo}", "kernel", "a.ckpt"], "--infer and a run or checkpoints go together"),
        (["kaggle", "{demo}", "kernel", "a.ckpt", "--infer"], "found nothing at a.ckpt"),
        (["kaggle", "{demo}", "k", "a.ckpt", "--infer", "--continue", "me/first"], "predicts or trains"),
        (["run", "{demo}", "-p", "gate_mode=foo"], "gate_mode: expected one of auto, line, "),
        (["run", "{demo}", "-p", "label_mode=x"], "label_mode: expected one of fused, "),
        (["run", "{demo}", "-p", "max_boxes=0"], "max_boxes: expected "),
        (["run", "{demo}", "-p", "epochs=-1"], "epochs: expected "),
        (["run", "{demo}", "-p", "predict_batch_size=0"], "predict_batch_size: expected at least 1, got 0"),
        (["run", "{demo}", "-p", "iou_threshold=5.0"], "iou_threshold: expected at most 0.99, got 5"),
        (["run", "{demo}", "-p", "jobs=0"], "jobs: expected -1 or a number from 1, got 0"),
        (["run", "{demo}", "-p", "compression=foo"], "compression: expected one of none, gzip, got 'foo'"),
        (["run", "{demo}", "-p", "accelerator=tpu"], "accelerator: expected one of auto, cpu"),
        (["run", "{demo}", "-p", "precision=foo"], "precision: expected one of auto, 32-true"),
        (["run", "{demo}", "-p", "architecture_name=other"], "architecture_name: expected one of"),
        (["run", "{demo}", "-p", "weights=/no/such.pth"], "weights: /no/such.pth: no such file"),
        (["run", "{demo}", "-p", "train_folds=[7]"], "train_folds: expected some of [0, 1, 2"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], message: str, cxr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "data").mkdir()
    (tmp_path / "a_file").write_text("no folder, no JSON")
    monkeypatch.chdir(tmp_path)
    demo = ROOT / "params" / "demo.yaml"
    status, _, err = cxr(*[a.format(demo=demo) for a in arguments])
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err
    assert {p.name for p in tmp_path.iterdir()} <= {"data", "a_file", "outputs"}, "nothing half-written"


@pytest.mark.parametrize(
    ("number", "handler"),
    [(signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, entry._stop)],
    ids=["SIGINT", "SIGTERM"],
)
def test_a_signal_in_a_destructor_is_not_lost(monkeypatch, number, handler):
    class Closing:
        def __del__(self) -> None:
            signal.raise_signal(number)

    monkeypatch.setattr(sys, "unraisablehook", entry._not_lost)
    before = signal.signal(number, handler)  # who starts the tests in the background has SIGINT ignored
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            closing = Closing()
            del closing
            time.sleep(1)
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize(
    "error", [MemoryError(), ImportError("libx.so: failed to map segment from shared object")]
)
def test_want_of_memory_is_called_that(cxr, monkeypatch, error):
    def app(**_: object) -> None:
        raise error

    monkeypatch.setattr(entry, "app", app)
    status, _, said = cxr("run")
    assert status == 1 and said.startswith("cxr: out of memory; let fewer processes work")


def test_values_out_of_range_are_status_2(cxr):
    for option, value in (("--score-threshold", "7"), ("--scale", "0"), ("--batch-size", "0")):
        status, _, err = cxr("predict", "a.ckpt", "a.dcm", "--out", "out", option, value)
        assert status == 2
        assert f"Invalid value for '{option}'" in err


def test_no_process_is_no_number_of_processes(cxr, tmp_path: Path):
    status, _, err = cxr("phantom", str(tmp_path / "p"), "--jobs", "0")
    assert status == 2
    assert "expected -1 or a number from 1, got 0" in err


def test_wrong_usage_is_status_2(cxr):
    status, _, err = cxr("run")
    assert status == 2
    assert "Missing argument" in err


def test_debug_shows_where(cxr):
    assert "Traceback" in cxr("run", "missing.yaml", "--debug")[2]


def test_score_prints_the_table_or_json(cxr, phantom_dir: Path):
    sample, truth = phantom_dir / "sample_submission.csv", phantom_dir / "test_truth.csv"
    status, out, _ = cxr("score", sample, truth)
    assert status == 0
    assert "No finding" in out
    assert "mAP over" in out
    assert "95% interval" in out
    status, out, _ = cxr("score", sample, truth, "--resamples", "0")
    assert status == 0
    assert "interval" not in out
    status, out, _ = cxr("score", sample, truth, "--json")
    assert status == 0
    card = json.loads(out)
    assert card["map_low"] <= card["map"] <= card["map_high"]
    assert card["map_findings"] == 0.0
    assert card["map"] > 0, "calling every image normal scores on the normal class"


def test_score_takes_what_predict_writes_and_says_what_it_lacks(cxr, phantom_dir: Path, tmp_path: Path):
    truth = phantom_dir / "test_truth.csv"
    rows = pd.read_csv(truth, dtype={"image_id": str})
    drawn = rows[rows.x_min.notna() & (rows.x_max > 1)]
    drawn.assign(score=0.5).to_csv(tmp_path / "predictions.csv", index=False)
    status, out, err = cxr("score", tmp_path / "predictions.csv", truth, "--resamples", "0", "--json")
    assert status == 0
    assert json.loads(out)["map_findings"] == 1
    assert "no line of class 14, which scores 0" in err


def test_score_fuses_a_truth_of_several_readers(cxr, phantom_dir: Path, tmp_path: Path):
    status, out, err = cxr("score", phantom_dir / "sample_submission.csv", phantom_dir / "train.csv")
    assert status == 0
    assert "several readers an image" in err
    assert "16 images" in out


def test_score_says_which_images_are_missing_or_extra(cxr, phantom_dir: Path, tmp_path: Path):
    lines = (phantom_dir / "sample_submission.csv").read_text().splitlines()
    other = tmp_path / "other.csv"
    other.write_text("\n".join([*lines[:-1], "stranger,14 1 0 0 1 1"]) + "\n")
    status, _, err = cxr("score", other, phantom_dir / "test_truth.csv")
    assert status == 0
    assert "1 of 6 images of the truth have no row" in err
    assert "1 images are not in the truth, stranger first" in err


def test_an_output_that_is_a_file_is_bad_input(cxr, phantom_dir: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    smoke = ROOT / "params" / "smoke.yaml"
    status, _, err = cxr("run", smoke, "-p", f"data_dir={phantom_dir}", "-p", f"run_dir={tmp_path / 'file'}")
    assert status == 2
    assert "give another path" in err


def test_kernel_folder(cxr, tmp_path: Path):
    status, out, _ = cxr("kaggle", ROOT / "params" / "kaggle.yaml", tmp_path / "kernel", "--user", "me")
    assert status == 0
    assert "kaggle kernels push -p" in out
    assert (tmp_path / "kernel" / "kernel-metadata.json").is_file()


def test_preprocess_counts_and_names_failures(cxr, phantom_dir: Path, tmp_path: Path):
    folder = tmp_path / "in"
    shutil.copytree(phantom_dir / "test", folder)
    (folder / "bad.dicom").write_text("no image")
    status, out, _ = cxr(
        "preprocess",
        folder,
        tmp_path / "out",
        "--image-size",
        "128",
        "--jobs",
        "1",
        "--max-failed-fraction",
        "0.5",
    )
    assert status == 0
    assert "stored 6, skipped 0 (done before), failed 1" in out
    assert "bad.dicom" in (tmp_path / "out" / "failures.csv").read_text()
    again = ("preprocess", folder, tmp_path / "out", "--image-size", "64", "--max-failed-fraction", "0.5")
    status, _, err = cxr(*again)
    assert status == 2 and "make this one anew with --restart" in err
    status, out, _ = cxr(*again, "--restart", "--seconds-per-file", "20")
    assert status == 0 and "stored 6" in out
    status, out, err = cxr(
        "preprocess",
        folder,
        tmp_path / "out2",
        "--image-size",
        "128",
        "--jobs",
        "1",
        "--max-failed-fraction",
        "0.1",
    )
    assert status == 1
    assert "RunError" in err


def test_adopt_says_what_it_did(cxr, phantom_dir: Path, tmp_path: Path):
    status, out, _ = cxr("adopt", phantom_dir, tmp_path / "data", "--jobs", "1")
    assert status == 0
    assert "took train.csv for the train boxes" in out
    assert "16 training and 6 test images" in out
    status, out, _ = cxr("adopt", phantom_dir, tmp_path / "data", "--jobs", "1")
    assert status == 0 and "was there already, unchanged" in out
    status, _, err = cxr("adopt", phantom_dir, tmp_path / "data", "--copy")
    assert status == 2 and "adopted otherwise (copy differ)" in err
