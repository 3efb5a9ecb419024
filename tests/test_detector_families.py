"""Further families of networks: through the same registry, training, checkpoints and prediction."""

from __future__ import annotations

import copy

import pandas as pd
import pytest
import torch
from squares import IMAGES, train
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead

from cxr import schema
from cxr.detector.network import dense
from cxr.detector.network.registry import architecture, build_network
from cxr.detector.network.spec import Answers, DetectorSpec
from cxr.detector.prediction.detector import export_detector, load_detector
from cxr.detector.prediction.looks import Looks
from cxr.detector.prediction.predict import predict_store

LABELS = 4
FAMILIES = ["light_retinanet", "light_fcos"]


def spec_of(name: str) -> DetectorSpec:
    entry = architecture(name)
    levels = tuple((4.0 * s, 6.0 * s)[: entry.sizes_per_level] for s in entry.strides)
    sizes = levels if entry.sizes_per_level else ()
    return DetectorSpec(name, ("A", "B", "C", "No finding"), 64, sizes, (1.0,) if sizes else ())


def problem(places: int) -> tuple[list[dict], list[torch.Tensor], list[torch.Tensor]]:
    """Two images, one without a box; some places have a box, some are in between."""
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand((2, places, 2), generator=generator) * 40
    anchors = torch.cat([corner, corner + 8 + 8 * torch.rand((2, places, 2), generator=generator)], dim=2)
    targets = [
        {
            "boxes": torch.tensor([[2.0, 2.0, 60.0, 50.0], [10.0, 5.0, 62.0, 61.0]]),
            "labels": torch.tensor([1, 3]),
            "box_weights": torch.ones(2),
        },
        {
            "boxes": torch.zeros(0, 4),
            "labels": torch.zeros(0, dtype=torch.int64),
            "box_weights": torch.ones(0),
        },
    ]
    centre = (anchors[0, :, :2] + anchors[0, :, 2:]) / 2
    inside = (centre > 12).all(dim=1) & (centre < 48).all(dim=1)
    first = torch.where(inside, torch.arange(places) % 2, -1)
    return targets, list(anchors), [first, torch.full((places,), -1)]


def outputs(places: int, *, fcos: bool) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    found = {
        "cls_logits": torch.randn((2, places, LABELS), generator=generator),
        "bbox_regression": torch.rand((2, places, 4), generator=generator),
    }
    if fcos:
        found["bbox_ctrness"] = torch.randn((2, places, 1), generator=generator)
    return found


@pytest.mark.parametrize("fcos", [False, True], ids=["retinanet", "fcos"])
def test_the_weighted_losses_are_torchvisions_when_all_weights_are_one(fcos):
    targets, anchors, matched = problem(40)
    if not fcos:
        matched[0][5] = matched[1][7] = dense.WeightedRetinaNetHead.between
    arguments = (targets, outputs(40, fcos=fcos), anchors, matched)
    ours = dense.WeightedFCOSHead(64, 1, LABELS) if fcos else dense.WeightedRetinaNetHead(64, 1, LABELS)
    theirs = FCOSHead(64, 1, LABELS) if fcos else RetinaNetHead(64, 1, LABELS)
    got, expected = ours.compute_loss(*arguments), theirs.compute_loss(*arguments)
    assert len(got) == len(expected) == 2 + fcos
    torch.testing.assert_close(list(got.values()), list(expected.values()))


@pytest.mark.parametrize("fcos", [False, True], ids=["retinanet", "fcos"])
def test_a_box_of_weight_zero_is_not_learned(fcos):
    targets, anchors, matched = problem(40)
    targets[0]["box_weights"] = torch.zeros(2)
    found = {name: value.requires_grad_() for name, value in outputs(40, fcos=fcos).items()}
    head = dense.WeightedFCOSHead(64, 1, LABELS) if fcos else dense.WeightedRetinaNetHead(64, 1, LABELS)
    sum(head.compute_loss(targets, found, anchors, matched).values()).backward()
    own = matched[0] >= 0
    assert found["cls_logits"].grad[0, own].abs().sum() == 0
    assert found["cls_logits"].grad[0, ~own].abs().sum() > 0
    assert found["bbox_regression"].grad.abs().sum() == 0


@pytest.mark.parametrize(
    "name",
    [
        *FAMILIES,
        *[
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn")
        ],
    ],
)
def test_a_family_trains_and_predicts_on_one_channel(name):
    torch.manual_seed(0)
    net = build_network(spec_of(name))
    images = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    targets, *_ = problem(1)
    losses = net.train()(images, [(64, 64), (50, 60)], targets)
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    net.set_answers(Answers(score_threshold=0.0, max_boxes=7))
    with torch.no_grad():
        found = net.eval()(images, [(64, 64), (50, 60)])
        twin = copy.deepcopy(net)(images, [(64, 64), (50, 60)])
    assert len(found[0]["scores"]) == 7
    assert found[1]["boxes"][:, 2].max() <= 60
    torch.testing.assert_close(found[0]["scores"], twin[0]["scores"])
    assert len(net.backbone(torch.zeros(1, 1, 64, 64))) == len(architecture(name).strides)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_goes_through_training_checkpoint_export_and_prediction(tmp_path, name):
    result = train(tmp_path, architecture_name=name, epochs=2)
    table = pd.read_csv(result.metrics)
    assert len([c for c in table if c.startswith("loss_")]) == (3 if "fcos" in name else 2)
    detector = load_detector(result.best, device="cpu")
    export_detector(detector, tmp_path / "net.safetensors")
    looks = Looks(score_floor=0.0, max_boxes=5)
    one = predict_store(detector, IMAGES, IMAGES.ids[:2], looks=looks)
    two = predict_store(
        load_detector(tmp_path / "net.safetensors", device="cpu"), IMAGES, IMAGES.ids[:2], looks=looks
    )
    pd.testing.assert_frame_equal(one, two)
    assert one.groupby(schema.IMAGE_ID).size().between(1, 5).all()
