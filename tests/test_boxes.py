"""Boxes: by hand, by property, beside plain loops and beside ensemble-boxes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import ensemble_boxes
import numpy as np
import pytest
from ensemble_boxes import ensemble_boxes_nms

from cxr import boxes
from cxr.boxes.compiled import compiled
from cxr.boxes.grouping import dense_keys, group_by_score
from cxr.errors import BoxError, ParameterError


def random_boxes(rng: np.random.Generator, n: int, extent: float = 1.0) -> np.ndarray:
    low = rng.uniform(0, 0.7, (n, 2))
    return np.hstack([low, low + rng.uniform(0.05, 0.3, (n, 2))]) * extent


# -- geometry ----------------------------------------------------------------------------------------


def test_validate_returns_float32_of_shape_n_by_4():
    checked = boxes.validate([[1, 2, 3, 4]], size=(4, 3))
    assert checked.dtype == np.float32 and checked.shape == (1, 4)
    assert boxes.validate([]).shape == (0, 4)
    assert boxes.validate(np.empty((0, 4))).shape == (0, 4)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([5, 0, 5, 1], "box 1: expected x_min < x_max"),
        ([0, 5, 1, 4], "box 1: expected x_min < x_max and y_min < y_max"),
        ([0, 0, np.nan, 1], "box 1: expected four finite numbers"),
        ([0, 0, np.inf, 1], "box 1: expected four finite numbers"),
        ([-1, 0, 5, 1], "box 1: expected a box inside its image of 10 rows and 20 columns"),
        ([0, 0, 5, 11], "inside its image of 10 rows and 20 columns"),
        ([0, 0, 21, 5], "inside its image of 10 rows and 20 columns"),
    ],
)
def test_validate_names_the_first_bad_box(box, message):
    with pytest.raises(BoxError, match=message):
        boxes.validate([[0, 0, 20, 10], box], size=(10, 20))


@pytest.mark.parametrize("shape", [(3,), (2, 5), (1, 2, 4)])
def test_a_shape_other_than_n_by_4_is_refused(shape):
    with pytest.raises(BoxError, match=r"expected boxes of shape \(N, 4\)"):
        boxes.iou(np.zeros(shape), np.zeros((1, 4)))


def test_iou_by_hand():
    a = [[0, 0, 10, 10], [20, 20, 30, 40]]
    b = [[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [20, 20, 30, 30], [25, 30, 35, 50]]
    # 50 shared of 150; only an edge in common is nothing; 100 of 200; 50 of 200 + 200 - 50.
    expected = [[1, 50 / 150, 0, 0, 0], [0, 0, 0, 0.5, 50 / 350]]
    np.testing.assert_allclose(boxes.iou(a, b), expected)


def test_iou_has_the_properties_of_a_ratio():
    rng = np.random.default_rng(1)
    a, b = random_boxes(rng, 30), random_boxes(rng, 40)
    table = boxes.iou(a, b)
    assert ((table >= 0) & (table <= 1)).all()
    np.testing.assert_allclose(table, boxes.iou(b, a).T)
    np.testing.assert_allclose(table, boxes.iou(a * 3000, b * 3000))
    np.testing.assert_allclose(np.diag(boxes.iou(a, a)), 1)


def test_iou_of_nothing_and_of_boxes_without_area():
    assert boxes.iou([], [[0, 0, 1, 1]]).shape == (0, 1)
    assert boxes.iou([[0, 0, 1, 1]], []).shape == (1, 0)
    assert boxes.iou([[3, 3, 3, 3]], [[3, 3, 3, 3]])[0, 0] == 0
    assert boxes.iou([[5, 5, 1, 1]], [[0, 0, 9, 9]])[0, 0] == 0


def test_scale_goes_there_and_back():
    rng = np.random.default_rng(2)
    original = random_boxes(rng, 20, 2000).astype(np.float32)
    small = boxes.scale(original, (3000, 2400), (1024, 819))
    np.testing.assert_allclose(boxes.scale(small, (1024, 819), (3000, 2400)), original, rtol=1e-5)
    np.testing.assert_allclose(boxes.scale([[10, 20, 30, 40]], (100, 200), (50, 400)), [[20, 10, 60, 20]])
    with pytest.raises(BoxError, match="sizes above zero"):
        boxes.scale(original, (0, 10), (1, 1))


def test_clip_cuts_and_leaves_its_input_alone():
    original = np.array([[-5, 3, 15, 30], [30, 30, 40, 40]], dtype=np.float32)
    before = original.copy()
    clipped = boxes.clip(original, (20, 10))
    np.testing.assert_array_equal(clipped, [[0, 3, 10, 20], [10, 20, 10, 20]])
    np.testing.assert_array_equal(original, before)
    np.testing.assert_array_equal(boxes.areas(clipped), [170, 0])
    assert boxes.clip([], (5, 5)).shape == (0, 4)


# -- suppression -------------------------------------------------------------------------------------


def nms_by_loop(b, scores, threshold):
    kept = []
    for i in sorted(range(len(b)), key=lambda i: (-scores[i], i)):
        if all(boxes.iou(b[i : i + 1], b[k : k + 1])[0, 0] <= threshold for k in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("n", [0, 1, 2, 50, 200])
def test_nms_equals_the_plain_loop(n):
    rng = np.random.default_rng(n)
    b, scores = random_boxes(rng, n), rng.choice(np.linspace(0, 1, 20), n)
    np.testing.assert_array_equal(boxes.nms(b, scores, 0.3), nms_by_loop(b, scores, 0.3))


def test_nms_keeps_labels_and_images_apart():
    b = np.repeat([[0.0, 0, 10, 10]], 4, axis=0)
    scores = [0.1, 0.4, 0.3, 0.2]
    assert boxes.nms(b, scores, 0.5).tolist() == [1]
    assert boxes.nms(b, scores, 0.5, labels=[0, 0, 1, 1]).tolist() == [1, 2]
    assert boxes.nms(b, scores, 0.5, images=[7, 7, 3, 3]).tolist() == [2, 1]
    assert boxes.nms(b, scores, 0.5, labels=[0, 1, 0, 1], images=[5, 5, 5, 5]).tolist() == [1, 2]


def test_nms_suppresses_above_the_threshold_only():
    pair = [[0, 0, 10, 10], [0, 0, 10, 5]]
    assert boxes.nms(pair, [1, 0.5], 0.5).tolist() == [0, 1]
    assert boxes.nms(pair, [1, 0.5], 0.49).tolist() == [0]
    assert boxes.nms(pair, [0.5, 0.5], 0.4).tolist() == [0]


def test_nms_equals_ensemble_boxes(monkeypatch):
    # Their loop is compiled anew in every process, which takes longer than all other tests here.
    loop = ensemble_boxes_nms.nms_float_fast
    monkeypatch.setattr(ensemble_boxes_nms, "nms_float_fast", getattr(loop, "py_func", loop))
    rng = np.random.default_rng(4)
    b, scores, labels = random_boxes(rng, 120), rng.uniform(0, 1, 120), rng.integers(0, 3, 120)
    theirs = ensemble_boxes.nms([b], [scores], [labels], iou_thr=0.4)
    kept = boxes.nms(b, scores, 0.4, labels=labels)
    order = np.argsort(-theirs[1])
    np.testing.assert_allclose(b[kept], theirs[0][order])
    np.testing.assert_array_equal(labels[kept], theirs[2][order])


@pytest.mark.parametrize(("method", "theirs"), [("linear", 1), ("gaussian", 2)])
def test_soft_nms_equals_ensemble_boxes(method, theirs):
    """The same boxes fall below the threshold, about a third of them, and the rest get the same scores."""
    rng = np.random.default_rng(5)
    low = rng.uniform(0, 0.4, (90, 2))  # crowded, so that most boxes are lowered by some other
    b = np.hstack([low, low + rng.uniform(0.15, 0.3, (90, 2))])
    scores, labels = rng.uniform(0, 1, 90), rng.integers(0, 2, 90)
    limit = {"linear": 0.03, "gaussian": 0.03}[method]
    kept, lowered = boxes.soft_nms(b, scores, 0.3, method=method, score_threshold=limit, labels=labels)
    assert 50 <= len(kept) <= 70
    theirs_by_box = {}
    for label in (0, 1):
        # Their public function returns the old scores; the loop behind it lowers them in place.
        of_label = np.flatnonzero(labels == label)
        new = scores[of_label].copy()
        index = ensemble_boxes_nms.cpu_soft_nms_float(
            b[of_label], new, Nt=0.3, sigma=0.5, thresh=limit, method=theirs
        )
        theirs_by_box |= dict(zip(of_label[index].tolist(), new[new > limit], strict=True))
    assert set(theirs_by_box) == set(kept.tolist())
    np.testing.assert_allclose(lowered, [theirs_by_box[k] for k in kept.tolist()], rtol=1e-12)
    assert (np.diff(lowered) <= 0).all() and (lowered < scores[kept]).sum() > 20


def test_soft_nms_by_hand():
    b = [[0, 0, 10, 10], [0, 0, 10, 5], [20, 20, 30, 30]]
    kept, lowered = boxes.soft_nms(b, [0.9, 0.8, 0.5], method="linear", iou_threshold=0.4)
    assert kept.tolist() == [0, 2, 1]
    np.testing.assert_allclose(lowered, [0.9, 0.5, 0.8 * 0.5])
    kept, lowered = boxes.soft_nms(b, [0.9, 0.8, 0.5])
    assert kept.tolist() == [0, 2, 1]
    np.testing.assert_allclose(lowered, [0.9, 0.5, 0.8 * np.exp(-0.25 / 0.5)])
    assert len(boxes.soft_nms([], [])[0]) == 0
    with pytest.raises(ParameterError, match="'gaussian' or 'linear', got 'hard'"):
        boxes.soft_nms(b, [1, 1, 1], method="hard")


def test_arrays_that_do_not_fit_are_refused():
    b = [[0, 0, 1, 1], [0, 0, 2, 2]]
    with pytest.raises(BoxError, match=r"scores: expected shape \(2,\)"):
        boxes.nms(b, [1], 0.5)
    with pytest.raises(BoxError, match="labels: expected integers"):
        boxes.nms(b, [1, 1], 0.5, labels=[0.5, 1.0])
    with pytest.raises(BoxError, match="score 1: expected a number, got NaN"):
        boxes.nms(b, [1, np.nan], 0.5)
    with pytest.raises(BoxError, match="box 1: expected four finite numbers"):
        boxes.nms([[0, 0, 1, 1], [0, 0, np.nan, 2]], [1, 1], 0.5)


# -- fusion ------------------------------------------------------------------------------------------


def fuse(b, scores, labels, models, **options):
    options = {"n_models": None if "weights" in options else 2, "iou_threshold": 0.4, **options}
    return boxes.weighted_boxes_fusion(b, scores, labels, models, **options)


def test_two_boxes_fuse_to_their_weighted_mean():
    fused = fuse([[0, 0, 10, 10], [2, 0, 12, 10]], [0.9, 0.3], [5, 5], [0, 1])
    np.testing.assert_allclose(fused.boxes, [[0.5, 0, 10.5, 10]])
    np.testing.assert_allclose(fused.scores, [0.6])
    assert fused.labels.tolist() == [5] and fused.n_boxes.tolist() == [2] and fused.n_models.tolist() == [2]


def test_weights_and_scores_by_hand():
    """Weights 1 and 3: confidences 0.9 and 0.9 in the pair; 3 * 0.2 alone."""
    b = [[0, 0, 10, 10], [2, 0, 12, 10], [50, 50, 60, 60]]
    fused = fuse(b, [0.9, 0.3, 0.2], [0, 0, 0], [0, 1, 1], weights=[1, 3])
    np.testing.assert_allclose(fused.scores, [1.8 / 2 * 2 / 4, 0.6 / 4])
    np.testing.assert_allclose(fused.boxes[0], [1, 0, 11, 10])


def test_a_model_without_boxes_lowers_the_score():
    one = fuse([[0, 0, 10, 10]], [0.8], [0], [0], n_models=1)
    of_four = fuse([[0, 0, 10, 10]], [0.8], [0], [0], n_models=4)
    assert one.scores[0] == pytest.approx(0.8) and of_four.scores[0] == pytest.approx(0.2)
    with pytest.raises(ParameterError, match="expected `weights` or `n_models`"):
        boxes.weighted_boxes_fusion([[0, 0, 1, 1]], [1], [0], [0])


def test_two_boxes_of_one_model_count_as_one_model():
    b = [[0, 0, 10, 10], [1, 0, 11, 10], [0, 1, 10, 11]]
    fused = fuse(b, [0.9, 0.9, 0.9], [0, 0, 0], [0, 0, 1], n_models=3)
    assert fused.n_boxes.tolist() == [3] and fused.n_models.tolist() == [2]
    assert fuse(b, [0.9] * 3, [0] * 3, [0] * 3, n_models=2).scores[0] == pytest.approx(0.9)


def test_joining_takes_an_iou_strictly_above_the_threshold():
    pair = [[0, 0, 10, 10], [0, 0, 10, 5]]
    assert len(fuse(pair, [1, 1], [0, 0], [0, 1], iou_threshold=0.5).boxes) == 2
    assert len(fuse(pair, [1, 1], [0, 0], [0, 1], iou_threshold=0.49).boxes) == 1


def test_labels_and_images_stay_apart():
    b = np.repeat([[0.0, 0, 10, 10]], 4, axis=0)
    assert len(fuse(b, [1] * 4, [0, 1, 2, 2], [0, 1, 0, 1]).boxes) == 3
    fused = fuse(b, [1] * 4, [0] * 4, [0, 1, 0, 1], images=[9, 9, 4, 4])
    assert fused.images.tolist() == [4, 9] and fused.n_models.tolist() == [2, 2]


def test_boxes_below_the_score_are_left_out_and_zero_scores_survive():
    b = [[0, 0, 10, 10], [0, 0, 10, 9]]
    assert len(fuse(b, [0.5, 0.1], [0, 0], [0, 1], skip_below=0.2).boxes) == 1
    fused = fuse(b, [0.0, 0.0], [0, 0], [0, 1])
    assert np.isfinite(fused.boxes).all() and fused.scores.tolist() == [0.0]


def test_fusing_nothing():
    fused = fuse([], [], [], [])
    assert fused.boxes.shape == (0, 4) and all(len(part) == 0 for part in fused)
    assert len(fuse([[0, 0, 1, 1]], [0.1], [0], [0], skip_below=0.5).boxes) == 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"b": [[0, 0, 0, 1]]}, BoxError, "box 0: expected finite edges and a positive area"),
        ({"b": [[0, 0, np.nan, 1]]}, BoxError, "box 0: expected finite edges"),
        ({"scores": [-0.1]}, BoxError, "score 0: expected a number of at least 0, got -0.1"),
        ({"scores": [np.nan]}, BoxError, "score 0: expected a number of at least 0"),
        ({"models": [2]}, BoxError, "model_ids: expected 0..1 for 2 models, got 2"),
        ({"labels": [0.5]}, BoxError, "labels: expected integers"),
        ({"labels": [0, 1]}, BoxError, r"labels: expected shape \(1,\)"),
        ({"weights": [1, 0]}, ParameterError, "one number above zero per model"),
        ({"weights": [1, 1, 1], "n_models": 2}, ParameterError, "expected 2, one per model, got 3"),
    ],
)
def test_impossible_input_is_named(change, error, message):
    given = {"b": [[0, 0, 1, 1]], "scores": [1.0], "labels": [0], "models": [0], **change}
    with pytest.raises(error, match=message):
        fuse(given.pop("b"), given.pop("scores"), given.pop("labels"), given.pop("models"), **given)


def random_models(rng, n_models, most):
    lists = []
    for _ in range(n_models):
        n = int(rng.integers(0, most))
        lists.append((random_boxes(rng, n), rng.uniform(0.01, 1, n), rng.integers(0, 3, n)))
    return [list(part) for part in zip(*lists, strict=True)]


def test_fusion_equals_ensemble_boxes():
    """Same clusters and scores; theirs hold means in float32, so 1e-6 of the unit square."""
    rng = np.random.default_rng(3)
    for _ in range(60):
        n_models = int(rng.integers(1, 6))
        weights = rng.uniform(0.5, 2, n_models)
        b, scores, labels = random_models(rng, n_models, 15)
        theirs = ensemble_boxes.weighted_boxes_fusion(
            b, scores, labels, weights=weights, iou_thr=0.35, skip_box_thr=0.05
        )
        models = np.repeat(np.arange(n_models), [len(part) for part in b])
        ours = fuse(
            np.concatenate(b), np.concatenate(scores), np.concatenate(labels), models, weights=weights,
            iou_threshold=0.35, skip_below=0.05,
        )  # fmt: skip
        np.testing.assert_allclose(ours.scores, theirs[1], atol=1e-6)
        np.testing.assert_allclose(ours.boxes, theirs[0], atol=1e-6)
        np.testing.assert_array_equal(ours.labels, theirs[2])


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """The fusion bench, whose problems have the shape of real ones."""
    path = Path(__file__).parent / "bench" / "bench_fusion.py"
    spec = importlib.util.spec_from_file_location("bench_fusion", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["readers", "models", "models, some empty"])
def test_fusion_of_problems_like_real_ones_equals_ensemble_boxes(bench, kind):
    """Three readers of a few boxes an image; five models of a hundred, all of them or some silent."""
    rng = np.random.default_rng(14)
    task = bench.readers_task(300, rng) if kind == "readers" else bench.models_task(8, rng)
    if "empty" in kind:
        silent = (task.models == 4) | ((task.models == 1) & (task.images % 2 == 0)) | (task.images == 3)
        task = task._replace(**{name: getattr(task, name)[~silent] for name in task._fields[:5]})
    fused = bench.by_ours(task)
    ends = np.searchsorted(fused.images, np.arange(int(task.images.max()) + 2))
    for image, parts in enumerate(bench.as_lists(task)):
        if sum(map(len, parts[1])) == 0:
            assert ends[image] == ends[image + 1]
            continue
        theirs = ensemble_boxes.weighted_boxes_fusion(*parts, iou_thr=task.iou_threshold)
        mine = [part[ends[image] : ends[image + 1]] for part in fused[:3]]
        np.testing.assert_allclose(*(rows_in_order(*part) for part in (mine, theirs)), atol=1e-6)
    assert len(fused.scores) < 0.8 * len(task.scores) and fused.n_models.max() >= 3


def rows_in_order(corners: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Boxes with labels and scores, whole rows sorted: two results in any order become comparable."""
    rows = np.column_stack([labels, corners, scores])
    return rows[np.lexsort(rows.round(4).T[::-1])]


def test_where_ensemble_boxes_differs():
    """Three places, each on purpose: equal scores, boxes without area, boxes outside the unit square."""
    chain = [[0.0, 0, 0.4, 0.1], [0.1, 0, 0.5, 0.1], [0.22, 0, 0.62, 0.1]]
    same = ([chain], [[1.0] * 3], [[0] * 3])
    theirs = ensemble_boxes.weighted_boxes_fusion(*same, iou_thr=0.45)[0]
    ours = fuse(chain, [1.0] * 3, [0] * 3, [0] * 3, n_models=1, iou_threshold=0.45)
    # Ours joins the first two; theirs starts at the other end and joins the last two.
    np.testing.assert_allclose(sorted(ours.boxes[:, 0]), [0.05, 0.22], atol=1e-6)
    np.testing.assert_allclose(sorted(theirs[:, 0]), [0.0, 0.16], atol=1e-6)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flat = ensemble_boxes.weighted_boxes_fusion([[[0.1, 0.1, 0.1, 0.5]]], [[1.0]], [[0]])
        pixels = ensemble_boxes.weighted_boxes_fusion([[[10, 10, 20, 20]]], [[1.0]], [[0]])
    assert len(flat[0]) == 0 and len(pixels[0]) == 0  # dropped, and cut to nothing
    assert len(fuse([[10, 10, 20, 20]], [1.0], [0], [0]).boxes) == 1


def test_many_images_in_one_call_equal_one_call_each():
    rng = np.random.default_rng(8)
    b, scores = random_boxes(rng, 400, 1000), rng.uniform(0, 1, 400)
    labels, models, images = (rng.integers(0, high, 400) for high in (4, 3, 25))
    together = fuse(b, scores, labels, models, n_models=3, images=images)
    for image in np.unique(images):
        of = images == image
        alone = fuse(b[of], scores[of], labels[of], models[of], n_models=3)
        part = together.images == image
        np.testing.assert_array_equal(together.boxes[part], alone.boxes)
        np.testing.assert_array_equal(together.scores[part], alone.scores)
        np.testing.assert_array_equal(together.n_models[part], alone.n_models)


def test_the_order_of_boxes_and_the_size_of_the_image_change_nothing():
    rng = np.random.default_rng(10)
    b, scores = random_boxes(rng, 150), rng.uniform(0, 1, 150)
    labels, models = rng.integers(0, 3, 150), rng.integers(0, 2, 150)
    expected = fuse(b, scores, labels, models)
    order = rng.permutation(150)
    shuffled = fuse(b[order], scores[order], labels[order], models[order])
    np.testing.assert_allclose(shuffled.boxes, expected.boxes, rtol=1e-6)
    np.testing.assert_allclose(shuffled.scores, expected.scores)
    larger = fuse(b * 2048, scores, labels, models)
    np.testing.assert_array_equal(larger.boxes, expected.boxes * 2048)
    assert (expected.n_models <= np.minimum(expected.n_boxes, 2)).all() and expected.n_boxes.sum() == 150


def test_inputs_are_left_alone():
    rng = np.random.default_rng(9)
    given = [random_boxes(rng, 20), rng.uniform(0, 1, 20), rng.integers(0, 2, 20), rng.integers(0, 2, 20)]
    before = [values.copy() for values in given]
    fuse(*given)
    boxes.nms(given[0], given[1], 0.3)
    boxes.soft_nms(given[0], given[1])
    for values, old in zip(given, before, strict=True):
        np.testing.assert_array_equal(values, old)


# -- several models as tables ------------------------------------------------------------------------


def test_counting_models_equals_the_plain_loop():
    rng = np.random.default_rng(12)
    b = random_boxes(rng, 120)
    labels, models, images = (rng.integers(0, high, 120) for high in (2, 4, 3))
    counts = boxes.count_models(b, labels, models, 0.3, images=images)
    overlap = boxes.iou(b, b)
    for k in range(120):
        near = (overlap[k] > 0.3) & (labels == labels[k]) & (images == images[k])
        assert counts[k] == len({models[k], *models[near]})
    assert boxes.count_models([], [], [], 0.5).shape == (0,)
    with pytest.raises(ParameterError, match="expected numbers from 0, got -1"):
        boxes.count_models([[0, 0, 1, 1]], [0], [-1], 0.5)


MODELS = {
    # Image 0 holds two findings at one place and a stray one; the third model found nothing anywhere.
    "boxes": [[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]],
    "scores": [0.9, 0.8, 0.7, 0.6, 0.1],
    "labels": [0, 0, 1, 0, 0],
    "model_ids": [0, 0, 0, 1, 1],
    "images": [1, 0, 0, 0, 0],
}


@pytest.mark.parametrize(
    ("method", "scores", "n_models"),
    [
        # Image 0 first. Three models: (0.8 + 0.6) / 3, 0.7 / 3, 0.1 / 3; then 0.9 / 3.
        ("wbf", [1.4 / 3, 0.7 / 3, 0.1 / 3, 0.3], [2, 1, 1, 1]),
        ("nms", [0.8, 0.7, 0.1, 0.9], [2, 1, 1, 1]),
        ("soft-nms", [0.8, 0.7, 0.6 * np.exp(-0.81 / 0.5), 0.1, 0.9], [2, 1, 2, 1, 1]),
        ("union", [0.8, 0.7, 0.6, 0.1, 0.9], [2, 1, 2, 1, 1]),
        ("agreement", [0.8, 0.6], [2, 2]),
    ],
)
def test_models_fuse_by_hand(method, scores, n_models):
    fused = boxes.fuse_models(**MODELS, n_models=3, method=method)
    np.testing.assert_allclose(fused.scores, scores)
    assert fused.n_models.tolist() == n_models
    assert fused.images.tolist() == sorted(fused.images) and fused.boxes.dtype == np.float32


def test_weighted_suppression_of_models_equals_ensemble_boxes(monkeypatch):
    """They divide by the sum of the weights, we by the largest: 6 against 3."""
    loop = ensemble_boxes_nms.nms_float_fast
    monkeypatch.setattr(ensemble_boxes_nms, "nms_float_fast", getattr(loop, "py_func", loop))
    rng = np.random.default_rng(13)
    b, scores, labels = random_models(rng, 3, 30)
    models = np.repeat(np.arange(3), [len(part) for part in b])
    fused = boxes.fuse_models(
        np.concatenate(b), np.concatenate(scores), np.concatenate(labels), models,
        method="nms", weights=[1, 2, 3], iou_threshold=0.4,
    )  # fmt: skip
    theirs = ensemble_boxes.nms(b, [part.copy() for part in scores], labels, iou_thr=0.4, weights=[1, 2, 3])
    order = np.argsort(-theirs[1])
    np.testing.assert_allclose(fused.scores, theirs[1][order] * 6 / 3)
    np.testing.assert_allclose(fused.boxes, theirs[0][order], atol=1e-6)


@pytest.mark.parametrize("method", boxes.FUSION_METHODS)
def test_fusing_models_that_found_nothing(method):
    fused = boxes.fuse_models([], [], [], [], n_models=2, method=method)
    assert fused.boxes.shape == (0, 4) and all(len(part) == 0 for part in fused)


def test_what_fusing_models_refuses():
    with pytest.raises(ParameterError, match=r"fuse_models: expected a method of wbf, .* got 'mean'"):
        boxes.fuse_models(**MODELS, n_models=3, method="mean")
    for method in boxes.FUSION_METHODS:
        with pytest.raises(BoxError, match=r"model_ids: expected 0\.\.0 for 1 models, got 1"):
            boxes.fuse_models(**MODELS, weights=[1], method=method)
        with pytest.raises(ParameterError, match="expected `weights` or `n_models`"):
            boxes.fuse_models(**MODELS, method=method)


# -- ordering and the fallback -----------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 30, 3000])
def test_grouping_equals_a_sort(n):
    rng = np.random.default_rng(n)
    keys, scores = rng.integers(0, 7, n), rng.choice([0.1, 0.2, 0.3, 0.4], n)
    order, starts = group_by_score(keys, scores, 7)
    np.testing.assert_array_equal(order, np.lexsort((np.arange(n), -scores, keys)))
    np.testing.assert_array_equal(np.diff(starts), np.bincount(keys, minlength=7))


def test_keys_of_far_apart_numbers_stay_few():
    keys, count = dense_keys(np.array([10**12, 5, 10**12]), np.array([-3, 10**9, -3]))
    assert keys[0] == keys[2] != keys[1] and count <= 4
    assert dense_keys(np.empty(0, np.int64), np.empty(0, np.int64))[1] == 0


def everything(seed: int) -> dict[str, list]:
    """All that loops, on one random problem, as plain lists."""
    rng = np.random.default_rng(seed)
    b, scores = random_boxes(rng, 400, 1000), rng.choice(np.linspace(0, 1, 50), 400)
    labels, models, images = (rng.integers(0, high, 400) for high in (3, 4, 3))
    made = {"nms": [boxes.nms(b, scores, 0.3, labels=labels, images=images).tolist()]}
    made["count"] = [boxes.count_models(b, labels, models, 0.3, images=images).tolist()]
    for method in ("linear", "gaussian"):
        made[method] = [
            part.tolist() for part in boxes.soft_nms(b, scores, 0.3, method=method, labels=labels)
        ]
    fused = fuse(b, scores, labels, models, weights=[1, 2, 3, 4], images=images)
    made["wbf"] = [part.tolist() for part in fused]
    return made


_WITHOUT_NUMBA = """
import json, sys
sys.modules["numba"] = None
sys.modules["ensemble_boxes"] = type(sys)("ensemble_boxes")  # needs numba itself
sys.modules["ensemble_boxes"].ensemble_boxes_nms = None
sys.path.insert(0, sys.argv[1])
import test_boxes
from cxr.boxes.compiled import HAVE_NUMBA
assert not HAVE_NUMBA
print(json.dumps(test_boxes.everything(3)))
"""


def test_without_numba_the_result_is_the_same(request):
    command = [sys.executable, "-c", _WITHOUT_NUMBA, str(request.path.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    compiled, plain = everything(3), json.loads(done.stdout)
    assert compiled.keys() == plain.keys()
    for name, parts in compiled.items():
        for a, b in zip(parts, plain[name], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_without_a_place_for_the_cache_it_compiles_every_time(monkeypatch):
    numba = pytest.importorskip("numba")

    def refuse(function):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(numba, "njit", lambda *function, **cache: refuse if cache else function[0])
    assert compiled(abs) is abs
