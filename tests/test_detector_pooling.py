"""Pooling of regions against torchvision's own kernel."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign

from cxr.detector.network.pooling import GatheredRoIAlign

SHAPES = [(48, 40), (24, 20), (12, 10)]
IMAGES = [(384, 320), (384, 300)]


def regions(count: int, generator: torch.Generator) -> torch.Tensor:
    """Boxes of all sizes, some over the edge, some thinner than a place of the map."""
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([340.0, 400.0]) - 20
    side = torch.rand(count, 2, generator=generator) ** 3 * 380
    return torch.cat([corner, corner + side], dim=1)


@pytest.mark.parametrize("size", [7, (3, 5)])
@pytest.mark.parametrize("sampling", [1, 2, 3])
def test_values_and_gradients_are_torchvisions(size, sampling):
    generator = torch.Generator().manual_seed(0)
    boxes = [regions(60, generator), regions(40, generator)]
    maps = [torch.randn(2, 6, *shape, generator=generator).requires_grad_() for shape in SHAPES]
    named = OrderedDict((str(place), level) for place, level in enumerate(maps))
    plain = MultiScaleRoIAlign(["0", "1", "2"], size, sampling, canonical_scale=90)
    ours = GatheredRoIAlign.like(plain)
    expected, got = plain(named, boxes, IMAGES), ours(named, boxes, IMAGES)
    assert len(set(plain.map_levels(boxes).tolist())) == 3
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    weights = torch.randn(expected.shape, generator=generator)
    wanted, gradients = torch.autograd.grad(expected, maps, weights), torch.autograd.grad(got, maps, weights)
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_no_regions_give_no_rows():
    maps = {"0": torch.randn(1, 4, 8, 8), "pool": torch.randn(1, 4, 4, 4)}
    pool = GatheredRoIAlign(["0", "1"], 7, 2)  # torchvision's MobileNet names maps that it has not
    assert pool(maps, [torch.zeros(0, 4)], [(64, 64)]).shape == (0, 4, 7, 7)


def test_prediction_uses_torchvisions_kernel(monkeypatch):
    monkeypatch.setattr(GatheredRoIAlign, "_places", lambda *_: pytest.fail("not in prediction"))
    pool = GatheredRoIAlign(["0"], 7, 2).eval()
    assert pool({"0": torch.randn(1, 4, 8, 8)}, [torch.tensor([[0.0, 0, 32, 32]])], [(64, 64)]).shape[0] == 1
