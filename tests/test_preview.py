"""What training shows the network, before it trains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cxr import schema
from cxr.detector.data.preview import augmented_views, box_shapes
from cxr.detector.recipe import NO_AUGMENTATION, Network, Recipe
from cxr.schema import BOX_COLUMNS


class OneImage:
    """A store with one image of 200 x 100 px, kept at half that size."""

    def __contains__(self, image_id: object) -> bool:
        return image_id == "a"

    def __getitem__(self, image_id: str) -> np.ndarray:
        return np.arange(100 * 50, dtype=np.uint32).reshape(100, 50).astype(np.uint8)

    def original_size(self, image_id: str) -> tuple[int, int]:
        return (200, 100)


MIRRORED = Recipe(Network(detector_image_size=100), augmentation=replace(NO_AUGMENTATION, hflip=1.0))
TARGETS = pd.DataFrame([("a", 3, 20.0, 40.0, 60.0, 120.0)], columns=["image_id", "class_id", *BOX_COLUMNS])


def test_the_first_view_is_the_image_itself() -> None:
    views = augmented_views(OneImage(), TARGETS, "a", recipe=MIRRORED, views=3)
    pixels, boxes = views[0]
    assert (pixels == OneImage()["a"]).all()
    assert boxes.values.tolist() == [[3.0, 10.0, 20.0, 30.0, 60.0]]
    assert len(views) == 3


def test_a_mirrored_view_mirrors_its_boxes() -> None:
    views = augmented_views(OneImage(), TARGETS, "a", recipe=MIRRORED, views=2)
    pixels, boxes = views[1]
    assert (pixels == OneImage()["a"][:, ::-1]).all()
    assert boxes[BOX_COLUMNS].values.tolist() == [[20.0, 20.0, 40.0, 60.0]]


def test_a_finding_bound_to_a_side_is_shown_as_it_is_trained() -> None:
    bound = replace(MIRRORED.augmentation, flip_bound=(schema.VINBIGDATA.name(3),))
    recipe = replace(MIRRORED, augmentation=bound)
    (_, before), (_, after) = augmented_views(OneImage(), TARGETS, "a", recipe=recipe, views=2)
    assert before.equals(after)


def test_box_shapes_in_network_pixels() -> None:
    shapes = box_shapes(OneImage(), TARGETS, ["a"], image_size=100)
    assert shapes["ratio"].tolist() == pytest.approx([2.0])
    assert shapes["side_px"].tolist() == pytest.approx([np.sqrt(20 * 40)])


def test_box_shapes_of_images_without_boxes() -> None:
    normal = pd.DataFrame([("a", schema.VINBIGDATA.normal_id, *[np.nan] * 4)], columns=TARGETS.columns)
    assert box_shapes(OneImage(), normal, ["a"], image_size=100).empty
