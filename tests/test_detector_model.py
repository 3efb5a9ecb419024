"""Networks, anchors and weights of the detector."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FasterRCNN
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.ops import FrozenBatchNorm2d

from cxr import schema
from cxr.detector.checkpoints import weights
from cxr.detector.checkpoints.files import FORMAT, read_detector, write_safetensors
from cxr.detector.network import anchors, grey, heads, registry
from cxr.detector.network.base import DetectionNetwork
from cxr.detector.network.device import pick_device
from cxr.detector.network.ema import WeightAverage
from cxr.detector.network.spec import DetectorSpec
from cxr.errors import CheckpointError, ParameterError, PredictionError

CLASSES = ("Right Lung", "Left Lung", "No finding")


def spec_of(name: str = "light", image_size: int = 64) -> DetectorSpec:
    entry = registry.architecture(name)
    sizes, ratios = anchors.fit_anchors(
        np.empty((0, 4)), strides=entry.strides, sizes_per_level=entry.sizes_per_level
    )
    return DetectorSpec(name, CLASSES, image_size, sizes, ratios)


def network(name: str = "light") -> DetectionNetwork:
    torch.manual_seed(0)
    return registry.build_network(spec_of(name))


def targets_of(*boxes: list[list[float]]) -> list[dict[str, torch.Tensor]]:
    return [
        {
            "boxes": torch.tensor(b, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.ones(len(b), dtype=torch.int64),
            "box_weights": torch.ones(len(b)),
        }
        for b in boxes
    ]


@pytest.mark.parametrize(
    "name",
    [
        "light",
        "mobilenet_v3_large_fpn",
        *[
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("resnet34_fpn", "resnet50_fpn", "resnet50_fpn_v2")
        ],
        pytest.param("resnet101_fpn", marks=pytest.mark.slow),
    ],
)
def test_every_architecture_trains_and_predicts_on_one_channel(name):
    net = network(name)
    images = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    losses = net.train()(images, [(64, 64), (50, 60)], targets_of([], [[5, 5, 30, 40]]))
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    with torch.no_grad():
        found = net.eval()(images, [(64, 64), (50, 60)])
    assert len(found) == 2
    assert found[1]["boxes"].shape[1] == 4
    maps = net.backbone(torch.zeros(1, 1, 64, 64))
    assert len(maps) == len(registry.architecture(name).strides)


def test_names_of_the_registry_are_checked():
    with pytest.raises(ParameterError, match=r"light, .*mobilenet_v3_large_fpn.*got 'yolo'"):
        registry.architecture("yolo")


def test_a_spec_survives_plain_data():
    spec = spec_of()
    plain = spec.to_dict()
    assert DetectorSpec.from_dict(plain) == spec
    assert type(plain["anchor_sizes"]) is list
    del plain["image_size"]
    with pytest.raises(CheckpointError, match="image_size"):
        DetectorSpec.from_dict(plain)


def test_padding_is_the_mean_grey():
    batch = grey.normalise(torch.full((1, 1, 32, 32), 255, dtype=torch.uint8), [(20, 10)])
    assert batch[0, 0, 20:].abs().sum() == batch[0, 0, :, 10:].abs().sum() == 0
    assert batch[0, 0, 0, 0].item() == pytest.approx((1 - grey.GREY_MEAN) / grey.GREY_STD)


def test_the_grey_stem_answers_as_the_colour_stem_on_three_equal_channels():
    torch.manual_seed(1)
    colour = torch.nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False).double()
    weight, bias = grey.fold_grey_stem(colour.weight)
    image = torch.rand(1, 1, 40, 40, dtype=torch.float64)
    mean, std = (
        torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (grey.IMAGENET.mean, grey.IMAGENET.std)
    )
    expected = colour((image - mean) / std)
    got = torch.nn.functional.conv2d((image - grey.GREY_MEAN) / grey.GREY_STD, weight, bias, 2, 3)
    torch.testing.assert_close(got[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2])


def test_the_weighted_loss_is_torchvisions_when_all_weights_are_one():
    torch.manual_seed(0)
    logits, deltas = torch.randn(12, 3), torch.randn(12, 12)
    labels, goals = torch.tensor([0, 1, 2] * 4), torch.randn(12, 4)
    expected = fastrcnn_loss(logits, deltas, [labels], [goals])
    got = heads.weighted_roi_loss(logits, deltas, labels, goals, torch.ones(12))
    torch.testing.assert_close((got["loss_classifier"], got["loss_box_reg"]), expected)


def test_a_box_of_weight_zero_is_not_learned():
    logits = torch.zeros(2, 3, requires_grad=True)
    losses = heads.weighted_roi_loss(
        logits, torch.zeros(2, 12), torch.tensor([0, 1]), torch.ones(2, 4), torch.tensor([1.0, 0.0])
    )
    losses["loss_classifier"].backward()
    assert losses["loss_box_reg"] == 0
    assert logits.grad[1].abs().sum() == 0


# -- anchors -----------------------------------------------------------------------------------------


def test_fitted_anchors_cover_the_boxes_better_than_the_usual_ones():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 40, (300, 2))
    boxes = np.hstack([low, low + rng.uniform(18, 50, (300, 1)) * [[1.0, 2.2]]])
    fitted = anchors.fit_anchors(boxes, strides=(8, 16, 32, 64))
    usual = anchors.fit_anchors(np.empty((0, 4)), strides=(8, 16, 32, 64))
    assert usual == (((64.0,), (128.0,), (256.0,), (512.0,)), (0.5, 1.0, 2.0))
    assert (
        anchors.best_anchor_iou(boxes, *fitted).mean() > anchors.best_anchor_iou(boxes, *usual).mean() + 0.1
    )
    assert all(np.diff([level[0] for level in fitted[0]]) > 0)


def test_anchor_iou_by_hand():
    # A 10 x 20 box against a 10 x 10 anchor: half of it.
    assert anchors.best_anchor_iou(np.array([[5, 5, 15, 25]]), ((10.0,),), (1.0,)).tolist() == [0.5]
    assert anchors.best_anchor_iou(np.empty((0, 4)), ((10.0,),), (1.0,)).shape == (0,)


def test_anchors_for_another_number_of_levels_are_refused():
    spec = DetectorSpec("light", CLASSES, 64, ((16.0,),), (1.0,))
    with pytest.raises(ParameterError, match="levels, got anchor sizes for 1"):
        registry.build_network(spec)


# -- weights -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torchvision_detector():
    """A detector as torchvision publishes them: colour stem, 91 labels; random values."""
    torch.manual_seed(5)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=torch.nn.BatchNorm2d, trainable_layers=5
    )
    return FasterRCNN(backbone, num_classes=91)


def test_a_published_detector_is_loaded_but_for_its_class_layers(tmp_path, torchvision_detector):
    path = tmp_path / "coco.pth"
    torch.save(torchvision_detector.state_dict(), path)
    net = network("resnet18_fpn")
    report = weights.load_weights(net, str(path), architecture_name="resnet18_fpn")
    state = torchvision_detector.state_dict()
    assert torch.equal(net.roi_heads.box_head.fc6.weight, state["roi_heads.box_head.fc6.weight"])
    assert torch.equal(
        net.backbone.body.conv1.weight, grey.fold_grey_stem(state["backbone.body.conv1.weight"])[0]
    )
    assert {name.rsplit(".", 2)[0] for name in report.missing} == {"roi_heads.box_predictor"}
    assert set(report.unused) == set(report.missing)
    assert "stay random (roi_heads.box_predictor)" in report.message
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("prefix", ["", "model.encoder."])
def test_a_backbone_alone_is_found_under_any_prefix(tmp_path, prefix):
    torch.manual_seed(2)
    backbone = resnet18(weights=None)
    state = {prefix + name: value for name, value in backbone.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "backbone.pt")
    net = network("resnet18_fpn")
    report = weights.load_weights(net, str(tmp_path / "backbone.pt"), architecture_name="resnet18_fpn")
    assert torch.equal(net.backbone.body.layer3[1].conv2.weight, backbone.layer3[1].conv2.weight)
    assert sorted(report.unused) == [prefix + "fc.bias", prefix + "fc.weight"]
    assert not any(name.startswith("backbone.body") for name in report.missing)


def test_a_frozen_detector_answers_as_it_did_without_epsilon(tmp_path):
    """Torchvision's first detectors divide by the bare deviation; a channel that hardly varies shows it."""
    torch.manual_seed(3)
    frozen = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=5
    )
    overwrite_eps(frozen, 0.0)
    frozen.body.bn1.running_var.fill_(2e-5)
    state = FasterRCNN(frozen, num_classes=91).state_dict()
    torch.save(state, tmp_path / "coco.pth")
    net = network("resnet18_fpn").eval()
    weights.load_weights(net, str(tmp_path / "coco.pth"), architecture_name="resnet18_fpn")
    maps = torch.rand(1, 64, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(net.backbone.body.bn1(maps), frozen.body.bn1(maps))


def test_a_one_channel_stem_is_taken_without_a_bias(tmp_path):
    backbone = resnet18(weights=None)
    backbone.conv1 = torch.nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    torch.save(backbone.state_dict(), tmp_path / "grey.pt")
    net = network("resnet18_fpn")
    weights.load_weights(net, str(tmp_path / "grey.pt"), architecture_name="resnet18_fpn")
    assert torch.equal(net.backbone.body.conv1.weight, backbone.conv1.weight)
    assert net.backbone.body.conv1.bias.abs().sum() == 0


def test_no_weights_says_so(caplog):
    report = weights.load_weights(network(), "", architecture_name="light")
    assert report.message == "weights: none, the network starts from random weights"
    assert not caplog.records
    weights.load_weights(network("resnet18_fpn"), "", architecture_name="resnet18_fpn")
    assert "no pretrained weights: resnet18_fpn is far worse without" in caplog.text


def test_weights_that_cannot_be_used_are_refused(tmp_path):
    net = network()
    with pytest.raises(CheckpointError, match=r"nowhere\.pt: no such file"):
        weights.load_weights(net, str(tmp_path / "nowhere.pt"), architecture_name="light")
    foreign = tmp_path / "foreign.pt"
    torch.save({"some.layer.weight": torch.zeros(3, 3)}, foreign)
    with pytest.raises(CheckpointError, match=r"nothing fits this network \(the file has some.layer\)"):
        weights.load_weights(net, str(foreign), architecture_name="light")
    with pytest.raises(CheckpointError, match="expected SHA-256 00, got"):
        weights.load_weights(net, str(foreign), architecture_name="light", sha256="00")
    torch.save({"net": np.random.default_rng}, tmp_path / "code.pt")
    with pytest.raises(CheckpointError, match="loads without running code"):
        weights.load_weights(net, str(tmp_path / "code.pt"), architecture_name="light")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match="expected a torch file, got one that begins b'he'"):
        weights.load_weights(net, str(tmp_path / "text.pt"), architecture_name="light")
    with pytest.raises(CheckpointError, match="publishes no detector weights for 'light'"):
        weights.load_weights(net, "torchvision", architecture_name="light")


def test_a_device_that_is_not_here_is_named():
    for device in ("cuda:99", "tpu"):
        with pytest.raises(ParameterError, match=f"device: expected one of auto, cpu.*, got '{device}'"):
            pick_device(device)


# -- files -------------------------------------------------------------------------------------------


def test_an_export_holds_weights_and_description(tmp_path):
    net = network()
    path = tmp_path / "out" / "detector.safetensors"
    digest = write_safetensors(net, spec_of(), path)
    again, spec, found = read_detector(path)
    assert found == digest
    assert spec == spec_of()
    assert spec.classes == schema.ClassTable(CLASSES)
    for name, value in net.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, path.name + ".sha256"]


def test_a_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "detector.safetensors"
    write_safetensors(network(), spec_of(), path)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="changed or damaged"):
        read_detector(path)


def test_files_that_are_no_detector_are_refused(tmp_path):
    torch.save({"state_dict": {}, "epoch": 1}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="expected a checkpoint written by training here"):
        read_detector(tmp_path / "other.ckpt")
    (tmp_path / "broken.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read_detector(tmp_path / "broken.safetensors")


@pytest.mark.parametrize(
    ("sizes", "levels", "expected"),
    [([8, 16], 2, ((8.0,), (16.0,))), ([1, 2, 3, 4], 2, ((1.0, 2.0), (3.0, 4.0)))],
)
def test_anchor_sizes_in_one_list_go_to_their_levels(sizes, levels, expected):
    assert anchors.by_level(sizes, levels) == expected
    with pytest.raises(ParameterError, match="expected as many for each of the 2 levels, got 3"):
        anchors.by_level([1, 2, 3], 2)


def with_nan(net: DetectionNetwork) -> DetectionNetwork:
    with torch.no_grad():
        net.backbone.body["stage2"][0][0].weight[0, 0, 0, 0] = float("nan")
    return net


def test_a_network_of_nan_is_never_an_answer(tmp_path):
    """It finds nothing, and "nothing found" would be believed."""
    bad, spec = with_nan(network()), spec_of()
    with pytest.raises(CheckpointError, match=r"NaN or infinity in backbone\.body\.stage2\.0\.0\.weight"):
        write_safetensors(bad, spec, tmp_path / "a.safetensors")
    state = {f"net.{name}": value for name, value in bad.state_dict().items()}
    content = {"state_dict": state, "hyper_parameters": {"spec": spec.to_dict()}}
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"a\.ckpt: expected finite weights"):
        read_detector(tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"a\.ckpt: expected finite weights"):
        weights.load_weights(network(), str(tmp_path / "a.ckpt"), architecture_name="light")
    with pytest.raises(PredictionError, match="in level '0' of the backbone"), torch.no_grad():
        bad.eval()(torch.zeros(1, 1, 64, 64), [(64, 64)])


@pytest.mark.parametrize("note", [b"", b"\n", b"\xff\x00\xfe", b"hello world"])
def test_a_malformed_hash_is_named(tmp_path, note):
    path = tmp_path / "a.safetensors"
    write_safetensors(network(), spec_of(), path)
    (tmp_path / "a.safetensors.sha256").write_bytes(note)
    with pytest.raises(CheckpointError, match=r"a\.safetensors\.sha256: expected a SHA-256 of 64"):
        read_detector(path)


@pytest.mark.parametrize("spec", [None, "", "[]", '{"architecture": "light"}', '{"class_names": 3}'])
def test_a_file_without_a_right_description_is_named(tmp_path, spec):
    path = tmp_path / "a.safetensors"
    about = {"format": FORMAT} | ({} if spec is None else {"spec": spec})
    save_file({"x": torch.zeros(1)}, path, metadata=about)
    with pytest.raises(CheckpointError, match=r"a\.safetensors: expected the description of a detector"):
        read_detector(path)


def test_refused_pickles_get_no_advice_to_run_them(tmp_path):
    torch.save({"net": np.random.default_rng}, tmp_path / "code.pt")
    with pytest.raises(CheckpointError) as caught:
        weights.read_checkpoint(tmp_path / "code.pt")
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_average_follows_the_network():
    net = torch.nn.Linear(2, 1)
    average = WeightAverage(net, decay=0.5)
    before = net.weight.detach().clone()
    with torch.no_grad():
        net.weight += 1
    average.update(net, 1)  # early on the decay is (1 + 1) / (10 + 1)
    torch.testing.assert_close(average.net.weight, before + 9 / 11)
    average.update(net, 1000)
    torch.testing.assert_close(average.net.weight, before + 1 - 2 / 11 / 2)
    assert not average.net.weight.requires_grad
