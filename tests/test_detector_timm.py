"""Backbones of timm, tried on the tiny ones that timm has for tests."""

from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import save_file
from squares import IMAGES, train
from torch import Tensor, nn

from cxr.detector.checkpoints.files import read_detector
from cxr.detector.checkpoints.weights import load_weights
from cxr.detector.network import grey, timm_backbone
from cxr.detector.network.base import DetectionNetwork
from cxr.detector.network.registry import architecture, build_network
from cxr.detector.network.spec import DetectorSpec
from cxr.detector.prediction.detector import export_detector, load_detector
from cxr.detector.prediction.looks import Looks
from cxr.detector.prediction.predict import predict_store
from cxr.errors import CheckpointError, ParameterError

timm = pytest.importorskip("timm")

RESNET = "timm/test_resnet.r160_in1k"
FOLDED = [RESNET, "timm/test_efficientnet", "timm/test_convnext"]
COLOUR = "timm/test_nfnet"  # its first convolution normalises its weights at each step


def network(name: str) -> DetectionNetwork:
    torch.manual_seed(0)
    sizes = tuple((4.0 * stride,) for stride in architecture(name).strides)
    return build_network(DetectorSpec(name, ("A", "B", "No finding"), 64, sizes, (1.0,)))


def published(name: str) -> nn.Module:
    """A network as timm publishes it; random, its normalisation too."""
    torch.manual_seed(1)
    net = timm.create_model(name.removeprefix("timm/"))
    for part, value in net.state_dict().items():
        if part.endswith(("bias", "running_mean", "running_var")):
            value.add_(torch.rand_like(value) * 0.2)
    return net.eval()


def coloured(images: Tensor, name: str) -> Tensor:
    """Grey images in [0, 1] as the network was trained to see colours."""
    colour = architecture(name).colour
    return (images - torch.tensor(colour.mean).view(1, 3, 1, 1)) / torch.tensor(colour.std).view(1, 3, 1, 1)


@pytest.mark.parametrize("name", [*FOLDED, COLOUR])
def test_a_network_trains_and_predicts_on_one_channel(name):
    net, strides = network(name), architecture(name).strides
    assert strides == (8, 16, 32, 64)
    images = torch.randint(0, 256, (2, 1, 64, 96), dtype=torch.uint8)
    boxes = torch.tensor([[5.0, 5.0, 30.0, 40.0]])
    target = {"boxes": boxes, "labels": torch.tensor([1]), "box_weights": torch.ones(1)}
    sum(net.train()(images, [(64, 96), (50, 60)], [target, target]).values()).backward()
    assert all(p.grad is not None for p in net.parameters()), (
        "no parameter without use: several GPUs need that"
    )
    with torch.no_grad():
        maps = net.eval().backbone(torch.zeros(1, 1, 64, 96))
        assert [96 // level.shape[3] for level in maps.values()] == [8, 16, 32, 48]
        assert len(net(images, [(64, 96), (50, 60)])) == 2


def test_a_large_network_gets_torchvisions_heads_and_a_finer_pyramid():
    entry = architecture("timm/resnet18")
    assert entry.strides == (4, 8, 16, 32, 64) and entry.learning_rate == 1e-4
    assert network("timm/resnet18").roi_heads.box_head.fc6.out_features == 1024
    assert network(RESNET).roi_heads.box_head.fc6.out_features == 128


@pytest.mark.parametrize("name", FOLDED)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_of_timm_fills_the_backbone_and_the_stem_is_folded(tmp_path, name, suffix):
    theirs, path = published(name), tmp_path / f"weights.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(theirs.state_dict(), path)
    net = network(name)
    report = load_weights(net, str(path), architecture_name=name)
    assert not any(missing.startswith("backbone.body") for missing in report.missing)
    assert {part.split(".")[0] for part in report.unused} <= {"fc", "head", "classifier", "conv_head", "bn2"}
    assert "stay random (backbone.fpn" in report.message
    stem = architecture(name).stem.removeprefix("backbone.body.")
    for place, value in net.backbone.body.state_dict().items():
        if not place.startswith(f"{stem}."):
            assert torch.equal(value, theirs.state_dict()[place]), place
    images = torch.rand(1, 1, 32, 32)
    expected = theirs.get_submodule(stem)(coloured(images, name))
    got = net.backbone.body.get_submodule(stem)((images - grey.GREY_MEAN) / grey.GREY_STD)
    torch.testing.assert_close(got[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


def test_a_stem_that_cannot_be_folded_gets_three_channels(tmp_path):
    theirs = published(COLOUR)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    net = network(COLOUR).eval()
    load_weights(net, str(tmp_path / "weights.pth"), architecture_name=COLOUR)
    images = torch.rand(1, 1, 64, 64)
    maps = theirs.forward_intermediates(coloured(images, COLOUR), intermediates_only=True)[-3:]
    expected = net.backbone.fpn({str(number): level for number, level in enumerate(maps)})
    got = net.backbone((images - grey.GREY_MEAN) / grey.GREY_STD)
    torch.testing.assert_close(list(got.values()), list(expected.values()), rtol=1e-3, atol=1e-4)


def test_training_leaves_given_early_layers_and_statistics_alone_and_its_files_predict(tmp_path):
    torch.save(published(RESNET).state_dict(), tmp_path / "weights.pth")
    given = network(RESNET)
    load_weights(given, str(tmp_path / "weights.pth"), architecture_name=RESNET)
    result = train(tmp_path / "out", architecture_name=RESNET, weights=str(tmp_path / "weights.pth"))
    assert "weights.pth" in result.weights
    detector = load_detector(result.best, device="cpu")
    body = detector.net.backbone.body
    early = {id(parameter) for parameter in detector.net.backbone.early_parameters()}
    frozen = {name for name, parameter in body.named_parameters() if id(parameter) in early}
    assert {name.split(".")[0] for name in frozen} == {"conv1", "bn1", "layer1"}
    norms = {name for name, part in body.named_modules() if isinstance(part, nn.BatchNorm2d)}
    before = given.backbone.body.state_dict()
    for name, value in body.state_dict().items():
        stays = name in frozen or name.rpartition(".")[0] in norms
        assert torch.equal(value, before[name]) == stays, name
    export_detector(detector, tmp_path / "net.safetensors")
    again = load_detector(tmp_path / "net.safetensors", device="cpu")
    looks = Looks(score_floor=0.0, max_boxes=5)
    one, two = (predict_store(d, IMAGES, IMAGES.ids[:2], looks=looks) for d in (detector, again))
    assert len(one) and one.equals(two)


def test_random_weights_are_trained_from_the_first_layer_on(tmp_path):
    result = train(tmp_path, architecture_name=RESNET)
    stem = f"{architecture(RESNET).stem}.weight"
    trained = load_detector(result.best, device="cpu").net.state_dict()
    torch.manual_seed(0)
    assert not torch.equal(trained[stem], network(RESNET).state_dict()[stem])


# -- what goes wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/efficientnet_b00", "one of timm's networks, got 'efficientnet_b00'; similar: efficientnet_b"),
        ("timm/maxvit_nano_rw_256", "gives no feature maps for images of any size with timm"),
        ("timm/hf-hub:someone/net", "one of timm's networks, got 'hf-hub:someone/net'"),
        ("timm/test_vit", "expected a network with maps of several strides, got timm/test_vit with 16, "),
    ],
)
def test_a_name_without_a_pyramid_is_refused_in_one_line(name, message):
    with pytest.raises(ParameterError, match=message) as caught:
        architecture(name)
    assert "\n" not in str(caught.value)


def test_without_timm_one_line_says_what_to_install(tmp_path, monkeypatch):
    result = train(tmp_path, architecture_name=RESNET, epochs=1)
    timm_backbone.describe.cache_clear()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ParameterError, match=r"timm/ needs the package timm: pip install 'cxr\[timm\]'"):
        architecture(RESNET)
    with pytest.raises(CheckpointError, match=r"best.ckpt: .* cannot be built here \(.*cxr\[timm\]"):
        read_detector(result.best)


def test_published_weights_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setattr(timm_backbone, "_reachable", lambda address: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    net = network(RESNET)
    with pytest.raises(
        CheckpointError, match=r"weights='timm' could not be fetched .*test_resnet.r160"
    ) as caught:
        load_weights(net, "timm", architecture_name=RESNET)
    assert "\n" not in str(caught.value)
    with pytest.raises(
        CheckpointError, match="torchvision publishes no detector weights for 'timm/test_resnet"
    ):
        load_weights(net, "torchvision", architecture_name=RESNET)
    with pytest.raises(CheckpointError, match="timm publishes no weights for 'light'"):
        load_weights(network("light"), "timm", architecture_name="light")


def test_published_weights_are_those_of_timm(monkeypatch):
    theirs, asked = published(RESNET), []

    def create_model(name: str, pretrained: bool) -> nn.Module:
        asked.append((name, pretrained))
        return theirs

    net = network(RESNET)
    monkeypatch.setattr(timm_backbone, "_reachable", lambda address: True)
    monkeypatch.setattr(timm, "create_model", create_model)
    report = load_weights(net, "timm", architecture_name=RESNET)
    assert asked == [("test_resnet.r160_in1k", True)]
    assert report.message.startswith("weights: timm's test_resnet.r160_in1k: ")
    assert torch.equal(net.backbone.body.layer4[0].conv2.weight, theirs.layer4[0].conv2.weight)
