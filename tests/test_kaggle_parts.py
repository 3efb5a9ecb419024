"""Parts of a session without a session: devices, rehearsal, detectors for a data set, what failures leave."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import pandas as pd
import pytest
import torch
import yaml
from squares import SMALL, SQUARES

from cxr import chain, kaggle, schema, submission
from cxr.detector.checkpoints.files import read_detector, write_slim
from cxr.detector.checkpoints.run import BEST
from cxr.detector.network import device as devices
from cxr.detector.network.registry import build_network
from cxr.detector.network.spec import DetectorSpec
from cxr.detector.prediction.detector import load_detector
from cxr.detector.prediction.looks import Looks, LooksRecord
from cxr.detector.training import rehearsal
from cxr.dicom import load_radiograph
from cxr.errors import CheckpointError, DataError, DiskError, ParameterError, RunError
from cxr.files import times_stay
from cxr.kaggle import inference, kit, opening, training
from cxr.kaggle.budget import Needs
from cxr.recipes import changed

SMOKE = Path(__file__).resolve().parents[1] / "params" / "smoke.yaml"
_LEVELS = len(rehearsal.architecture("light").strides)
FOUND_EVERYWHERE = DetectorSpec("light", SQUARES.names, 64, ((16.0,),) * _LEVELS, (1.0,))
"""A small network; with random weights it finds something in all places."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two detectors with random weights."""
    folder = tmp_path_factory.mktemp("detectors")
    for number in range(2):
        torch.manual_seed(number)
        write_slim(build_network(FOUND_EVERYWHERE), FOUND_EVERYWHERE, folder / f"{number}.ckpt")
    return [folder / "0.ckpt", folder / "1.ckpt"]


# -- devices -----------------------------------------------------------------------------------------

KAGGLE_IMAGE = ["sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.mark.parametrize(
    ("capability", "built_for", "runs"),
    [
        ((6, 0), KAGGLE_IMAGE, False),
        ((7, 5), KAGGLE_IMAGE, True),
        ((8, 9), KAGGLE_IMAGE, True),
        ((7, 0), ["sm_75"], False),
        ((10, 0), ["sm_90", "compute_90"], True),
        ((6, 0), ["compute_70"], False),
        ((9, 0), ["sm_90a"], True),
        ((7, 5), [], False),
    ],
)
def test_code_for_a_gpu(capability: tuple[int, int], built_for: list[str], runs: bool):
    assert devices.has_code_for(capability, built_for) is runs


def test_a_p100_is_named_before_its_first_operation_fails(monkeypatch: pytest.MonkeyPatch):
    about = SimpleNamespace(name="Tesla P100-PCIE-16GB", major=6, minor=0, total_memory=16 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: about)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: KAGGLE_IMAGE)
    with pytest.raises(ParameterError, match=r"P100.* has compute capability 6\.0.* ask for another GPU"):
        devices.describe_device(torch.device("cuda"), torch.float16, require_gpu=True)
    about.name, about.major, about.minor = "Tesla T4", 7, 5
    words = devices.describe_device(torch.device("cuda"), torch.float16, require_gpu=True)
    assert words == "device: 2 x Tesla T4, 16.0 GiB each, float16"
    with pytest.raises(ParameterError, match="expected a GPU, found none"):
        devices.describe_device(torch.device("cpu"), None, require_gpu=True)


def test_a_rehearsal_measures_training_and_prediction():
    recipe = changed(SMALL, accelerator="cpu", devices=2)
    shown = rehearsal.rehearse_training(recipe, Looks(tta_flip=False), SQUARES)
    assert shown.device.startswith("device: CPU, ")
    assert shown.devices == 2
    assert 0 < shown.predict_seconds < 10
    assert 0 < shown.train_seconds < 10
    assert "random weights" in shown.weights
    shipped = rehearsal.rehearse_training(changed(recipe, weights="auto"), Looks(tta_flip=False), SQUARES)
    assert "tensors loaded" in shipped.weights


def test_a_batch_too_large_for_the_device_is_named(monkeypatch: pytest.MonkeyPatch):
    def full(*arguments: object) -> float:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(rehearsal, "_seconds", full)
    with pytest.raises(ParameterError, match=r"batch_size \d+ at 64 px does not fit .* halve batch_size"):
        rehearsal.rehearse_training(changed(SMALL, accelerator="cpu"), Looks(), SQUARES)


# -- the data set of detectors -----------------------------------------------------------------------


def test_a_kit_keeps_what_the_scores_of_each_detector_are_worth(checkpoints: list[Path], tmp_path: Path):
    calibrations = {
        load_detector(path).sha256: {"slope": 1.0 + n, "offsets": [0.0]} for n, path in enumerate(checkpoints)
    }
    record = LooksRecord(Looks(tta_scales=(1.0, 1.5)), ("a", "b"), 0.4, calibrations)
    lines = kit.write_kit(
        kit.Kit(tuple(checkpoints), record, None, (), 512), tmp_path / "k", title="My kit", owner="me"
    )
    assert [line.split(":")[0] for line in lines] == ["detector0.ckpt", "detector1.ckpt"]
    back = kit.read_kit(tmp_path / "k")
    assert back.record.looks == record.looks
    assert back.image_size == 512
    slopes = [back.record.calibrations[load_detector(path).sha256]["slope"] for path in back.detectors]
    assert slopes == [1.0, 2.0]
    for old, new in zip(checkpoints, back.detectors, strict=True):
        one, two = read_detector(old)[0].state_dict(), read_detector(new)[0].state_dict()
        assert all(torch.equal(one[name], two[name]) for name in one)
    kit.write_kit(back, tmp_path / "again", title="My kit", owner="me")
    kit.write_kit(
        kit.Kit(tuple(checkpoints[:1]), record, None, (), 512), tmp_path / "k", title="My kit", owner="me"
    )
    assert not (tmp_path / "k" / "detector1.ckpt").exists()


def test_what_is_no_detector_is_refused(checkpoints: list[Path], tmp_path: Path):
    gather = {"looks": Looks(), "image_size": 512}
    (tmp_path / "run").mkdir()
    (tmp_path / "a.txt").touch()
    for sources, message in (
        ([], "expected a run or checkpoints, got none"),
        ([tmp_path / "run"], r"expected a run with parameters\.yaml"),
        ([tmp_path / "run", checkpoints[0]], "expected one run or any number of checkpoints"),
        ([tmp_path / "a.txt"], "found another file at"),
        ([tmp_path / "gone.ckpt"], "found nothing at"),
    ):
        with pytest.raises((DataError, CheckpointError), match=message):
            kit.gather(sources, **gather)
    (tmp_path / "bad.ckpt").write_text("no torch file")
    with pytest.raises(CheckpointError, match=r"bad\.ckpt"):
        kit.write_kit(
            kit.gather([tmp_path / "bad.ckpt"], **gather), tmp_path / "k", title="My kit", owner="me"
        )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(DataError, match="it holds other files"):
        kit.write_kit(kit.gather(checkpoints, **gather), tmp_path / "mine", title="My kit", owner="me")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_an_incomplete_data_set_is_named(checkpoints: list[Path], tmp_path: Path):
    with pytest.raises(DataError, match=r"expected a data set made by `cxr kaggle --infer` with kit\.json"):
        kit.read_kit(tmp_path)
    gathered = kit.gather(checkpoints, looks=Looks(), image_size=512)
    kit.write_kit(gathered, tmp_path / "k", title="My kit", owner="me")
    whole = (tmp_path / "k" / "detector1.ckpt").read_bytes()
    (tmp_path / "k" / "detector1.ckpt").write_bytes(whole[:-9])
    with pytest.raises(CheckpointError, match=r"detector1\.ckpt.* SHA-256"):
        kit.read_kit(tmp_path / "k")
    (tmp_path / "k" / "detector1.ckpt").unlink()
    with pytest.raises(CheckpointError, match=r"expected detector1\.ckpt"):
        kit.read_kit(tmp_path / "k")
    content = json.loads((tmp_path / "k" / kit.KIT).read_text())
    (tmp_path / "k" / kit.KIT).write_text(json.dumps({**content, "format": "other"}))
    with pytest.raises(DataError, match="made by another version of this project"):
        kit.read_kit(tmp_path / "k")


# -- what failures leave -----------------------------------------------------------------------------


@pytest.fixture
def session(tmp_path: Path, phantom_dir: Path, monkeypatch: pytest.MonkeyPatch) -> training.TrainingSession:
    """A session after its first minute, with one detector of a training that was not finished."""
    one = object.__new__(training.TrainingSession)
    one.settings = kaggle.Settings(root=str(tmp_path), session_minutes=60)
    one.clock, one.data, one.broken, one.finished = opening.Clock(60), phantom_dir, False, False
    one.run, one.kept = one.settings.scratch / "run", one.settings.working / "run"
    one.values = {"checkpoints": [], "pause_minutes": 0.0, "max_minutes": 0.0, "train_folds": [0]}
    one.values |= {"accelerator": "cpu", "predict_batch_size": 8}
    one.rehearsal, one.needs = {"devices": 1}, Needs(22, 1.0, "", 1.0, "", 5.0)
    one.image_ids = opening.test_ids(phantom_dir)
    opening.write_fallback(one.settings, phantom_dir, one.image_ids)
    training.lay_out(one.run, one.kept, keep_images=False)
    best = one.run / schema.CHECKPOINTS_DIR / "fold0" / BEST
    best.parent.mkdir(parents=True)
    best.touch()
    monkeypatch.setattr(training.report, "write_report", lambda root: None)
    return one


def answering(
    session: training.TrainingSession, monkeypatch: pytest.MonkeyPatch, **failing: Exception
) -> list[str]:
    """Let chains of notebooks fail by their first one, or write a submission; the list of what was run."""
    seen: list[str] = []

    def run(task, values, folder, *, minutes=0.0, **options):
        if task == "train":
            assert 0 < values["max_minutes"] < 55
            assert values["pause_minutes"] == 0, "a pause would come before the schedule is down"
            raise failing["train"]
        assert 0 < minutes < 60
        first, last = values["first"], values["last"]
        seen.append(f"{first}-{last}")
        if error := failing.get(f"from_{first or '01'}"):
            raise error
        made = session.run / schema.SUBMISSION_CSV
        rows = [{schema.IMAGE_ID: i, "PredictionString": "3 0.5 1 1 9 9"} for i in session.image_ids]
        pd.DataFrame(rows).to_csv(made, index=False)

    monkeypatch.setattr(opening, "run_child", run)
    return seen


def submitted(session: training.TrainingSession) -> str:
    return (session.settings.working / "submission.csv").read_text().splitlines()[1].split(",")[1]


def test_a_full_disk_loses_nothing_that_was_finished(session, monkeypatch, capsys):
    (session.run / "02_preprocess" / "failures.csv").write_text("image_id")
    (session.run / schema.CHECKPOINTS_DIR / "fold0" / BEST).unlink()
    answering(session, monkeypatch, from_01=DiskError("disk full"))
    session.prepare()
    session.train()
    session.submit()
    said = capsys.readouterr().out
    assert "cxr: preparing: DiskError: disk full" in said
    assert "submission.csv says 'no finding' for every image" in said
    assert submitted(session) == "14 1 0 0 1 1"
    assert (session.kept / "02_preprocess" / "failures.csv").is_file()


def test_a_training_that_fails_is_submitted_as_far_as_it_came(session, monkeypatch, capsys):
    seen = answering(session, monkeypatch, train=RunError("train: its process ended with status -9"))
    session.train()
    session.submit()
    assert seen == ["07-"]
    assert submitted(session) == "3 0.5 1 1 9 9"
    assert "cxr: training: RunError: train: its process ended with status -9" in capsys.readouterr().out


def test_notebooks_may_not_take_the_time_of_the_submission(session, monkeypatch, capsys):
    seen = answering(session, monkeypatch)
    monkeypatch.setattr(training, "load_detectors", lambda files, device: [])
    monkeypatch.setattr(training, "ImageStore", lambda path: session.image_ids)
    monkeypatch.setattr(
        training, "predict_in_time", lambda *_, **__: pd.DataFrame(columns=schema.DETECTION_COLUMNS)
    )
    session.clock, session.finished = opening.Clock(1.0), True  # of the 5 min that notebooks and boxes need
    session.submit()
    assert seen == []
    assert "cxr: notebooks 06 to 08: RunError: no time is left" in capsys.readouterr().out
    assert submitted(session) == "14 1 0 0 1 1"


def test_going_on_with_other_parameters_is_refused(session):
    values = {**yaml.safe_load(SMOKE.read_text()), "image_size": 256, "folds": 3}
    values = {**chain.load_parameters(SMOKE, []), **values}
    (session.run / "parameters.yaml").write_text(yaml.safe_dump(values))
    training.same_run(values, session.run)
    training.same_run({**values, "max_minutes": 9.0, "devices": 2, "tta_flip": False}, session.run)
    with pytest.raises(
        ParameterError, match=r"the earlier session had epochs \d+, now 99, folds 3, now 4: its"
    ):
        training.same_run({**values, "epochs": 99, "folds": 4}, session.run)
    (session.run / schema.CHECKPOINTS_DIR / "fold0" / BEST).unlink()
    training.same_run({**values, "epochs": 99}, session.run)


@pytest.mark.parametrize("both", [False, True])
def test_notebooks_that_fail_do_not_take_the_submission_along(both, session, monkeypatch, capsys):
    failing = {"from_06": RunError("no figure")} | ({"from_07": RunError("no tables")} if both else {})
    seen = answering(session, monkeypatch, **failing)
    row = dict(
        zip(schema.DETECTION_COLUMNS, [session.image_ids[0], 2, 0.75, 1.0, 2.0, 30.0, 40.0], strict=True)
    )
    monkeypatch.setattr(training, "load_detectors", lambda files, device: [])
    monkeypatch.setattr(training, "ImageStore", lambda path: session.image_ids)
    monkeypatch.setattr(training, "predict_in_time", lambda *_, **__: pd.DataFrame([row]))
    session.finished = True
    session.submit()
    assert seen == ["06-", "07-"]
    assert submitted(session) == ("2 0.75 1 2 30 40 14 0.25 0 0 1 1" if both else "3 0.5 1 1 9 9")
    assert "cxr: notebooks 06 to 08: RunError: no figure" in capsys.readouterr().out


def test_a_child_that_dies_is_an_error_with_its_last_words(tmp_path, monkeypatch):
    monkeypatch.setattr(opening.sys, "executable", "/bin/false")
    with pytest.raises(RunError, match="train: its process ended with status 1: it said nothing"):
        opening.run_child("train", {}, tmp_path)


def test_a_child_is_ended_when_its_time_is_over(tmp_path, monkeypatch):
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\necho begun\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(opening.sys, "executable", str(slow))
    with pytest.raises(RunError, match="train: its 0 min were over: begun"):
        opening.run_child("train", {}, tmp_path, minutes=0.01)


def test_times_of_a_read_only_mount_do_not_count(tmp_path, monkeypatch):
    assert times_stay(tmp_path)
    monkeypatch.setattr("os.statvfs", lambda path: SimpleNamespace(f_flag=1))
    assert not times_stay(tmp_path)


# -- prediction, in this process ---------------------------------------------------------------------


def test_checkpoints_alone_answer_for_small_copies_in_original_pixels(tmp_path, phantom_dir):
    root = tmp_path / "input"
    (root / "competitions").mkdir(parents=True)
    (root / "competitions" / kaggle.COMPETITION).symlink_to(phantom_dir)
    copies = root / "datasets" / "me" / "pngs"
    (copies / "test").mkdir(parents=True)
    sizes = {}
    for path in sorted((phantom_dir / "test").iterdir()):
        radiograph = load_radiograph(path, longest_side=128)
        sizes[path.stem] = radiograph.original_size
        cv2.imwrite(str(copies / "test" / f"{path.stem}.png"), radiograph.pixels)
    table = pd.DataFrame([(i, *size) for i, size in sizes.items()], columns=["image_id", "dim0", "dim1"])
    table.to_csv(copies / "test_meta.csv", index=False)
    spec = dataclasses.replace(FOUND_EVERYWHERE, class_names=schema.VINBIGDATA.names)
    torch.manual_seed(0)
    write_slim(build_network(spec), spec, tmp_path / "one.ckpt")
    gathered = kit.gather([tmp_path / "one.ckpt"], looks=Looks(tta_flip=False), image_size=128)
    kit.write_kit(gathered, root / "datasets" / "me" / "my-kit", title="My kit", owner="me")
    values = chain.load_parameters(SMOKE, ["accelerator=cpu", "jobs=1"])
    settings = kaggle.Settings(root=str(tmp_path), detectors="me/my-kit", data_dataset="me/pngs")
    session = inference.begin(settings.to_json(), yaml.safe_dump(values))
    session.read_images()
    session.submit()
    made = submission.check(tmp_path / "working" / "submission.csv", phantom_dir / "sample_submission.csv")
    boxes = made[made.class_id != schema.VINBIGDATA.normal_id]
    widest = boxes.groupby("image_id")[["y_max", "x_max"]].max()
    for image_id, (rows, columns) in sizes.items():
        assert 128 < widest.loc[image_id].max() <= max(rows, columns)
    lines = made[made.class_id == schema.VINBIGDATA.normal_id].set_index("image_id").score
    best = boxes.groupby("image_id").score.max()
    assert (lines + best).to_numpy() == pytest.approx(1.0, abs=1e-6)
