"""What a training can be told besides its data: each option does what its name says."""

from __future__ import annotations

import builtins
import math
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from pytorch_lightning.loggers import CSVLogger
from squares import IMAGES, SQUARES, TABLE, train

from cxr import schema
from cxr.detector.checkpoints.weights import read_checkpoint
from cxr.detector.data import augment
from cxr.detector.network import base, device
from cxr.detector.network.ema import WeightAverage
from cxr.detector.network.registry import build_network
from cxr.detector.network.spec import Answers, DetectorSpec
from cxr.detector.prediction.detector import load_detector
from cxr.detector.prediction.looks import Looks
from cxr.detector.recipe import NO_AUGMENTATION, Machine
from cxr.detector.training import launch
from cxr.detector.training.datamodule import DetectionData
from cxr.detector.training.module import DetectorModule
from cxr.errors import ParameterError


def spy_on_steps(monkeypatch: pytest.MonkeyPatch, look) -> list:
    """What `look(module)` gives after each step's forward pass."""
    seen: list = []
    step = DetectorModule.training_step

    def spied(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        seen.append(look(self))
        return loss

    monkeypatch.setattr(DetectorModule, "training_step", spied)
    return seen


# -- precision ---------------------------------------------------------------------------------------


def test_mixed_precision_trains_with_clipping(tmp_path):
    result = train(
        tmp_path, precision="bf16-mixed", detector_image_size=128, epochs=1, val_ids=[], clip_norm=1.0
    )
    assert result.steps == 2
    assert math.isfinite(pd.read_csv(result.metrics)["loss"].iloc[0])


def network(image_size: int) -> base.DetectionNetwork:
    torch.manual_seed(0)
    spec = DetectorSpec("light", SQUARES.names, image_size, ((8.0,), (16.0,), (32.0,), (64.0,)), (1.0,))
    return build_network(spec)


def test_boxes_keep_their_place_under_mixed_precision():
    """bfloat16 beyond 512 px is a grid of 4 px: a box of 3 px would have no width there."""
    net = network(640)
    proposals = []
    net.roi_heads.box_roi_pool.register_forward_pre_hook(lambda _, inputs: proposals.extend(inputs[1]))
    image = torch.randint(0, 256, (1, 1, 64, 640), dtype=torch.uint8)
    target = {
        "boxes": torch.tensor([[601.0, 21.0, 604.0, 24.0], [585.0, 11.0, 586.5, 19.0]]),
        "labels": torch.tensor([1, 2]),
        "box_weights": torch.ones(2),
    }
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = net.train()(image, [(64, 640)], [target])
    assert all(torch.isfinite(value) for value in losses.values()), losses
    taken = proposals[0]
    assert taken.dtype == torch.float32
    for box in target["boxes"]:
        assert (taken == box).all(dim=1).any(), "a true box is among the regions, to the last digit"
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        net.set_answers(Answers(score_threshold=0.0))
        (found,) = net.eval()(image, [(64, 640)])
    assert found["scores"].dtype == found["boxes"].dtype == torch.float32
    assert found["scores"].unique().numel() > 0.9 * len(found["scores"])
    far = found["boxes"][found["boxes"] > 512]
    assert (far % 2 != 0).float().mean() > 0.5


def test_boxes_thinner_than_a_pixel_are_left_out():
    given = {
        "boxes": torch.tensor([[10.0, 10.0, 11.5, 40.0], [10.0, 10.0, 40.0, 40.0]]),
        "labels": torch.tensor([1, 2]),
        "box_weights": torch.ones(2),
    }
    image = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    for factor, labels in ((1.0, [1, 2]), (0.5, [2])):
        _, _, (target,) = augment.augment_batch(
            image, [(64, 64)], [given], [(0, 0)],
            augmentation=NO_AUGMENTATION, mirror=augment.Mirror(), seed=0, factor=factor,
        )  # fmt: skip
        assert target["labels"].tolist() == labels
        assert len(target["boxes"]) == len(target["box_weights"]) == len(labels)


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_old_cuda_devices_work_in_float16(native, expected, monkeypatch):
    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "device", lambda _: torch.no_grad())
    assert device.half_type(torch.device("cuda")) == expected
    assert device.half_type(torch.device("cpu")) is None


# -- where it runs -----------------------------------------------------------------------------------


def test_a_notebook_trains_on_one_device(monkeypatch, caplog):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert launch.find_processes(Machine(num_nodes=2)).world == 8
    assert launch.find_processes(Machine("cpu", num_nodes=2)).world == 2
    monkeypatch.setattr(builtins, "__IPYTHON__", True, raising=False)
    assert launch.find_processes(Machine()).world == 1
    assert "one of the 4 devices; `cxr train` uses them all" in caplog.text
    assert launch.find_processes(Machine(devices=2)).world == 2


def test_torchrun_overrules_the_parameters(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "6")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert launch.find_processes(Machine("cpu")) == launch.Processes("cpu", 3, 2)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_process_without_a_validation_batch_looks_at_the_first(rank, tmp_path, monkeypatch):
    """An empty share would end Lightning's loop on that process, and the others would wait for it."""
    shares = {}
    loader = DetectionData.val_dataloader

    def spied(self):
        owner = self.trainer
        self.trainer = SimpleNamespace(global_rank=rank, world_size=3)
        shares[rank] = [batch["image_ids"] for batch in loader(self)]
        self.trainer = owner
        return loader(self)

    monkeypatch.setattr(DetectionData, "val_dataloader", spied)
    train(tmp_path, epochs=1, val_ids=IMAGES.ids[:6], images_per_epoch=2)
    assert shares[rank] == [[IMAGES.ids[:4]], [IMAGES.ids[4:6]], [IMAGES.ids[:4]]][rank]


# -- the network and its average ---------------------------------------------------------------------


def test_frozen_batch_norm_stays_what_it_was(tmp_path, monkeypatch):
    frozen = spy_on_steps(monkeypatch, lambda module: [m.training for m in base.batch_norms(module.net)])
    result = train(tmp_path, batch_norm="frozen", val_ids=[])
    assert not any(map(any, frozen))
    state = read_checkpoint(result.last)["state_dict"]
    statistics = [v for k, v in state.items() if k.startswith("net.") and "running_mean" in k]
    assert statistics
    assert all((value == 0).all() for value in statistics)
    scales = [v for k, v in state.items() if k.startswith("net.backbone.body") and k.endswith("0.1.weight")]
    assert scales
    assert all((value == 1).all() for value in scales)


def test_the_average_takes_in_every_step_and_no_other(tmp_path, monkeypatch):
    """Of 3 batches accumulated by 2 the last makes a step of its own."""
    taken: list[int] = []
    update = WeightAverage.update
    monkeypatch.setattr(
        WeightAverage, "update", lambda self, net, step: (taken.append(step), update(self, net, step))
    )
    result = train(tmp_path, accumulate=2, images_per_epoch=6, val_ids=[])
    assert result.steps == 4
    assert taken == [1, 2, 3, 4]


def test_network_and_average_have_their_channels_last(tmp_path, monkeypatch):
    def layouts(module):
        weights = [net.backbone.body["stage1"][0][0].weight for net in (module.net, module.average.net)]
        return [w.is_contiguous(memory_format=torch.channels_last) for w in weights]

    seen = spy_on_steps(monkeypatch, layouts)
    train(tmp_path, epochs=1, val_ids=[])
    assert seen == [[True, True]] * 2


@pytest.mark.parametrize(
    ("tiles", "size", "expected"),
    [(True, 128, "bf16-mixed"), (True, 96, "32-true"), (False, 128, "32-true"), (None, 128, "32-true")],
)
def test_a_cpu_trains_in_16_bits_where_it_has_tiles_and_maps_have_places(
    tmp_path, monkeypatch, tiles, size, expected
):
    if tiles is None:
        monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles, raising=False)
    seen = spy_on_steps(monkeypatch, lambda module: module.trainer.precision)
    train(tmp_path, accelerator="cpu", epochs=1, val_ids=[], detector_image_size=size, images_per_epoch=2)
    assert set(seen) == {expected}


# -- sizes -------------------------------------------------------------------------------------------


def test_another_size_is_the_same_picture_in_both_directions():
    """A square stays square, on an image whose padded sides would round differently to 32 px."""
    image = torch.full((1, 1, 96, 160), 40, dtype=torch.uint8)
    image[..., 30:60, 20:50] = 250
    given = {
        "boxes": torch.tensor([[20.0, 30.0, 50.0, 60.0]]),
        "labels": torch.tensor([1]),
        "box_weights": torch.ones(1),
    }
    seen, sizes, (target,) = augment.augment_batch(
        image, [(96, 150)], [given], [(0, 0)],
        augmentation=NO_AUGMENTATION, mirror=augment.Mirror(), seed=0, factor=0.8,
    )  # fmt: skip
    assert sizes == [(77, 120)]
    assert seen.shape == (1, 1, 96, 128)
    box = target["boxes"][0]
    assert box[2] - box[0] == pytest.approx(24, abs=0.2)
    assert box[3] - box[1] == pytest.approx(24, abs=0.2)
    rows, columns = torch.nonzero(seen[0, 0] > 0.6, as_tuple=True)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert box.tolist() == pytest.approx([float(v) for v in found], abs=0.6)


@pytest.mark.parametrize(("image_size", "loaded"), [(64, 64), (48, 58)])
def test_training_sizes_are_drawn_from_pixels_the_store_has(image_size, loaded, tmp_path, monkeypatch):
    """The store holds 64 px: they are never stretched before they are shrunk, and 1 is the size asked for."""
    shapes: list[tuple[float, int, int]] = []
    whole = augment.augment_batch

    def spied(images, sizes, *rest, factor, **options):
        out = whole(images, sizes, *rest, factor=factor, **options)
        shapes.append((factor, max(sizes[0]), max(out[1][0])))
        return out

    monkeypatch.setattr("cxr.detector.training.module.augment_batch", spied)
    train(
        tmp_path, detector_image_size=image_size, multi_scale=(0.5, 1.0, 1.2), val_ids=[], images_per_epoch=12
    )
    assert {before for _, before, _ in shapes} == {loaded}
    assert {after for *_, after in shapes} == {round(image_size * f) for f in (0.5, 1.0, 1.2)}
    if image_size == loaded:
        assert all(before == after for factor, before, after in shapes if factor == 1)


# -- what is learnt, and for how long ----------------------------------------------------------------


def test_validation_asks_for_as_many_weak_boxes_as_the_score_does(tmp_path, monkeypatch):
    asked = []
    validation = DetectorModule.validation_step

    def spied(self, batch, batch_idx):
        heads = self.average.net.roi_heads
        asked.append((heads.score_thresh, heads.detections_per_img, heads.nms_thresh))
        validation(self, batch, batch_idx)

    monkeypatch.setattr(DetectorModule, "validation_step", spied)
    train(tmp_path, epochs=1)
    assert set(asked) == {(Looks().score_floor, Looks().max_boxes, Answers().nms_iou)}


def test_images_some_readers_read_can_be_left_out(tmp_path):
    readers = TABLE.assign(rad_id="R1", class_name=TABLE[schema.CLASS_ID].map(SQUARES.name))
    readers.loc[readers[schema.IMAGE_ID].isin(IMAGES.ids[:5]), "rad_id"] = "R8"
    result = train(tmp_path, table=readers, skip_readers=["R8", "R9"], epochs=1, val_ids=[])
    assert read_checkpoint(result.last)["hyper_parameters"]["record"]["train_images"] == 3
    with pytest.raises(ParameterError, match="needs a table with rad_id"):
        train(tmp_path, skip_readers=["R8"])


def test_images_with_rare_findings_are_shown_more_often(tmp_path, monkeypatch):
    """Class 2 is on one image of seven."""
    shown: list[str] = []
    step = DetectorModule.training_step

    def spied(self, batch, batch_idx):
        shown.extend(batch["image_ids"])
        return step(self, batch, batch_idx)

    monkeypatch.setattr(DetectorModule, "training_step", spied)
    positive = TABLE[TABLE[schema.CLASS_ID] != SQUARES.normal_id]
    rare = positive[(positive[schema.CLASS_ID] == 0) | (positive[schema.IMAGE_ID] == "s00")]
    ids = rare[schema.IMAGE_ID].unique().tolist()
    arguments = {"table": rare, "train_ids": ids, "val_ids": [], "epochs": 1, "detector_image_size": 32}
    for balance, least, most in ((0.0, 2, 2), (1.0, 4, 12)):
        shown.clear()
        train(tmp_path, images_per_epoch=12, class_balance=balance, **arguments)
        assert least <= shown.count("s00") <= most


def test_patience_ends_a_training_that_gets_no_better(tmp_path):
    result = train(
        tmp_path, epochs=9, learning_rate=1e-12, patience=2, images_per_epoch=2, detector_image_size=32
    )
    assert 3 <= result.epochs < 9


@pytest.mark.slow
def test_warm_up_is_short_in_a_short_training(tmp_path, monkeypatch):
    rates = spy_on_steps(monkeypatch, lambda module: module.optimizers().param_groups[0]["lr"])
    train(
        tmp_path, schedule="constant", learning_rate=1e-3, epochs=1, images_per_epoch=48,
        detector_image_size=32, val_ids=[],
    )  # fmt: skip
    assert rates == pytest.approx([0.0005] + [0.001] * 23)


def test_given_anchors_are_used(tmp_path):
    result = train(
        tmp_path, anchor_sizes=[8, 16, 32, 64], aspect_ratios=[1.0], epochs=1, val_ids=[], images_per_epoch=2
    )
    spec = load_detector(result.best, device="cpu").spec
    assert spec.anchor_sizes == ((8.0,), (16.0,), (32.0,), (64.0,))
    assert spec.aspect_ratios == (1.0,)
    with pytest.raises(ParameterError, match="expected as many for each of the 4 levels, got 3"):
        train(tmp_path, anchor_sizes=[8, 16, 32])


def test_tensorboard_gets_losses_score_and_learning_rate(tmp_path, monkeypatch):
    logged: dict[str, list[int]] = {}

    class Board(CSVLogger):
        """Stands for TensorBoard's, whose package is not among those the tests need."""

        def __init__(self, save_dir, name, version):
            super().__init__(save_dir, name=name, version=version)

        def log_metrics(self, metrics, step=None):
            for name in metrics:
                logged.setdefault(name, []).append(step)

    monkeypatch.setattr(launch.pl.loggers, "TensorBoardLogger", Board)
    train(tmp_path, tensorboard=True)
    assert {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"} <= set(logged)
    assert logged["val_map"] == logged["learning_rate"] == [2, 4]
