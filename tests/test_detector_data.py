"""Targets, coordinates, batches and augmentation of the detector."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from cxr import schema
from cxr.detector.data import augment
from cxr.detector.data.batches import RadiographDataset, collate, like_shape_batches, padded
from cxr.detector.data.held import HeldImages
from cxr.detector.data.pixels import (
    class_ids_of,
    labels_of,
    network_image,
    network_size,
    to_network,
    to_original,
)
from cxr.detector.data.sampling import EpochBatches, image_frequencies
from cxr.detector.data.targets import Target, build_targets
from cxr.detector.recipe import NO_AUGMENTATION, Augmentation, Sampling
from cxr.errors import AnnotationError, DataError
from cxr.schema import ClassTable

LUNGS = ClassTable(("Right Lung", "Left Lung", "No finding"))


def held(*sizes: tuple[int, int], original: tuple[int, int] | None = None) -> HeldImages:
    images = HeldImages()
    for number, size in enumerate(sizes):
        pixels = np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)
        images.add(f"i{number}", pixels, original or size)
    return images


def boxes_table(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=[schema.IMAGE_ID, schema.CLASS_ID, *schema.BOX_COLUMNS])


def target(boxes: list[list[float]], labels: list[int]) -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "box_weights": torch.ones(len(labels)),
    }


# -- labels and pixels -------------------------------------------------------------------------------


def test_labels_and_class_ids_are_inverse_and_leave_zero_for_the_background():
    ids = np.arange(14)
    assert labels_of(ids).min() == 1
    assert (class_ids_of(labels_of(ids)) == ids).all()


@pytest.mark.parametrize(
    ("size", "image_size", "expected"),
    [((100, 50), 64, (64, 32)), ((3072, 2540), 1024, (1024, 847)), ((1, 4000), 64, (1, 64))],
)
def test_network_size_keeps_the_aspect(size, image_size, expected):
    assert network_size(size, image_size) == expected


def test_boxes_go_to_network_pixels_and_back():
    boxes = np.array([[0, 0, 2540, 3072], [10.5, 20.25, 400, 900]], dtype=np.float64)
    network = to_network(boxes, (3072, 2540), (1024, 847))
    assert network[0].tolist() == [0, 0, 847, 1024]
    np.testing.assert_allclose(to_original(network, (3072, 2540), (1024, 847)), boxes, rtol=1e-6)


def test_boxes_from_outside_are_clipped_to_the_original_image():
    back = to_original(np.array([[-5, -5, 70, 40]]), (100, 200), (32, 64))
    assert back.tolist() == [[0, 0, 200, 100]]


def test_network_image_shrinks_by_area():
    pixels = np.zeros((4, 4), np.uint8)
    pixels[:2, :2] = [[100, 200], [100, 200]]
    assert network_image(pixels, 2).tolist() == [[150, 0], [0, 0]]


def test_a_dark_square_is_where_the_network_box_says():
    pixels = np.full((600, 400), 200, np.uint8)
    pixels[150:300, 80:240] = 0
    images = HeldImages()
    images.add("a", pixels, (1200, 800))  # the store holds half the original
    targets = build_targets(
        boxes_table(("a", 0, 160, 300, 480, 600)), ["a"], images, image_size=96, classes=LUNGS
    )
    dataset = RadiographDataset(images, ["a"], targets, image_size=96)
    image = dataset[0]["image"]
    x0, y0, x1, y1 = targets["a"].boxes[0]
    rows, columns = np.nonzero(image < 100)
    assert image.shape == (96, 64)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(found, [x0, y0, x1, y1], atol=0.5)


# -- targets -----------------------------------------------------------------------------------------


def test_targets_have_labels_from_one_and_normal_images_have_no_box():
    images = held((64, 64), (64, 64))
    table = boxes_table(("i0", 1, 0, 0, 32, 32), ("i1", 2, np.nan, np.nan, np.nan, np.nan))
    targets = build_targets(table, ["i0", "i1"], images, image_size=32, classes=LUNGS)
    assert targets["i0"].labels.tolist() == [2]
    assert targets["i0"].boxes.tolist() == [[0, 0, 16, 16]]
    assert targets["i1"].boxes.shape == (0, 4)


def test_unusable_boxes_are_dropped_with_a_count(caplog):
    images = held((64, 64))
    table = boxes_table(
        ("i0", 0, 5, 5, 5, 20), ("i0", 0, np.nan, 1, 2, 3), ("i0", 1, 70, 0, 90, 9), ("i0", 1, 60, 0, 90, 9)
    )
    with caplog.at_level(logging.WARNING, logger="cxr"):
        targets = build_targets(table, ["i0"], images, image_size=64, classes=LUNGS)
    assert targets["i0"].boxes.tolist() == [[60, 0, 64, 9]]
    assert "left out 3 of 4 boxes" in caplog.text


def test_agreement_weights_boxes():
    table = boxes_table(("i0", 0, 0, 0, 9, 9)).assign(agreement=1 / 3)
    targets = build_targets(table, ["i0"], held((64, 64)), image_size=64, classes=LUNGS, by_agreement=True)
    np.testing.assert_allclose(targets["i0"].box_weights, [1 / 3])


def test_bad_tables_are_named():
    images = held((64, 64))
    with pytest.raises(AnnotationError, match=r"missing \['agreement'\]"):
        build_targets(boxes_table(), ["i0"], images, image_size=64, by_agreement=True)
    with pytest.raises(AnnotationError, match=r"'i0' has class_id 7, expected 0\.\.2"):
        build_targets(boxes_table(("i0", 7, 0, 0, 1, 1)), ["i0"], images, image_size=64, classes=LUNGS)
    with pytest.raises(DataError, match="first 'nowhere'"):
        build_targets(boxes_table(), ["nowhere"], images, image_size=64)


# -- batches -----------------------------------------------------------------------------------------


def test_collate_pads_at_the_right_and_the_bottom():
    images = held((40, 64), (64, 30))
    dataset = RadiographDataset(images, images.ids, None, image_size=64)
    batch = collate([dataset[0], dataset[1]])
    assert batch["images"].shape == (2, 1, 64, 64)
    assert batch["sizes"] == [(40, 64), (64, 30)]
    assert batch["images"][0, 0, 40:].sum() == 0
    np.testing.assert_array_equal(batch["images"][1, 0, :64, :30].numpy(), images["i1"])


def test_like_shape_batches_hold_each_image_once_and_one_padded_shape():
    sizes = np.array([[64, 40], [64, 64], [64, 50], [64, 33], [33, 64]])
    batches = like_shape_batches(sizes, 2)
    assert sorted(i for batch in batches for i in batch) == [0, 1, 2, 3, 4]
    for batch in batches:
        assert len({(padded(r), padded(c)) for r, c in sizes[batch].tolist()}) == 1


def epoch_batches(*, images: int = 32, **processes) -> EpochBatches:
    sizes = np.array([[64, 64], [64, 40]] * 10)
    quarter = Sampling(images, negative_fraction=0.25)
    return EpochBatches(sizes, np.arange(20) >= 12, np.ones(20), quarter, seed=1, **processes)


def test_an_epoch_depends_on_seed_and_epoch_only():
    first, second = epoch_batches(), epoch_batches()
    first.set_epoch(3)
    list(first)
    second.set_epoch(3)
    assert list(first) == list(second)
    second.set_epoch(4)
    assert list(first) != list(second)


def test_an_epoch_has_the_asked_share_of_negatives_and_shows_positives_evenly():
    indices = np.array([key[2] for batch in epoch_batches().draw(0) for key in batch])
    assert len(indices) == 32
    assert (indices >= 12).sum() == 8
    counts = np.bincount(indices[indices < 12], minlength=12)
    assert set(counts) == {2}


def test_positions_are_unique_and_batches_full():
    keys = [key for batch in epoch_batches(images=30).draw(5) for key in batch]
    assert len(keys) == 32
    assert sorted(key[1] for key in keys) == list(range(32))
    assert {key[0] for key in keys} == {5}


def test_processes_share_an_epoch_without_overlap():
    whole = epoch_batches(world=2).draw(2)
    parts = [epoch_batches(world=2, rank=rank) for rank in (0, 1)]
    for part in parts:
        part.set_epoch(2)
    assert [len(list(part)) for part in parts] == [len(part) for part in parts] == [4, 4]
    assert sorted(map(str, [b for part in parts for b in part])) == sorted(map(str, whole))


@pytest.mark.parametrize("negative", [np.zeros(5, bool), np.ones(5, bool)])
def test_one_sided_data_fill_the_epoch(negative):
    half = Sampling(images_per_epoch=0, negative_fraction=0.5)
    batches = EpochBatches(np.full((5, 2), 64), negative, np.ones(5), half, seed=0)
    assert sum(len(batch) for batch in batches) == 8


def test_class_balance_shows_rare_findings_more_often():
    def of(*labels: int) -> Target:
        n = len(labels)
        return Target(np.zeros((n, 4), np.float32), np.array(labels, np.int64), np.ones(n, np.float32))

    targets = {"a": of(1), "b": of(1), "c": of(1), "d": of(1, 2), "e": of()}
    ids = list(targets)
    assert image_frequencies(ids, targets, class_balance=0).tolist() == [1] * 5
    # Shares are 1 and 1/4, their median 5/8: class 2 counts sqrt(2.5).
    expected = [1, 1, 1, 2.5**0.5, 1]
    np.testing.assert_allclose(image_frequencies(ids, targets, class_balance=0.5), expected)


# -- augmentation ------------------------------------------------------------------------------------


PLAIN = augment.Mirror()


def square_image(x0: int, y0: int, x1: int, y1: int) -> torch.Tensor:
    image = torch.full((1, 1, 96, 96), 40, dtype=torch.uint8)
    image[..., y0:y1, x0:x1] = 250
    return image


def test_no_augmentation_changes_nothing():
    image = square_image(20, 30, 50, 60)
    given = [target([[20, 30, 50, 60]], [1])]
    seen, sizes, targets = augment.augment_batch(
        image, [(96, 96)], given, [(0, 0)], augmentation=NO_AUGMENTATION, mirror=PLAIN, seed=0
    )
    torch.testing.assert_close(seen, image.float() / 255)
    assert sizes == [(96, 96)]
    assert torch.equal(targets[0]["boxes"], given[0]["boxes"])


@pytest.mark.parametrize("position", range(12))
def test_boxes_move_with_the_pixels(position):
    strong = replace(NO_AUGMENTATION, hflip=0.5, scale=(0.7, 1.6), shift=0.2)
    image = square_image(20, 30, 50, 60)
    before = image.clone()
    factor = augment.draw_factor((1.0, 0.67), seed=0, key=(0, position))
    seen, _, targets = augment.augment_batch(
        image, [(96, 96)], [target([[20, 30, 50, 60]], [1])], [(0, position)],
        augmentation=strong, mirror=PLAIN, seed=0, factor=factor,
    )  # fmt: skip
    rows, columns = np.nonzero(seen[0, 0].numpy() > 0.6)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(targets[0]["boxes"][0].numpy(), found, atol=1.1)
    assert torch.equal(image, before)


@pytest.mark.parametrize("position", range(8))
def test_boxes_stay_whole(position):
    strong = replace(NO_AUGMENTATION, scale=(1.0, 2.0), shift=0.5)
    given = target([[2, 5, 40, 90], [60, 70, 80, 94]], [1, 2])
    sides = given["boxes"][:, 2:] - given["boxes"][:, :2]
    _, _, targets = augment.augment_batch(
        square_image(0, 0, 9, 9), [(96, 96)], [given], [(1, position)],
        augmentation=strong, mirror=PLAIN, seed=0,
    )  # fmt: skip
    after = targets[0]["boxes"][:, 2:] - targets[0]["boxes"][:, :2]
    ratio = after / sides
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio), atol=0.06, rtol=0)


def test_a_mirror_flip_swaps_right_and_left():
    swap = augment.mirror_labels(LUNGS)
    assert swap == (0, 2, 1)
    assert augment.mirror_labels(schema.VINBIGDATA) == tuple(range(15))
    _, _, targets = augment.augment_batch(
        square_image(0, 0, 9, 9),
        [(96, 90)],
        [target([[10, 0, 30, 9]], [1])],
        [(0, 0)],
        augmentation=replace(NO_AUGMENTATION, hflip=1.0),
        mirror=augment.mirror_of(LUNGS),
        seed=0,
    )
    assert targets[0]["boxes"].tolist() == [[60, 0, 80, 9]]
    assert targets[0]["labels"].tolist() == [2]


def test_images_with_a_finding_bound_to_a_side_are_not_mirrored():
    given = [target([[10, 0, 30, 9]], [4]), target([[10, 0, 30, 9]], [3])]
    _, _, targets = augment.augment_batch(
        square_image(0, 0, 9, 9).repeat(2, 1, 1, 1),
        [(96, 96)] * 2,
        given,
        [(0, 0), (0, 1)],
        augmentation=replace(NO_AUGMENTATION, hflip=1.0),
        mirror=augment.mirror_of(schema.VINBIGDATA, [schema.VINBIGDATA.name(3)]),
        seed=0,
    )
    assert targets[0]["boxes"].tolist() == [[10, 0, 30, 9]]
    assert targets[1]["boxes"].tolist() == [[66, 0, 86, 9]]


def test_augmentation_depends_on_the_key_and_not_on_the_global_generator():
    how = {"augmentation": Augmentation(), "mirror": PLAIN, "seed": 3}
    arguments = (square_image(20, 30, 50, 60), [(96, 96)], [target([[20, 30, 50, 60]], [1])])
    one, _, _ = augment.augment_batch(*arguments, [(2, 5)], **how)
    torch.rand(7)
    two, _, _ = augment.augment_batch(*arguments, [(2, 5)], **how)
    other, _, _ = augment.augment_batch(*arguments, [(2, 6)], **how)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_an_image_without_boxes_is_augmented_too():
    turned = Augmentation(hflip=1.0, rotate_deg=5.0)
    seen, _, targets = augment.augment_batch(
        square_image(20, 30, 50, 60), [(96, 96)], [target([], [])], [(0, 0)],
        augmentation=turned, mirror=PLAIN, seed=0,
    )  # fmt: skip
    assert seen.shape == (1, 1, 96, 96)
    assert targets[0]["boxes"].shape == (0, 4)
