"""Training and prediction, small: bright and dark squares on 64 px images."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from squares import IMAGES, SQUARES, TABLE, train

from cxr import boxes as box_tools
from cxr import cli, schema
from cxr.detector.data.held import HeldImages
from cxr.detector.prediction.calibration import ScoreCalibration
from cxr.detector.prediction.detector import export_detector, load_detector
from cxr.detector.prediction.files import image_files, predict_files, read_ahead
from cxr.detector.prediction.looks import Looks
from cxr.detector.prediction.predict import predict_store
from cxr.detector.training import keeper
from cxr.detector.training.module import DetectorModule, lr_factor
from cxr.detector.training.train import TrainingResult
from cxr.dicom import IsolatedReader, reasons
from cxr.errors import CheckpointError, DataError, DicomReadError, ParameterError, TrainingError
from cxr.recipes import changed
from cxr.schema import ClassTable

ALL = Looks(score_floor=0.0, tta_flip=False)
LOW = Looks(score_floor=0.0001, tta_flip=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> TrainingResult:
    return train(tmp_path_factory.mktemp("trained"), epochs=3)


@pytest.fixture(scope="module")
def detector(trained):
    return load_detector(trained.best, device="cpu")


# -- training ----------------------------------------------------------------------------------------


def test_a_training_leaves_checkpoints_and_curves(trained):
    assert trained.epochs == 3
    assert trained.steps == 6
    assert trained.weights.endswith("random weights")
    table = pd.read_csv(trained.metrics)
    assert table["epoch"].tolist() == [0, 1, 2]
    assert table["step"].tolist() == [2, 4, 6]
    assert table["loss"].notna().all()
    assert table["val_map"].max() == pytest.approx(trained.best_map)
    names = {path.name for path in trained.best.parent.iterdir()}
    files = ("best.ckpt", "last.ckpt", "metrics.csv")
    assert names == {*files, *(f"{name}.sha256" for name in files)}


def test_a_checkpoint_says_all_that_prediction_needs(detector):
    assert detector.spec.classes == SQUARES
    assert detector.spec.image_size == 64
    assert len(detector.spec.anchor_sizes) == len(detector.net.backbone(torch.zeros(1, 1, 64, 64)))
    assert not detector.net.training


def test_same_arguments_same_result(tmp_path, trained):
    again = train(tmp_path, epochs=3)
    drop = ["seconds"]
    pd.testing.assert_frame_equal(
        pd.read_csv(trained.metrics).drop(columns=drop), pd.read_csv(again.metrics).drop(columns=drop)
    )
    one, two = load_detector(trained.best).net.state_dict(), load_detector(again.best).net.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_resumed_training_follows_the_same_curve(tmp_path, trained, monkeypatch):
    with monkeypatch.context() as patch:
        step = DetectorModule.training_step

        def killed(self, batch, batch_idx):
            if self.global_step == 3:
                raise KeyError("power cut")
            return step(self, batch, batch_idx)

        patch.setattr(DetectorModule, "training_step", killed)
        with pytest.raises(KeyError, match="power cut"):
            train(tmp_path, epochs=3)
    assert pd.read_csv(tmp_path / "metrics.csv")["epoch"].tolist() == [0]
    torch.rand(3)
    resumed = train(tmp_path, epochs=3, resume=True)
    assert resumed.weights.startswith("weights: resumed from")
    whole, parts = pd.read_csv(trained.metrics), pd.read_csv(resumed.metrics)
    pd.testing.assert_frame_equal(whole.drop(columns="seconds"), parts.drop(columns="seconds"))
    one, two = load_detector(trained.last).net.state_dict(), load_detector(resumed.last).net.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_best_state_is_there_before_a_last_state_says_so(tmp_path, monkeypatch):
    publish, written = keeper.publish_hashed, []

    def cut(unfinished, path):
        if written:
            raise KeyError("power cut")
        written.append(path.name)
        return publish(unfinished, path)

    monkeypatch.setattr(keeper, "publish_hashed", cut)
    with pytest.raises(KeyError, match="power cut"):
        train(tmp_path, epochs=1)
    assert written == ["best.ckpt"]


def test_a_paused_training_goes_on_as_if_it_had_not_paused(tmp_path, trained):
    parts = [train(tmp_path, epochs=3, pause_minutes=1e-6, resume=True) for _ in range(3)]
    assert [part.paused for part in parts] == [True, True, False]
    assert [part.epochs for part in parts] == [1, 2, 3]
    tables = [pd.read_csv(path).drop(columns="seconds") for path in (trained.metrics, parts[-1].metrics)]
    pd.testing.assert_frame_equal(*tables)
    for whole, part in ((trained.last, parts[-1].last), (trained.best, parts[-1].best)):
        one, two = (torch.load(path, weights_only=True)["state_dict"] for path in (whole, part))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_training_that_ran_out_of_time_goes_on_with_more(tmp_path):
    first = train(tmp_path, epochs=3, val_ids=[], max_minutes=1e-6)
    assert first.out_of_time
    assert first.epochs == 1
    more = train(tmp_path, epochs=3, val_ids=[], max_minutes=0.0, resume=True)
    assert not more.out_of_time
    assert more.epochs == 3
    assert more.weights.startswith("weights: resumed from")


def test_an_interrupt_stays_one_and_so_does_the_next(tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, val_ids=[], progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_finished_training_is_not_trained_further(tmp_path):
    first = train(tmp_path, val_ids=[])
    again = train(tmp_path, val_ids=[], resume=True)
    assert (again.epochs, again.steps) == (first.epochs, first.steps) == (2, 4)


def test_resuming_with_other_arguments_is_refused(tmp_path):
    train(tmp_path, epochs=1, val_ids=[])
    with pytest.raises(ParameterError, match=r"last\.ckpt was trained with other values of .*learning_rate"):
        train(tmp_path, epochs=1, val_ids=[], learning_rate=0.5, resume=True)


@pytest.mark.slow
def test_the_network_learns_one_batch_by_heart(tmp_path):
    ids = IMAGES.ids[:2]
    result = train(
        tmp_path, train_ids=ids, val_ids=ids, epochs=1, images_per_epoch=200, ema_decay=0.0,
        learning_rate=2e-3, hflip=0.0, scale=(1.0, 1.0), shift=0.0, noise=0.0, brightness=0.0,
        contrast=0.0, gamma=0.0,
    )  # fmt: skip
    assert result.best_map > 0.9


def test_images_without_any_box_can_be_trained_on(tmp_path):
    normal = TABLE[TABLE[schema.CLASS_ID] == SQUARES.normal_id]
    result = train(tmp_path, table=normal, train_ids=normal[schema.IMAGE_ID].tolist(), epochs=1)
    assert math.isnan(result.best_map)
    table = predict_store(load_detector(result.best), IMAGES, IMAGES.ids[:1])
    assert list(table.columns) == schema.DETECTION_COLUMNS


def test_a_loss_that_is_not_finite_names_the_images(tmp_path):
    with pytest.raises(TrainingError, match=r"not finite at step \d+ .*s0\d, s0\d"):
        train(
            tmp_path, optimizer="sgd", learning_rate=1e30, clip_norm=0.0, schedule="constant", warmup_steps=1
        )


def test_a_time_budget_ends_training_and_keeps_its_result(tmp_path):
    result = train(tmp_path, epochs=1000, max_minutes=2 / 60)
    assert 0 < result.epochs < 1000
    assert result.best.is_file()
    assert pd.read_csv(result.metrics)["val_map"].notna().iloc[-1]


def test_readers_may_teach_each_for_themselves(tmp_path):
    readers = pd.concat([TABLE.assign(rad_id="R1"), TABLE.assign(rad_id="R2", x_min=TABLE["x_min"] + 1)])
    readers = readers.assign(class_name=readers[schema.CLASS_ID].map(SQUARES.name))
    for changes in ({"label_mode": "every_reader"}, {"label_mode": "agreement"}, {"readers": ["R2"]}):
        assert train(tmp_path / "_".join(changes), table=readers, epochs=1, val_ids=[], **changes).steps == 2
    with pytest.raises(ParameterError, match="needs a table with rad_id"):
        train(tmp_path, readers=["R1"])


def test_accumulated_batches_make_one_step_of_their_mean_gradient(tmp_path, monkeypatch):
    gradients: list[torch.Tensor] = []

    def take(self, optimizer):
        gradients.append(self.net.roi_heads.box_predictor.cls_score.bias.grad.clone())

    monkeypatch.setattr(DetectorModule, "on_before_optimizer_step", take, raising=False)
    arguments = {"val_ids": [], "epochs": 1, "batch_norm": "frozen", "clip_norm": 0.0}
    assert train(tmp_path / "two", accumulate=2, **arguments).steps == 1
    assert train(tmp_path / "one", learning_rate=1e-12, **arguments).steps == 2
    both, first, second = gradients
    assert not torch.allclose(first, second)
    torch.testing.assert_close(both, (first + second) / 2, rtol=1e-3, atol=1e-6)


def test_a_second_stage_starts_from_a_checkpoint(tmp_path, trained):
    result = train(tmp_path, weights=str(trained.best), val_ids=[], epochs=1, learning_rate=1e-9)
    assert "tensors loaded" in result.weights
    one, two = load_detector(trained.best).net, load_detector(result.best).net
    torch.testing.assert_close(one.roi_heads.box_head.fc7.weight, two.roi_heads.box_head.fc7.weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adam"}, "optimizer: expected one of adamw, sgd, got 'adam'"),
        ({"label_mode": "best"}, "label_mode: expected one of fused"),
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"flip_bound": ["Heart"]}, "flip_bound: expected names of findings .*'Heart'"),
        ({"architecture_name": "yolo"}, "architecture_name: expected one of light"),
    ],
)
def test_bad_arguments_are_refused_before_training(tmp_path, changes, message):
    with pytest.raises(ParameterError, match=message):
        train(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_images_must_be_there(tmp_path):
    with pytest.raises(DataError, match="got none"):
        train(tmp_path, train_ids=[])
    with pytest.raises(DataError, match="first 'gone'"):
        train(tmp_path, train_ids=["gone"])


def test_learning_rate_rises_and_falls():
    curve = [lr_factor("onecycle", p / 20, step=0, warmup_steps=0) for p in range(21)]
    assert max(curve) == curve[5] == 1
    assert curve[0] == pytest.approx(0.04)
    assert curve[-1] == 1e-3
    assert lr_factor("cosine", 0.0, step=4, warmup_steps=10) == pytest.approx(0.5)
    assert lr_factor("cosine", 1.0, step=100, warmup_steps=10) == pytest.approx(0.01)
    assert lr_factor("constant", 0.7, step=100, warmup_steps=10) == 1


@pytest.mark.slow
def test_time_is_estimated_and_progress_reported(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(keeper, "SECONDS_TO_ESTIMATE", 0.0)
    seen: list[tuple[int, int]] = []
    with caplog.at_level("INFO", logger="cxr"):
        train(tmp_path, val_ids=[], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert caplog.text.count("more minutes") == 1


# -- prediction --------------------------------------------------------------------------------------


def test_detections_do_not_depend_on_the_batch_size(detector):
    one = predict_store(detector, IMAGES, IMAGES.ids, looks=LOW, batch_size=1)
    eight = predict_store(detector, IMAGES, IMAGES.ids, looks=LOW, batch_size=8)
    assert len(one) == len(eight) > 0
    numbers = [schema.SCORE, *schema.BOX_COLUMNS]
    # A barely trained network gives many boxes all but the same score, so their order may differ:
    # each box must have its twin, wherever that stands.
    for key, rows in one.groupby([schema.IMAGE_ID, schema.CLASS_ID]):
        same = (eight[schema.IMAGE_ID] == key[0]) & (eight[schema.CLASS_ID] == key[1])
        twins, boxes = eight.loc[same, numbers].to_numpy(), rows[numbers].to_numpy()
        distance = np.abs(boxes[:, None, :] - twins[None, :, :])
        allowed = 1e-4 * np.maximum(1.0, np.abs(boxes[:, None, :]))
        near = (distance <= allowed).all(axis=2)
        assert near.any(axis=1).all()
        assert near.any(axis=0).all()


def test_detections_are_in_original_pixels_and_sorted(detector):
    table = predict_store(
        detector, IMAGES, IMAGES.ids, looks=Looks(score_floor=0.0, max_boxes=7, tta_flip=False)
    )
    assert list(table.columns) == schema.DETECTION_COLUMNS
    assert set(table[schema.CLASS_ID]) <= {0, 1}
    assert table.groupby(schema.IMAGE_ID).size().max() == 7
    assert (table.groupby(schema.IMAGE_ID)[schema.SCORE].diff().dropna() <= 0).all()
    narrow = predict_store(detector, IMAGES, ["s00"], looks=ALL)
    assert narrow["x_max"].max() <= 96
    assert 64 < narrow["y_max"].max() <= 128


def test_nothing_to_look_at_gives_an_empty_table(detector):
    table = predict_store(detector, IMAGES, [])
    assert list(table.columns) == schema.DETECTION_COLUMNS
    assert len(predict_store([detector, detector], IMAGES, [])) == 0
    with pytest.raises(DataError, match="first 'gone'"):
        predict_store(detector, IMAGES, ["gone"])


BOX = {
    "boxes": torch.tensor([[4.0, 4.0, 20.0, 20.0]]),
    "labels": torch.tensor([1]),
    "scores": torch.tensor([0.8]),
}
NOTHING = {name: value[:0] for name, value in BOX.items()}


def answer_with(monkeypatch, detector, *answers: dict) -> list[torch.Tensor]:
    """Let the network give these answers, one a view; returns the images that it was shown."""
    shown: list[torch.Tensor] = []
    left = iter(answers)

    def forward(self, images, sizes, targets=None):
        shown.append(images.clone())
        return [next(left)]

    monkeypatch.setattr(type(detector.net), "forward", forward)
    return shown


def test_a_view_that_sees_nothing_counts_against_a_box(detector, monkeypatch):
    answer_with(monkeypatch, detector, BOX, NOTHING)
    table = predict_store([detector, detector], IMAGES, ["s00"])
    assert table[schema.SCORE].tolist() == pytest.approx([0.4])
    assert table[schema.BOX_COLUMNS].to_numpy().tolist() == [[8, 8, 40, 40]]


def test_a_mirror_image_comes_back_from_the_other_side(detector, monkeypatch):
    """Image s00 is 48 px wide: a box 4 px from its left is 4 px from its right in the mirror."""
    shown = answer_with(monkeypatch, detector, BOX, {**BOX, "boxes": torch.tensor([[28.0, 4.0, 44.0, 20.0]])})
    table = predict_store(detector, IMAGES, ["s00"], looks=Looks())
    assert torch.equal(shown[1][..., :48], shown[0][..., :48].flip(-1))
    assert table[schema.SCORE].tolist() == pytest.approx([0.8])
    assert table[schema.BOX_COLUMNS].to_numpy() == pytest.approx(np.array([[8, 8, 40, 40]]))


def test_another_scale_comes_back_in_the_same_pixels(detector, monkeypatch):
    shown = answer_with(monkeypatch, detector, BOX, {**BOX, "boxes": 1.5 * BOX["boxes"]})
    table = predict_store(detector, IMAGES, ["s00"], looks=Looks(tta_flip=False, tta_scales=(1.0, 1.5)))
    assert [tuple(images.shape[-2:]) for images in shown] == [(64, 64), (96, 96)]
    assert table[schema.SCORE].tolist() == pytest.approx([0.8])
    assert table[schema.BOX_COLUMNS].to_numpy() == pytest.approx(np.array([[8, 8, 40, 40]]))


def test_a_calibration_counts_before_detectors_are_fused(detector, monkeypatch):
    sure = dataclasses.replace(detector, calibration=ScoreCalibration(1.0, (-20.0, 0.0)))
    answer_with(monkeypatch, detector, BOX, BOX)
    table = predict_store([sure, detector], IMAGES, ["s00"])
    assert table[schema.SCORE].tolist() == pytest.approx([0.4], abs=1e-4)


def test_how_views_are_fused_can_be_chosen(detector):
    some = Looks(score_floor=0.3, max_boxes=1000, tta_flip=False)
    plain = predict_store(detector, IMAGES, IMAGES.ids[:2], looks=some)
    pair = [detector, detector]
    both = {
        name: predict_store(pair, IMAGES, IMAGES.ids[:2], looks=changed(some, detector_fusion=name))
        for name in ("union", "nms")
    }
    assert len(both["union"]) == 2 * len(plain) > 0, "every box of either"
    assert both["union"][schema.SCORE].max() == plain[schema.SCORE].max(), "equal weights leave scores alone"
    assert len(both["nms"]) < len(both["union"])
    with pytest.raises(ParameterError, match=r"detector_fusion: expected one of wbf, .* got 'mean'"):
        Looks(detector_fusion="mean")


def test_a_mirror_view_of_a_mirrored_image_is_the_upright_view(detector):
    mirrored = HeldImages()
    for image_id in IMAGES.ids[:2]:
        pixels = np.ascontiguousarray(IMAGES[image_id][:, ::-1])
        mirrored.add(image_id, pixels, IMAGES.original_size(image_id))
    upright = predict_store(detector, IMAGES, IMAGES.ids[:2], looks=Looks())
    other = predict_store(detector, mirrored, IMAGES.ids[:2], looks=Looks())
    widths = other[schema.IMAGE_ID].map(lambda i: IMAGES.original_size(i)[1])
    back = other.assign(x_min=widths - other["x_max"], x_max=widths - other["x_min"])
    for image_id, rows in upright.groupby(schema.IMAGE_ID):
        same = back[back[schema.IMAGE_ID] == image_id]
        overlap = box_tools.iou(rows[schema.BOX_COLUMNS].to_numpy(), same[schema.BOX_COLUMNS].to_numpy())
        assert overlap[0].max() > 0.99


def test_an_export_predicts_the_same(tmp_path, detector):
    path = tmp_path / "detector.safetensors"
    export_detector(detector, path)
    again = load_detector(path, device="cpu")
    pd.testing.assert_frame_equal(
        predict_store(detector, IMAGES, IMAGES.ids[:3]), predict_store(again, IMAGES, IMAGES.ids[:3])
    )


def test_files_and_folders_are_predicted_and_bad_files_reported(tmp_path, detector):
    folder = tmp_path / "films"
    folder.mkdir()
    for image_id in IMAGES.ids[:3]:
        cv2.imwrite(str(folder / f"{image_id}.png"), IMAGES[image_id])
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    found, failures = predict_files(detector, folder, looks=ALL)
    assert set(found[schema.IMAGE_ID]) == set(IMAGES.ids[:3])
    assert failures.columns.tolist() == ["file", "reason", "message"]
    assert [Path(f).name for f in failures["file"]] == ["broken.png"]
    one, _ = predict_files(detector, [folder / "s01.png"], looks=ALL, decoders=1)
    held = HeldImages()
    held.add("s01", IMAGES["s01"], IMAGES["s01"].shape)
    pd.testing.assert_frame_equal(one, predict_store(detector, held, ["s01"], looks=ALL))


def test_a_decoder_that_crashes_takes_nobody_along(tmp_path, detector, monkeypatch):
    """Files are read elsewhere, some while others are looked at; each answer stays with its file."""
    load = IsolatedReader.load

    def crash(self, path, *, longest_side=None):
        if path.stem == "s02":
            raise DicomReadError(reasons.CRASHED, "s02.png: reading it ended the reader process twice")
        return load(self, path, longest_side=longest_side)

    monkeypatch.setattr(IsolatedReader, "load", crash)
    for image_id in IMAGES.ids[:6]:
        cv2.imwrite(str(tmp_path / f"{image_id}.png"), IMAGES[image_id])
    chunks = list(read_ahead(list(image_files(tmp_path)[0].items()), longest_side=64, chunk=2, decoders=2))
    assert [held.ids for held, *_ in chunks] == [["s00", "s01"], ["s03"], ["s04", "s05"]]
    assert [[f[1] for f in failures] for _, failures, _ in chunks] == [[], ["crashed"], []]
    assert [count for *_, count in chunks] == [2, 2, 2]
    np.testing.assert_array_equal(chunks[2][0]["s05"], IMAGES["s05"])


def test_predict_fuses_detectors_and_export_writes_them(tmp_path, trained, monkeypatch, capsys):
    """The command's own way to the same: a run's detector, exported, looked at twice over."""
    home = tmp_path / "run" / schema.CHECKPOINTS_DIR / "fold0"
    shutil.copytree(trained.best.parent, home)
    cv2.imwrite(str(tmp_path / "s01.png"), IMAGES["s01"])
    exported, found = tmp_path / "nets" / "fold0.safetensors", tmp_path / "found"
    for arguments in (
        ["export", tmp_path / "run", exported.parent, "--format", "safetensors"],
        ["predict", exported, tmp_path / "s01.png", "--with", home / "best.ckpt", "--scale", 1.5, "--flip",
         "--max-boxes", 3, "--batch-size", 1, "--score-threshold", 0, "--out", found, "--device", "cpu"],
    ):  # fmt: skip
        cli.app(args=list(map(str, arguments)), standalone_mode=False)
    detector = load_detector(exported, device="cpu")
    expected, _ = predict_files(
        [detector] * 2,
        tmp_path / "s01.png",
        looks=Looks(tta_scales=(1.0, 1.5), max_boxes=3, score_floor=0.0),
    )
    got = pd.read_csv(found / "predictions.csv")
    assert len(got) == len(expected) == 3
    assert got[schema.SCORE].to_numpy() == pytest.approx(expected[schema.SCORE].to_numpy(), abs=1e-4)


def test_paths_are_checked(tmp_path, detector):
    with pytest.raises(DataError, match=r"found nothing at .*nowhere"):
        predict_files(detector, tmp_path / "nowhere")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "a.png"), IMAGES["s01"])
    detections, failures = predict_files(detector, [tmp_path / "one", tmp_path / "two"], looks=ALL)
    assert set(detections[schema.IMAGE_ID]) == {"a"}
    assert failures[["file", "reason"]].to_numpy().tolist() == [
        [str(tmp_path / "two" / "a.png"), "duplicate_id"]
    ]


def test_an_ensemble_needs_the_same_classes(tmp_path, detector):
    other = train(tmp_path, classes=ClassTable(("Bright", "Black", "No finding")), epochs=1, val_ids=[])
    with pytest.raises(CheckpointError, match="same classes"):
        predict_store([detector, load_detector(other.best)], IMAGES, IMAGES.ids)
    detector.require_classes(SQUARES)
    with pytest.raises(
        CheckpointError, match=r"best\.ckpt: expected .* data's 3 classes, got one of 3; class 1 "
    ):
        load_detector(other.best).require_classes(SQUARES)


# -- slow --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_inference_needs_no_lightning(tmp_path, detector):
    path = tmp_path / "detector.safetensors"
    export_detector(detector, path)
    code = (
        "import sys; from cxr.detector.prediction import detector, files;"
        f"detector.load_detector({str(path)!r}); assert 'pytorch_lightning' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


TWO_PROCESSES = """
import sys, torch
sys.path.insert(0, {tests!r})
from squares import IMAGES, train
from cxr.detector.training.module import DetectorModule

def spy(self, whole=DetectorModule.on_validation_epoch_end):
    own = [row[0] for row in self._found]
    whole(self)
    with open({out!r} + f"/seen{{self.global_rank}}.txt", "w") as file:
        file.write(" ".join(own) + "\\n" + f"{{self.val_map:.9f}} {{len(self.val_detections)}}")

DetectorModule.on_validation_epoch_end = spy
train({out!r}, val_ids=IMAGES.ids[:5], images_per_epoch=8, ema_decay=0.998, accelerator="cpu",
      batch_norm="frozen")
"""


@pytest.mark.slow
def test_two_processes_train_one_network_and_count_no_image_twice(tmp_path):
    script = tmp_path / "two.py"
    out = tmp_path / "out"
    out.mkdir()
    script.write_text(TWO_PROCESSES.format(tests=str(Path(__file__).parent), out=str(out)))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--standalone",
        str(script),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [(out / f"seen{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    assert sorted(lines[0][0].split() + lines[1][0].split()) == IMAGES.ids[:5]
    assert lines[0][1] == lines[1][1]
    table = pd.read_csv(out / "metrics.csv")
    assert table["step"].tolist() == [2, 4]
    result = load_detector(out / "last.ckpt")
    assert len(predict_store(result, IMAGES, IMAGES.ids[:1], looks=ALL))
