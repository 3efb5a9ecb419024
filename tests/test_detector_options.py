"""What a training can be told besides its data: each option does what its name says."""

from __future__ import annotations

import builtins
import math

import pandas as pd
import pytest
import torch
from squares import SQUARES, train

from cxr.detector import augment, device, launch, model
from cxr.detector.augment import Augmentation
from cxr.detector.ema import WeightAverage
from cxr.detector.module import DetectorModule
from cxr.detector.weights import read_checkpoint


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
    result = train(tmp_path, precision="bf16-mixed", epochs=1, val_ids=[], clip_norm=1.0)
    assert result.steps == 2
    assert math.isfinite(pd.read_csv(result.metrics)["loss"].iloc[0])


def network(image_size: int) -> model.GreyFasterRCNN:
    torch.manual_seed(0)
    spec = model.DetectorSpec("light", SQUARES.names, image_size, ((8.0,), (16.0,), (32.0,), (64.0,)), (1.0,))
    return model.build_network(spec)


def test_boxes_keep_their_place_under_mixed_precision():
    """bfloat16 beyond 512 px is a grid of 4 px: a box of 3 px would have no width there."""
    net = network(640)
    proposals = []
    net.roi_heads.box_roi_pool.register_forward_pre_hook(lambda _, inputs: proposals.extend(inputs[1]))
    image = torch.randint(0, 256, (1, 1, 64, 640), dtype=torch.uint8)
    target = {
        "boxes": torch.tensor([[601.0, 21.0, 604.0, 24.0], [585.0, 11.0, 586.5, 19.0]]),
        "labels": torch.tensor([1, 2]),
        "weights": torch.ones(2),
    }
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = net.train()(image, [(64, 640)], [target])
    assert all(torch.isfinite(value) for value in losses.values()), losses
    taken = proposals[0]
    assert taken.dtype == torch.float32
    for box in target["boxes"]:
        assert (taken == box).all(dim=1).any(), "a true box is among the regions, to the last digit"
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        net.roi_heads.score_thresh = 0.0
        (found,) = net.eval()(image, [(64, 640)])
    assert found["scores"].dtype == found["boxes"].dtype == torch.float32
    assert found["scores"].unique().numel() > 0.9 * len(found["scores"])
    far = found["boxes"][found["boxes"] > 512]
    assert (far % 2 != 0).float().mean() > 0.5


def test_boxes_thinner_than_a_pixel_are_left_out():
    given = {
        "boxes": torch.tensor([[10.0, 10.0, 11.5, 40.0], [10.0, 10.0, 40.0, 40.0]]),
        "labels": torch.tensor([1, 2]),
        "weights": torch.ones(2),
    }
    image = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    smaller = Augmentation(multi_scale=(0.5,))
    for recipe, labels in ((Augmentation(), [1, 2]), (smaller, [2])):
        _, _, (target,) = augment.augment_batch(
            image, [(64, 64)], [given], [(0, 0)], augmentation=recipe, seed=0
        )
        assert target["labels"].tolist() == labels
        assert len(target["boxes"]) == len(target["weights"]) == len(labels)


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
    assert launch.find_machine("auto", "auto", 2).world == 8
    assert launch.find_machine("cpu", "auto", 2).world == 2
    monkeypatch.setattr(builtins, "__IPYTHON__", True, raising=False)
    assert launch.find_machine("auto", "auto", 1).world == 1
    assert "one of the 4 devices; `cxr train` uses them all" in caplog.text
    assert launch.find_machine("auto", 2, 1).world == 2


def test_torchrun_overrules_the_parameters(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "6")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert launch.find_machine("cpu", "auto", 1) == launch.Machine("cpu", 3, 2)


# -- the network and its average ---------------------------------------------------------------------


def test_frozen_batch_norm_stays_what_it_was(tmp_path, monkeypatch):
    frozen = spy_on_steps(monkeypatch, lambda module: [m.training for m in model.batch_norms(module.net)])
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


def test_channels_last_lays_out_network_average_and_images(tmp_path, monkeypatch):
    def layouts(module):
        weights = [net.backbone.body["stage1"][0][0].weight for net in (module.net, module.average.net)]
        return [w.is_contiguous(memory_format=torch.channels_last) for w in weights]

    seen = spy_on_steps(monkeypatch, layouts)
    result = train(tmp_path / "last", channels_last=True, epochs=1, val_ids=[])
    assert seen == [[True, True]] * 2
    plain = train(tmp_path / "first", epochs=1, val_ids=[])
    one, two = (pd.read_csv(r.metrics)["loss"].iloc[0] for r in (result, plain))
    assert one == pytest.approx(two, rel=1e-3)
