"""A detector as one ONNX file: image in, boxes out, no PyTorch needed to run it.

The graph holds everything between an image and its boxes: the resize, the grey values, the network,
non-maximum suppression, and the way back to pixels of the image given. It is written by torch's exporter
by tracing: the one by `torch.export` cannot take torchvision's data-dependent shapes apart.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from cxr.detector.checkpoints.weights import check_finite
from cxr.detector.data.batches import PAD_MULTIPLE
from cxr.detector.network.base import DetectionNetwork
from cxr.detector.network.grey import GREY_MEAN, GREY_STD
from cxr.detector.network.spec import Answers
from cxr.detector.prediction.detector import Detector
from cxr.detector.prediction.onnx_resize import resize
from cxr.errors import CheckpointError, ParameterError
from cxr.files import sha256, write_bytes

FORMAT = "cxr-onnx-1"
OPSET = 17
INPUT = "image"
OUTPUTS = ("boxes", "scores", "class_ids")
_ANSWERS = Answers()


def write_onnx(detector: Detector, path: Path) -> str:
    """Write a detector as ONNX.

    Input `image`: uint8 (rows, columns), a grey radiograph of any size, white is dense tissue. Outputs,
    best first: `boxes` float32 (N, 4), pixels of that image; `scores` float32 (N,); `class_ids` int64 (N,).
    Names of the classes and what the graph was built with are in the file's metadata.

    Args:
        detector: The detector; its calibration is not part of the file.
        path: File to write; its hash is written beside it.

    Returns:
        SHA-256 of the file.

    Raises:
        ParameterError: The package `onnx` is missing.
        CheckpointError: A weight is NaN or infinite, or the network cannot be written as ONNX.
    """
    onnx = _library()
    check_finite(detector.net.state_dict(), detector.path)
    detector.net.set_answers(_ANSWERS)
    whole = _WholeImage(detector.net, detector.spec.image_size).eval()
    example = torch.arange(96 * 128, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(96, 128)
    axes = {INPUT: {0: "rows", 1: "columns"}, **{name: {0: "n"} for name in OUTPUTS}}
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        # Tracing warns of every shape; the tests compare the file's answers over many shapes.
        warnings.simplefilter("ignore")
        traced = Path(folder) / "traced.onnx"
        try:
            with torch.no_grad():
                torch.onnx.export(
                    whole,
                    (example.to(detector.device),),
                    str(traced),
                    dynamo=False,
                    opset_version=OPSET,
                    input_names=[INPUT],
                    output_names=list(OUTPUTS),
                    dynamic_axes=axes,
                )
        except Exception as error:  # the exporter raises a kind for each operator it lacks
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise CheckpointError(
                f"{detector.path}: {detector.spec.architecture} cannot be written as ONNX ({first})"
            ) from error
        model = onnx.load(str(traced))
    onnx.helper.set_model_props(model, _metadata(detector))
    onnx.checker.check_model(model)
    write_bytes(path, model.SerializeToString(), hashed=True)
    return sha256(path)


def _library() -> ModuleType:
    try:
        import onnx  # an extra
    except ModuleNotFoundError as error:
        raise ParameterError("ONNX needs the package onnx: pip install 'cxr[onnx]'") from error
    return onnx


def _metadata(detector: Detector) -> dict[str, str]:
    spec = detector.spec
    return {
        "format": FORMAT,
        "class_names": json.dumps(list(spec.classes.finding_names)),
        "architecture": spec.architecture,
        "image_size": str(spec.image_size),
        "score_threshold": str(_ANSWERS.score_threshold),
        "nms_iou": str(_ANSWERS.nms_iou),
        "max_boxes": str(_ANSWERS.max_boxes),
        "made_from_sha256": detector.sha256,
        "notice": "Research software, not a medical device.",
    }


class _WholeImage(nn.Module):
    """From one grey image of any size to its boxes; written so that no size is baked in when traced."""

    def __init__(self, net: DetectionNetwork, image_size: int) -> None:
        super().__init__()
        self.net = net
        self.image_size = image_size

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes in pixels of `image` (rows, columns), scores and class ids."""
        shape = torch._shape_as_tensor(image)
        # As `data.pixels.network_size`, in float64 and with one division: the same size, to the pixel.
        # (All stays one-dimensional, for the exporter takes a scalar's precision lightly.)
        wanted = torch.full((1,), float(self.image_size), dtype=torch.float64)
        scale = wanted / shape.max().reshape(1).to(torch.float64)
        size = (shape.to(torch.float64) * scale).round().clamp(min=1).to(torch.int64)
        grey = resize(image, size)
        padding = (-size) % PAD_MULTIPLE
        batch = nn.functional.pad(
            ((grey / 255 - GREY_MEAN) / GREY_STD)[None, None],
            (0, padding[1], 0, padding[0]),  # type: ignore[arg-type]
        )
        features = dict(self.net.backbone(batch).items())
        (found,) = self.net.detections(ImageList(batch, [(size[0], size[1])]), features)
        columns_rows = shape.flip(0).repeat(2).to(torch.float32)
        boxes = found["boxes"] * (columns_rows / size.flip(0).repeat(2).to(torch.float32))
        return boxes.clamp(min=0).minimum(columns_rows), found["scores"], found["labels"] - 1
