"""A detector as ONNX answers as PyTorch does, for images of any size."""

from __future__ import annotations

import json
import sys
import warnings

import cv2
import numpy as np
import pytest
import torch

from cxr import schema
from cxr.detector.data.held import HeldImages
from cxr.detector.data.pixels import network_image
from cxr.detector.network.base import batch_norms
from cxr.detector.network.registry import architecture, build_network
from cxr.detector.network.spec import DetectorSpec
from cxr.detector.prediction.detector import Detector
from cxr.detector.prediction.onnx_file import OPSET, write_onnx
from cxr.detector.prediction.onnx_resize import resize
from cxr.detector.prediction.predict import predict_store
from cxr.errors import CheckpointError, ParameterError
from cxr.files import check_sha256

SIZE = 160
CLASSES = schema.ClassTable(("Bright", "Dark", "No finding"))


def picture(size: tuple[int, int], *, seed: int = 0) -> np.ndarray:
    """Blurred noise over the whole range of grey."""
    noise = np.random.default_rng(seed).standard_normal(size)
    smooth = cv2.GaussianBlur(noise, (0, 0), max(size) / 40)
    return np.clip(128 + 80 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def detector(name: str) -> Detector:
    """A random network whose answers differ from place to place, as a trained one's do."""
    torch.manual_seed(0)
    entry = architecture(name)
    anchors = (
        ()
        if not entry.sizes_per_level
        else tuple(
            tuple(4.0 * stride * (1 + k / 2) for k in range(entry.sizes_per_level))
            for stride in entry.strides
        )
    )
    spec = DetectorSpec(name, CLASSES.names, SIZE, anchors, (0.5, 1.0, 2.0) if anchors else ())
    net = build_network(spec)
    for norm in batch_norms(net):
        norm.momentum = None  # statistics are the mean over what follows
    net.train()
    with torch.no_grad():
        for seed in range(2):
            small = picture((SIZE, SIZE), seed=seed)[None, None].repeat(2, axis=0)
            net.backbone((torch.from_numpy(small).float() / 255 - 0.449) / 0.226)
        for module in (net.rpn.head, net.roi_heads.box_predictor) if hasattr(net, "rpn") else ():
            for parameter in module.parameters():
                parameter.mul_(4)
    return Detector(net.eval(), spec, name, "0" * 64)


def session(path):
    runtime = pytest.importorskip("onnxruntime")
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = 1
    return runtime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def compare(made: Detector, running, pixels: np.ndarray) -> tuple[int, int]:
    """Hold both answers against each other: boxes to 0.1 px, scores to 1e-4; boxes, and unmatched ones."""
    held = HeldImages()
    held.add("a", pixels, pixels.shape)
    want = predict_store(made, held, ["a"])[[schema.CLASS_ID, *schema.BOX_COLUMNS, schema.SCORE]].to_numpy()
    boxes, scores, class_ids = running.run(None, {"image": pixels})
    assert boxes.dtype == scores.dtype == np.float32 and class_ids.dtype == np.int64
    assert (np.diff(scores) <= 0).all(), "best first"
    got = np.column_stack([class_ids, boxes, scores])
    near = np.abs(want[:, None] - got[None]) < [0.5, 0.1, 0.1, 0.1, 0.1, 1e-4]
    same = near.all(axis=2)
    return len(got), int((~same.any(axis=1)).sum() + (~same.any(axis=0)).sum())


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        # Network size, padded both ways; larger, odd sides included.
        ("light", [(SIZE, SIZE), (SIZE, 97), (120, SIZE), (480, 480), (1441, 1119), (560, 801)]),
        ("light_retinanet", [(SIZE, SIZE), (560, 801)]),
        ("light_fcos", [(SIZE, SIZE), (560, 801)]),
        ("timm/test_resnet", [(120, SIZE), (560, 801)]),
        pytest.param("mobilenet_v3_large_fpn", [(SIZE, SIZE), (120, SIZE)], marks=pytest.mark.slow),
        # Its convolutions pad by the size of what they get, as TensorFlow's do.
        pytest.param("timm/tf_efficientnet_lite0", [(120, SIZE), (560, 801)], marks=pytest.mark.slow),
        pytest.param("resnet18_fpn", [(120, SIZE), (560, 801)], marks=pytest.mark.slow),
    ],
)
def test_answers_as_pytorch_for_any_size(tmp_path, name, sizes):
    pytest.importorskip("onnx")
    made = detector(name)
    digest = write_onnx(made, tmp_path / "net.onnx")
    assert check_sha256(tmp_path / "net.onnx") == digest
    running = session(tmp_path / "net.onnx")
    counts, unmatched = zip(*(compare(made, running, picture(size)) for size in sizes), strict=True)
    assert sum(counts) > 20
    # A random MobileNet has proposals that overlap by its threshold to the last digit: one or two flip.
    assert sum(unmatched) <= (sum(counts) // 40 if name.startswith("mobilenet") else 0)
    blank = running.run(None, {"image": np.zeros((300, 200), np.uint8)})
    assert all(np.isfinite(value).all() for value in blank)
    about = running.get_modelmeta().custom_metadata_map
    assert json.loads(about["class_names"]) == ["Bright", "Dark"] and about["image_size"] == str(SIZE)
    assert about["made_from_sha256"] == made.sha256 and "not a medical device" in about["notice"]


def test_finds_nothing_without_complaint(tmp_path):
    pytest.importorskip("onnx")
    made = detector("light")
    with torch.no_grad():
        made.net.roi_heads.box_predictor.cls_score.weight.zero_()
        made.net.roi_heads.box_predictor.cls_score.bias.copy_(torch.tensor([50.0, 0.0, 0.0]))
    write_onnx(made, tmp_path / "net.onnx")
    boxes, scores, class_ids = session(tmp_path / "net.onnx").run(None, {"image": picture((200, 170))})
    assert boxes.shape == (0, 4) and scores.shape == class_ids.shape == (0,)


class _Resize(torch.nn.Module):
    def forward(self, image: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        return resize(image, size)


@pytest.fixture(scope="module")
def resizing(tmp_path_factory):
    pytest.importorskip("onnx")
    path = tmp_path_factory.mktemp("resize") / "resize.onnx"
    example = torch.zeros(96, 128, dtype=torch.uint8), torch.tensor([48, 64])
    axes = {"image": {0: "rows", 1: "columns"}, "grey": {0: "high", 1: "wide"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Resize(), example, str(path), dynamo=False, opset_version=OPSET, dynamic_axes=axes,
            input_names=["image", "size"], output_names=["grey"],
        )  # fmt: skip
    return session(path)


def odd_sizes(number: int) -> list[tuple[int, int]]:
    """Sizes of images: any, whole multiples of the network's, halves and quarters (ties), slivers."""
    rng = np.random.default_rng(0)
    sizes = [(150, 40), (2, 160), (1, 1), (160, 160), (161, 160), (1024, 1021), (1, 900), (3000, 7)]
    sizes += [(k * SIZE, k * side) for k in (2, 3, 4, 7) for side in (SIZE, 97)]
    sizes += [(SIZE * k // 4, SIZE * j // 8) for k, j in ((5, 9), (6, 10), (10, 20), (9, 17))]
    return sizes + [tuple(int(side) for side in rng.integers(1, 1200, 2)) for _ in range(number)]


def test_resizes_as_opencv_to_the_last_grey_level(resizing):
    rng = np.random.default_rng(1)
    for size in odd_sizes(60):
        pixels = rng.integers(0, 256, size).astype(np.uint8)
        want = network_image(pixels, SIZE)
        (got,) = resizing.run(None, {"image": pixels, "size": np.array(want.shape)})
        assert np.array_equal(got, want), size
        assert np.array_equal(resize(torch.from_numpy(pixels), torch.tensor(want.shape)).numpy(), want), size


@pytest.mark.slow
def test_answers_as_pytorch_for_many_odd_sizes(tmp_path):
    pytest.importorskip("onnx")
    made = detector("light")
    write_onnx(made, tmp_path / "net.onnx")
    running = session(tmp_path / "net.onnx")
    results = {size: compare(made, running, picture(size)) for size in odd_sizes(8) if min(size) > 20}
    assert sum(count for count, _ in results.values()) > 50
    assert not {size: unmatched for size, (_, unmatched) in results.items() if unmatched}


def test_refuses_weights_that_are_not_numbers(tmp_path):
    pytest.importorskip("onnx")
    made = detector("light")
    with torch.no_grad():
        made.net.rpn.head.cls_logits.bias[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"NaN or infinity in rpn\.head\.cls_logits\.bias"):
        write_onnx(made, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_says_which_package_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ParameterError, match=r"pip install 'cxr\[onnx\]'"):
        write_onnx(detector("light"), tmp_path / "net.onnx")
