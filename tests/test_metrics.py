"""FROC, ROC, operating points, errors, intervals, COCO, readers, the scorecard: each checked another way."""

from __future__ import annotations

import json
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from metric_problems import detections, random_problem, truth, voc_by_loop
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cxr import annotations, metrics, schema
from cxr.errors import DataError, ParameterError
from cxr.metrics.intervals import bias_corrected

TWO = schema.ClassTable(("Mass", "Fluid", "Normal"))


def hits_by_loop(found: pd.DataFrame, true: pd.DataFrame, label: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Scores and hit flags of one class, best score first, and its number of truth boxes."""
    problem = metrics.encode(found, true, class_ids=[label])
    matches = metrics.match(problem.detections, problem.truth, n_classes=1, iou_threshold=0.4)
    order = np.argsort(-problem.detections.score, kind="stable")
    return problem.detections.score[order], matches.hit[order], len(problem.truth)


# -- FROC --------------------------------------------------------------------------------------------


def test_froc_by_hand():
    true = truth([("a", 0, 0, 0, 10, 10), ("b", 0, 0, 0, 10, 10), ("c", 2), ("d", 2)])
    found = detections(
        [
            ("c", 0, 0.9, 0, 0, 9, 9),  # one false alarm in four images: 0.25
            ("a", 0, 0.8, 0, 0, 10, 10),
            ("d", 0, 0.7, 0, 0, 9, 9),  # two: 0.5
            ("d", 0, 0.6, 0, 0, 9, 9),  # three
            ("b", 0, 0.6, 0, 0, 10, 10),  # at the same score as the third, so never without it
        ]
    )
    result = metrics.froc(found, true, class_ids=[0])
    assert result.sensitivity.tolist() == [0, 0.5, 0.5, 1, 1, 1, 1]
    assert result.mean == pytest.approx(5 / 7)
    assert result.curves[0].to_numpy().tolist() == [[0.8, 0.25, 0.5], [0.6, 0.75, 1.0]]
    assert result.per_class["at_0.25"].tolist() == [0.5] and result.per_class["n_truth"].tolist() == [2]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_froc_equals_a_walk_over_all_thresholds(seed, ties):
    found, true = random_problem(seed, ties=ties)
    result = metrics.froc(found, true)
    n_images = len(set(found["image_id"]) | set(true["image_id"]))
    for row in result.per_class.itertuples():
        scores, hits, n_truth = hits_by_loop(found, true, row.class_id)
        for rate in metrics.FROC_RATES:
            best = 0.0
            for threshold in np.unique(scores):
                shown = scores >= threshold
                if (shown & ~hits).sum() / n_images <= rate:
                    best = max(best, (shown & hits).sum() / n_truth)
            column = result.per_class.columns.get_loc(f"at_{rate:g}")
            assert result.per_class.iloc[row.Index, column] == pytest.approx(best)


def test_froc_of_nothing():
    true = truth([("a", 0, 0, 0, 10, 10)])
    assert metrics.froc(detections([]), true).mean == 0
    assert np.isnan(metrics.froc(detections([]), truth([])).mean)
    assert np.isnan(metrics.froc(detections([("a", 1, 1.0, 0, 0, 1, 1)]), truth([("a", 2)])).mean)
    with pytest.raises(ParameterError, match="rates: expected"):
        metrics.froc(detections([]), true, rates=[])
    with pytest.raises(ParameterError, match="rates: expected"):
        metrics.froc(detections([]), true, rates=[-1])


# -- operating point and confusion -------------------------------------------------------------------


def test_operating_point_by_hand():
    true = truth([("a", 0, 0, 0, 10, 10), ("b", 0, 0, 0, 10, 10), ("b", 1, 5, 5, 9, 9), ("c", 2)])
    found = detections(
        [
            ("a", 0, 0.9, 0, 0, 10, 10),
            ("a", 0, 0.6, 0, 0, 10, 10),
            ("b", 0, 0.3, 0, 0, 10, 10),
            ("c", 1, 0.9, 0, 0, 10, 10),
        ]
    )
    point = metrics.operating_point(found, true, score_threshold=0.5)
    assert point.per_class[["hits", "false_positives", "missed"]].to_numpy().tolist() == [
        [1, 1, 1],
        [0, 1, 1],
    ]
    assert point.per_class["f1"].tolist() == [0.5, 0.0]
    assert (point.precision, point.recall) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert point.false_positives_per_image == pytest.approx(2 / 3)
    by_class = metrics.operating_point(found, true, score_threshold={0: 0.0, 1: 1.0})
    assert by_class.per_class["hits"].tolist() == [2, 0]
    assert np.isnan(by_class.per_class["precision"].iloc[1]) and by_class.per_class["recall"].iloc[1] == 0


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_f1_is_the_best_of_all_thresholds(seed, ties):
    found, true = random_problem(seed, ties=ties)
    point = metrics.operating_point(found, true)
    for row in point.per_class.itertuples():
        scores, hits, n_truth = hits_by_loop(found, true, row.class_id)
        best = max(
            2 * (hits & (scores >= t)).sum() / ((scores >= t).sum() + n_truth) for t in np.unique(scores)
        )
        assert row.f1 == pytest.approx(best)


def test_a_class_without_a_hit_is_cut_where_all_classes_together_are():
    """Cut at infinity, its false alarms would vanish from the totals; it has two at 0.6 and one at 0.2."""
    true = truth([("a", 0, 0, 0, 10, 10), ("b", 0, 0, 0, 10, 10), ("c", 2)])
    found = detections(
        [
            ("a", 0, 0.9, 0, 0, 10, 10),
            ("b", 0, 0.5, 0, 0, 10, 10),
            ("a", 1, 0.6, 0, 0, 10, 10),
            ("c", 1, 0.6, 0, 0, 10, 10),
            ("c", 1, 0.2, 0, 0, 10, 10),
        ]
    )
    point = metrics.operating_point(found, true, class_ids=[0, 1])
    # Of all together F1 is 2/3 at 0.9 (one of one shown, of two) and 4/6 at 0.5: the higher one stands.
    assert point.per_class["score_threshold"].tolist() == [0.5, 0.9]
    more = pd.concat([true, truth([("c", 1, 50, 50, 60, 60)])])
    point = metrics.operating_point(found, more, class_ids=[0, 1])
    # With a third truth box, which is never hit: 2/4 at 0.9, 4/7 at 0.5.
    assert point.per_class["score_threshold"].tolist() == [0.5, 0.5]
    assert point.per_class["false_positives"].tolist() == [0, 2] and point.per_class["missed"].tolist() == [
        0,
        1,
    ]
    assert point.false_positives_per_image == pytest.approx(2 / 3)
    hitless = metrics.operating_point(found[found["class_id"] == 1], true, class_ids=[0, 1])
    assert hitless.per_class["score_threshold"].tolist() == [-np.inf, -np.inf]
    assert hitless.per_class["false_positives"].tolist() == [0, 3]


def test_operating_point_of_nothing():
    point = metrics.operating_point(detections([]), truth([("a", 0, 0, 0, 9, 9)]), score_threshold=0.5)
    assert np.isnan(point.precision) and point.recall == 0 and point.f1 == 0
    empty = metrics.operating_point(detections([]), truth([]))
    assert np.isnan(empty.f1) and np.isnan(empty.false_positives_per_image) and empty.per_class.empty


def test_confusion_by_hand():
    true = truth(
        [
            ("a", 0, 0, 0, 10, 10),
            ("a", 1, 0, 0, 10, 10),  # at the same place as the first
            ("b", 1, 0, 0, 10, 10),
            ("c", 0, 0, 0, 10, 10),
        ]
    )
    found = detections(
        [
            ("a", 1, 0.9, 0, 0, 10, 10),  # takes the truth of its own class, not the other
            ("b", 0, 0.8, 0, 0, 10, 9),  # the wrong class
            ("b", 0, 0.7, 50, 50, 60, 60),  # nothing there
            ("c", 0, 0.2, 0, 0, 10, 10),  # below the threshold
        ]
    )
    table = metrics.confusion(found, true, score_threshold=0.5)
    assert table.index.tolist() == table.columns.tolist() == [0, 1, metrics.BACKGROUND]
    assert table.to_numpy().tolist() == [[0, 0, 2], [1, 1, 0], [1, 0, 0]]
    assert metrics.confusion(detections([]), true).loc[0, metrics.BACKGROUND] == 2
    assert metrics.confusion(detections([]), truth([])).to_numpy().tolist() == [[0]]


@pytest.mark.parametrize("seed", range(3))
def test_confusion_adds_up(seed):
    found, true = random_problem(seed)
    table = metrics.confusion(found, true, score_threshold=0.3)
    point = metrics.operating_point(found, true, score_threshold=0.3)
    assert table.iloc[:-1].sum(axis=1).tolist() == true["class_id"].value_counts().sort_index().tolist()
    shown = found.loc[found["score"] >= 0.3, "class_id"].value_counts().sort_index()
    assert table.iloc[:, :-1].sum(axis=0).tolist() == shown.tolist()
    assert np.diag(table)[:-1].tolist() == point.per_class["hits"].tolist()


# -- images ------------------------------------------------------------------------------------------


def test_roc_by_hand():
    true = truth([("a", 0, 0, 0, 1, 1), ("b", 0, 0, 0, 1, 1), ("b", 1, 0, 0, 1, 1), ("c", 2), ("d", 2)])
    found = detections(
        [
            ("a", 0, 0.9, 0, 0, 1, 1),
            ("a", 0, 0.1, 0, 0, 1, 1),
            ("c", 0, 0.4, 0, 0, 1, 1),
            ("c", 1, 0.7, 0, 0, 1, 1),
        ]
    )
    result = metrics.image_roc(found, true, classes=TWO)
    # Class 0: positives .9, 0; negatives .4, 0: of four pairs two are right and one is even.
    assert result.per_class["auc"].iloc[0] == pytest.approx(2.5 / 4)
    # Class 1: the positive scores 0, negatives 0, .7, 0: two even pairs of three.
    assert result.per_class["auc"].iloc[1] == pytest.approx(1 / 3)
    # Abnormal by the best finding: .9, 0 against .7, 0.
    assert result.abnormal == pytest.approx(2.5 / 4)
    assert result.per_class["class_name"].tolist() == ["Mass", "Fluid", "Abnormal"]
    assert result.per_class["n_positive"].tolist() == [2, 1, 2]
    assert result.mean == pytest.approx((2.5 / 4 + 1 / 3) / 2)


def test_roc_takes_normal_lines_or_given_probabilities():
    true = metrics.with_normal_rows(truth([("a", 0, 0, 0, 1, 1), ("b", 2), ("c", 2)]), TWO)
    lines = detections([("a", 2, 0.2, 0, 0, 1, 1), ("b", 2, 0.9, 0, 0, 1, 1), ("c", 2, 0.1, 0, 0, 1, 1)])
    assert metrics.image_roc(lines, true, classes=TWO).abnormal == pytest.approx(0.5)
    given = pd.Series([0.9, 0.2, 0.1], index=["a", "b", "c"])
    assert metrics.image_roc(lines, true, p_abnormal=given, classes=TWO).abnormal == 1
    with pytest.raises(DataError, match="p_abnormal: expected every image, got none for c"):
        metrics.image_roc(lines, true, p_abnormal=given.iloc[:2], classes=TWO)


def test_roc_falls_back_on_the_best_finding_where_an_image_lacks_its_normal_line():
    """A gate drops the lines of images it is sure of; having none must not make an image surely abnormal."""
    true = truth([("a", 0, 0, 0, 1, 1), ("b", 2), ("c", 2)])
    found = detections([("a", 0, 0.8, 0, 0, 1, 1), ("b", 0, 0.3, 0, 0, 1, 1), ("c", 2, 0.9, 0, 0, 1, 1)])
    assert metrics.image_roc(found, true, classes=TWO).abnormal == 1
    swapped = found.assign(score=[0.3, 0.8, 0.9])
    # By the lines alone a and b would both score 1, whatever their boxes: 0.75.
    assert metrics.image_roc(swapped, true, classes=TWO).abnormal == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_roc_equals_the_share_of_right_pairs(seed):
    found, true = random_problem(seed, ties=True, boxes=25)
    three = schema.ClassTable(("Mass", "Fluid", "Air", "Normal"))
    result = metrics.image_roc(found, true, classes=three)
    images = sorted(set(found["image_id"]) | set(true["image_id"]))
    best = found.groupby(["class_id", "image_id"])["score"].max()
    has = set(zip(true["class_id"], true["image_id"], strict=True))
    for c in range(3):
        score = {image: best.get((c, image), 0.0) for image in images}
        right = [
            (score[p] > score[n]) + 0.5 * (score[p] == score[n])
            for p in images
            for n in images
            if (c, p) in has and (c, n) not in has
        ]
        assert result.per_class["auc"].iloc[c] == pytest.approx(np.mean(right))


def test_roc_where_all_images_are_of_one_kind():
    result = metrics.image_roc(detections([]), truth([("a", 0, 0, 0, 1, 1)]), classes=TWO)
    assert np.isnan(result.abnormal) and np.isnan(result.mean) and result.curves == {}
    assert metrics.image_roc(detections([]), truth([]), classes=TWO).per_class["n_positive"].sum() == 0


# -- where errors come from --------------------------------------------------------------------------

ERRING = detections(
    [
        ("a", 0, 0.9, 0, 0, 100, 100),  # hit
        ("a", 0, 0.8, 0, 0, 100, 90),  # the same again
        ("b", 0, 0.7, 0, 0, 100, 30),  # right class, IoU 0.3
        ("c", 1, 0.6, 0, 0, 100, 100),  # right place, wrong class
        ("d", 1, 0.5, 0, 0, 100, 20),  # wrong class, IoU 0.2
        ("d", 0, 0.4, 500, 500, 600, 600),  # nothing
        ("e", 0, 0.05, 0, 0, 100, 100),  # below the threshold
    ]
)
WRONGED = truth([(image, 0, 0, 0, 100, 100) for image in "abcde"] + [("f", 1, 0, 0, 50, 50)])


def test_errors_by_hand():
    result = metrics.error_breakdown(ERRING, WRONGED, score_threshold=0.1)
    kinds = ["hit", "duplicate", "localisation", "class", "both", "background"]
    assert result.detections["kind"].tolist() == kinds
    assert result.detections["truth"].tolist() == [0, 0, 1, 2, 3, -1]
    np.testing.assert_allclose(result.detections["iou"], [1, 0.9, 0.3, 1, 0.2, 0])
    assert result.truth["kind"].tolist() == ["hit", "localisation", "class", "missed", "missed", "missed"]
    counts = result.counts.set_index("class_id")
    assert counts.loc[0].to_dict() == {
        "hit": 1, "localisation": 1, "class": 0, "both": 0, "duplicate": 1, "background": 1, "missed": 2,
    }  # fmt: skip
    assert counts.loc[1, ["class", "both", "missed"]].tolist() == [1, 1, 1]


def test_gains_equal_the_score_of_the_mended_table():
    before = metrics.voc_map(ERRING, WRONGED).map
    gain = metrics.error_breakdown(ERRING, WRONGED).gain
    mended = ERRING.copy()
    mended.loc[2, "y_max"] = 100
    assert gain["localisation"] == pytest.approx(metrics.voc_map(mended, WRONGED).map - before)
    mended = ERRING.copy()
    mended.loc[3, "class_id"] = 0
    assert gain["class"] == pytest.approx(metrics.voc_map(mended, WRONGED).map - before)
    for kind, row in (("duplicate", 1), ("both", 4), ("background", 5)):
        assert gain[kind] == pytest.approx(metrics.voc_map(ERRING.drop(row), WRONGED).map - before)
    # Over all scores d and f are missed; without f, class 1 has no truth left and leaves the mean.
    assert gain["missed"] == pytest.approx(metrics.voc_map(ERRING, WRONGED.iloc[[0, 1, 2, 4]]).map - before)


@pytest.mark.parametrize("seed", range(3))
def test_errors_add_up(seed):
    found, true = random_problem(seed)
    result = metrics.error_breakdown(found, true, score_threshold=0.3)
    assert len(result.detections) == (found["score"] >= 0.3).sum() and len(result.truth) == len(true)
    hits = metrics.operating_point(found, true, score_threshold=0.3).per_class["hits"]
    assert result.counts["hit"].tolist() == hits.tolist()
    of_kind = result.detections["kind"].value_counts()
    assert result.counts.drop(columns=["class_id", "missed"]).sum().to_dict() == {
        kind: of_kind.get(kind, 0) for kind in ("hit", *metrics.ERRORS[:-1])
    }
    assert (result.gain >= -1e-12).all()


def test_errors_of_nothing():
    result = metrics.error_breakdown(detections([]), WRONGED)
    assert result.detections.empty and (result.truth["kind"] == "missed").all()
    assert metrics.error_breakdown(detections([]), truth([])).counts.empty
    alone = metrics.error_breakdown(ERRING, truth([("z", 0)]))
    assert set(alone.detections["kind"]) == {"background"}


# -- intervals ---------------------------------------------------------------------------------------


def test_a_resample_scores_like_the_table_with_images_repeated():
    found, true = random_problem(5)
    images = sorted(set(found["image_id"]) | set(true["image_id"]))
    result = metrics.bootstrap_map(found, true, resamples=5, seed=9, image_ids=images)
    rng = np.random.default_rng(9)
    for r in range(5):
        drawn = [images[k] for k in rng.integers(0, len(images), len(images))]
        copies = [
            pd.concat(
                [part[part["image_id"] == image].assign(image_id=f"{k}") for k, image in enumerate(drawn)]
            )
            for part in (found, true)
        ]
        by_class = voc_by_loop(*copies)
        assert result.samples[r] == pytest.approx(np.mean(list(by_class.values())), abs=1e-12)
        for label, expected in by_class.items():
            assert result.class_samples[r, label] == pytest.approx(expected, abs=1e-12)


def test_intervals_hold_the_score_and_depend_on_the_seed_alone():
    found, true = random_problem(6, images=100, boxes=150, found=900)
    result = metrics.bootstrap_map(found, true, resamples=200, seed=1)
    assert result.map == metrics.voc_map(found, true).map
    assert result.low < result.map < result.high
    assert (result.per_class["low"] <= result.per_class["high"]).all()
    again = metrics.bootstrap_map(found, true, resamples=200, seed=1)
    np.testing.assert_array_equal(result.samples, again.samples)
    assert (result.samples != metrics.bootstrap_map(found, true, resamples=200, seed=2).samples).any()
    narrow = metrics.bootstrap_map(found, true, resamples=200, seed=1, level=0.5)
    assert result.low < narrow.low < narrow.high < result.high
    value, low, high = result.mean_over([0, 1])
    assert low < value < high and value == pytest.approx(result.per_class["ap"].iloc[:2].mean())


def test_the_bias_of_resampling_by_hand():
    """Two images, a false alarm above the one hit: of four draws two keep both, one the hit, one no truth."""
    true = truth([("a", 0, 0, 0, 9, 9), ("b", 1, 0, 0, 9, 9)])
    found = detections([("b", 0, 0.9, 0, 0, 9, 9), ("a", 0, 0.8, 0, 0, 9, 9)])
    result = metrics.bootstrap_map(found, true, resamples=3000, class_ids=[0], image_ids=["a", "b"])
    assert result.map == 0.5 and result.bias == pytest.approx((1 + 0.5 + 0.5) / 3 - 0.5, abs=0.02)
    assert result.per_class["bias"].iloc[0] == pytest.approx(result.bias)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.8])
def test_the_interval_is_the_bias_corrected_one(place):
    samples = np.random.default_rng(3).gamma(2, 1, 4001)
    value = float(np.quantile(samples, place))
    normal = NormalDist()
    tails = [normal.cdf(2 * normal.inv_cdf(place) + sign * normal.inv_cdf(0.975)) for sign in (-1, 1)]
    expected = np.quantile(samples, tails)
    np.testing.assert_allclose(bias_corrected(samples, value, 0.95), expected, rtol=1e-3)
    # A value in the middle of its samples is left with their plain percentiles.
    if place == 0.5:
        np.testing.assert_allclose(expected, np.quantile(samples, [0.025, 0.975]))


def test_the_interval_of_a_constant_and_of_one_sided_samples():
    assert bias_corrected(np.full(9, 0.3), 0.3 + 1e-15, 0.95) == (pytest.approx(0.3), pytest.approx(0.3))
    low, high = bias_corrected(np.linspace(0.6, 0.8, 1001), 0.5, 0.95)
    assert low == pytest.approx(0.6) and high == pytest.approx(0.6, abs=1e-3)
    assert np.isnan(bias_corrected(np.array([np.nan]), 0.5, 0.95)).all()


def test_a_paired_difference_is_known_better_than_either_score():
    found, true = random_problem(6, images=100, boxes=150, found=900)
    alarms = [(f"image{k}", c, 0.95, 3000, 3000, 3100, 3100) for k in range(0, 100, 10) for c in range(3)]
    worse = pd.concat([found, detections(alarms)], ignore_index=True)
    common = {"resamples": 300, "image_ids": [f"image{k}" for k in range(100)]}
    first, second = (metrics.bootstrap_map(table, true, **common) for table in (found, worse))
    difference = metrics.paired_difference(first, second)
    assert difference.value == pytest.approx(first.map - second.map)
    assert 0 < difference.low < difference.value < difference.high
    assert first.low < second.high, "the two intervals overlap all the same"
    assert difference.high - difference.low < (first.high - first.low) / 2
    back = metrics.paired_difference(second, first)
    np.testing.assert_allclose([back.low, back.high], [-difference.high, -difference.low], atol=3e-3)
    of_one = metrics.paired_difference(first, second, class_ids=[1])
    assert of_one.value == pytest.approx(first.per_class["ap"].iloc[1] - second.per_class["ap"].iloc[1])
    same = metrics.paired_difference(first, first)
    assert (same.value, same.low, same.high) == (0, 0, 0)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"resamples": 299}, {"class_ids": [0, 1]}, {"image_ids": ["image1"]}]
)
def test_differences_of_other_resamples_are_refused(change):
    found, true = random_problem(6)
    common = {"resamples": 300, "image_ids": [f"image{k}" for k in range(40)]}
    first = metrics.bootstrap_map(found, true, **common)
    with pytest.raises(ParameterError, match="expected two results of the same images"):
        metrics.paired_difference(first, metrics.bootstrap_map(found, true, **(common | change)))


def test_a_class_that_a_resample_lacks_counts_in_no_mean():
    true = truth([("a", 0, 0, 0, 9, 9), ("b", 1, 0, 0, 9, 9)])
    found = detections([("a", 0, 0.9, 0, 0, 9, 9)])
    result = metrics.bootstrap_map(found, true, resamples=50)
    lacks = np.isnan(result.class_samples[:, 0])
    assert lacks.any() and (result.samples[lacks] == 0).all()
    assert set(result.samples) == {0.0, 0.5, 1.0}


def test_bootstrap_of_nothing_and_its_limits():
    true = truth([("a", 0, 0, 0, 9, 9)])
    empty = metrics.bootstrap_map(detections([]), true, resamples=3)
    assert (empty.map, empty.low, empty.high) == (0, 0, 0)
    assert np.isnan(metrics.bootstrap_map(detections([]), truth([]), resamples=3).low)
    with pytest.raises(ParameterError, match="resamples: expected at least 1"):
        metrics.bootstrap_map(detections([]), true, resamples=0)
    with pytest.raises(ParameterError, match="level: expected a share between 0 and 1, got 95"):
        metrics.bootstrap_map(detections([]), true, level=95)
    seen = []
    metrics.bootstrap_map(detections([]), true, resamples=3, progress=lambda *step: seen.append(step))
    assert seen[-1] == (3, 3)


# -- COCO --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_coco_equals_pycocotools(seed, capsys):
    found, true = random_problem(seed)
    ours = metrics.coco_map(found, true)
    images = {name: k for k, name in enumerate(pd.concat([true, found])["image_id"].unique())}
    sides = []
    for part in (true, found.assign(area=1)):
        edges = part[schema.BOX_COLUMNS].to_numpy()
        edges = np.hstack([edges[:, :2], edges[:, 2:] - edges[:, :2]])
        side = COCO()
        side.dataset = {
            "images": [{"id": k} for k in images.values()],
            "categories": [{"id": k} for k in range(3)],
            "annotations": [
                {"id": k + 1, "image_id": images[row.image_id], "category_id": row.class_id, "iscrowd": 0,
                 "bbox": edges[k].tolist(), "area": edges[k, 2] * edges[k, 3],
                 "score": getattr(row, "score", 1.0)}
                for k, row in enumerate(part.itertuples())
            ],
        }  # fmt: skip
        side.createIndex()
        sides.append(side)
    evaluation = COCOeval(*sides, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    capsys.readouterr()
    evaluation.summarize()
    assert ours.map == pytest.approx(evaluation.stats[0])
    assert ours.ap50 == pytest.approx(evaluation.stats[1])
    assert ours.ap75 == pytest.approx(evaluation.stats[2])
    assert ours.per_class["ap"].mean() == pytest.approx(ours.map)


def test_coco_prints_nothing_and_takes_the_empty_cases(capsys):
    true = truth([("a", 0, 0, 0, 9, 9), ("b", 2)])
    assert metrics.coco_map(detections([]), true).map == 0
    assert np.isnan(metrics.coco_map(detections([]), truth([])).map)
    perfect = metrics.coco_map(true.iloc[:1].assign(score=1.0), true)
    assert perfect.map == perfect.ap50 == perfect.ap75 == pytest.approx(1.0)
    other = metrics.coco_map(detections([("a", 1, 1.0, 0, 0, 9, 9)]), true)
    assert other.map == 0 and np.isnan(other.per_class["ap"].iloc[1])
    assert capsys.readouterr().out == ""


# -- readers -----------------------------------------------------------------------------------------


def reader_table(rows: list[tuple]) -> pd.DataFrame:
    rows = [row if len(row) > 3 else (*row, *[np.nan] * 4) for row in rows]
    made = pd.DataFrame(rows, columns=["image_id", "rad_id", "class_id", *schema.BOX_COLUMNS])
    return made.assign(class_name=[TWO.name(c) for c in made["class_id"]])[schema.ANNOTATION_COLUMNS]


READERS = reader_table(
    [
        ("a", "R1", 0, 0, 0, 10, 10), ("a", "R2", 0, 0, 0, 10, 9), ("a", "R3", 0, 0, 0, 10, 8),
        ("b", "R1", 0, 0, 0, 10, 10), ("b", "R2", 0, 50, 50, 60, 60), ("b", "R3", 2),
        ("c", "R1", 2), ("c", "R2", 2), ("d", "R3", 0, 0, 0, 10, 10),
    ]
)  # fmt: skip


def test_reader_pairs_by_hand():
    pairs = metrics.reader_pairs(READERS, classes=TWO).set_index(["rad_id", "truth"])
    one = pairs.loc[("R1", "R2")]
    assert one["images"] == 3 and one["precision"] == 0.5 and one["recall"] == 0.5
    assert one["map_tied"] == pytest.approx(0.25) and one["map"] == pytest.approx(0.5)
    assert pairs.loc[("R1", "R3"), "images"] == 2 and pairs.loc[("R1", "R3"), "recall"] == 1
    assert ("R2", "R3") in pairs.index and len(pairs) == 6
    assert len(metrics.reader_pairs(READERS, min_images=3, classes=TWO)) == 2


def test_reader_ceiling_by_hand():
    ceiling = metrics.reader_ceiling(READERS, classes=TWO).set_index("rad_id")
    # R3 on a and b against R1 and R2 fused: one box in a, two apart in b; its own box hits.
    assert ceiling.loc["R3", "images"] == 2 and ceiling.loc["R3", "abnormal"] == 2
    assert ceiling.loc["R3", "precision"] == 1 and ceiling.loc["R3", "recall"] == pytest.approx(1 / 3)
    assert ceiling.loc["R3", "map"] == pytest.approx(1 / 3)
    assert ceiling.loc["R1", "images"] == 3 and ceiling.loc["R1", "abnormal"] == 2
    assert ceiling[["low", "detector", "difference"]].isna().all(axis=None)
    assert metrics.reader_ceiling(READERS, min_images=3, classes=TWO).empty


def test_a_detector_meets_the_truth_that_the_reader_meets():
    """The left-out reader's boxes are no truth: a detector that repeats them scores as the reader does."""
    own = READERS[(READERS["rad_id"] == "R3") & (READERS["class_id"] != 2)]
    repeats = own.assign(score=1.0)[schema.DETECTION_COLUMNS]
    of_all = annotations.fuse_readers(READERS, classes=TWO)
    common = {"detections": repeats, "readers": ("R3",), "classes": TWO}
    row = metrics.reader_ceiling(READERS, **common, resamples=50).iloc[0]
    assert row["detector"] == row["map"] == pytest.approx(1 / 3)
    assert (row["difference"], row["difference_low"], row["difference_high"]) == (0, 0, 0)
    assert (row["detector_low"], row["detector_high"]) == (row["low"], row["high"])
    assert row["detector"] < metrics.voc_map(repeats, of_all, class_ids=[0, 1]).map, "judged by its own boxes"


def test_the_ceiling_fuses_as_the_run_does():
    """By agreement R3 is judged on the two boxes that R1 and R2 share, not on the two that one drew."""
    fused = metrics.reader_ceiling(READERS, readers=("R3",), fusion_method="agreement", classes=TWO)
    assert fused["map"].tolist() == [0.5] and fused["images"].tolist() == [2]
    strict = metrics.reader_ceiling(READERS, readers=("R3",), fusion_iou_threshold=0.95, classes=TWO)
    assert strict["recall"].tolist() == [pytest.approx(1 / 4)]
    # Ties are broken as in `fuse_readers`, which takes the last reader's name first.
    chain = reader_table([("a", "R0", 0, 0, 0, 10, 10)] + [
        ("a", f"R{k}", 0, x, 0, x + 10, 10) for k, x in ((1, 0.0), (2, 2.5), (3, 5.5))
    ])  # fmt: skip
    others = chain[chain["rad_id"] != "R0"]
    truth_of = annotations.fuse_readers(others, iou_threshold=0.45, classes=TWO)
    assert len(truth_of) == 2
    row = metrics.reader_ceiling(
        chain.sample(frac=1, random_state=1), readers=("R0",), fusion_iou_threshold=0.45, classes=TWO
    ).iloc[0]
    own = chain[chain["rad_id"] == "R0"].assign(score=1.0)
    assert row["map"] == metrics.voc_map(own, truth_of).map


# -- groups of images --------------------------------------------------------------------------------


def test_groups_are_compared_on_abnormal_images_and_on_findings_that_all_have():
    found, true = random_problem(8, images=60, boxes=120, found=600)
    three = schema.ClassTable(("Mass", "Fluid", "Air", "Normal"))
    first, second = ([f"image{k}" for k in ids] for ids in (range(40), range(40, 60)))
    true = true[(true["class_id"] != 2) | true["image_id"].isin(first)]
    normal = truth([(f"n{k}", 3) for k in range(50)])
    alarms = detections([(f"n{k}", 0, 0.99, 0, 0, 9, 9) for k in range(50)])
    groups = {"one": first, "two": [*second, *normal["image_id"]], "none": ["n0"]}
    everything = pd.concat([true, normal]), pd.concat([found, alarms])
    scores = metrics.group_scores(
        everything[1], everything[0], groups, resamples=100, classes=three
    ).set_index("group")  # fmt: skip
    assert scores.index.tolist() == ["one", "two"] and (scores["classes"] == 2).all()
    for name, ids in (("one", first), ("two", second)):
        part = true[true["image_id"].isin(ids) & true["class_id"].isin([0, 1])]
        with_finding = true.loc[true["image_id"].isin(ids), "image_id"].unique()
        expected = metrics.voc_map(found, part, image_ids=with_finding, class_ids=[0, 1])
        assert scores.loc[name, "map"] == expected.map and scores.loc[name, "images"] == len(with_finding)
        assert scores.loc[name, "n_truth"] == len(part)
        assert scores.loc[name, "low"] < expected.map < scores.loc[name, "high"]
    gap = scores.loc["two"]
    assert gap["gap"] == pytest.approx(scores["map"].diff().iloc[1] * -1)
    assert gap["gap_low"] < gap["gap"] < gap["gap_high"] and np.isnan(scores.loc["one", "gap"])


def test_groups_without_a_common_finding_or_any_image():
    true = truth([("a", 0, 0, 0, 9, 9), ("b", 1, 0, 0, 9, 9), ("c", 2)])
    apart = metrics.group_scores(detections([]), true, {"x": ["a"], "y": ["b"]}, resamples=5, classes=TWO)
    assert apart["classes"].tolist() == [0, 0] and apart["map"].isna().all() and apart["gap_low"].isna().all()
    assert metrics.group_scores(detections([]), true, {"x": ["c"]}, resamples=5, classes=TWO).empty


def test_a_single_reader_has_no_ceiling():
    alone = READERS[READERS["rad_id"] == "R1"]
    assert metrics.reader_pairs(alone, classes=TWO).empty
    assert metrics.reader_ceiling(alone, classes=TWO).empty
    assert metrics.reader_ceiling(READERS.iloc[:0], classes=TWO).empty
    assert metrics.reader_ceiling(READERS[READERS["image_id"] == "c"], classes=TWO).empty, "all normal"


@pytest.mark.real
def test_the_published_ceiling_of_real_readers(real_dir):
    read = annotations.read_annotations(real_dir / "vinbigdata" / "train.csv.gz")
    pairs = metrics.reader_pairs(read, readers=schema.DOMINANT_READERS)
    assert len(pairs) == 6 and pairs["map"].between(0.205, 0.24).all()
    assert pairs["map"].round(2).min() == 0.21 and pairs["map"].round(2).max() == 0.23
    ceiling = metrics.reader_ceiling(read, readers=schema.DOMINANT_READERS)
    assert ceiling["map"].between(0.23, 0.25).all()


# -- the scorecard -----------------------------------------------------------------------------------


def test_the_scorecard_gathers_the_parts():
    found, true = random_problem(7)
    three = schema.ClassTable(("Mass", "Fluid", "Air", "Normal"))
    normal = truth([(f"n{k}", 3) for k in range(5)])
    true = pd.concat([true, normal], ignore_index=True)
    lines = detections([(f"n{k}", 3, 0.5 + k / 10, 0, 0, 1, 1) for k in range(4)])
    found = pd.concat([found, lines], ignore_index=True)
    card = metrics.scorecard(found, true, classes=three, resamples=20, coco=True)
    images = true["image_id"].unique()
    boxed = metrics.with_normal_rows(true, three)
    expected = metrics.voc_map(found, boxed, image_ids=images)
    assert card.totals["map"] == expected.map and card.totals["map_findings"] == expected.mean_over(range(3))
    assert card.table["ap"].tolist() == expected.per_class["ap"].tolist()
    assert card.table["ap"].iloc[3] == pytest.approx(0.8)
    assert card.totals["n_classes"] == 4 and card.totals["n_findings"] == 3 and card.totals["n_normal"] == 5
    assert card.totals["map_low"] < card.totals["map"] < card.totals["map_high"]
    assert card.totals["coco_ap50"] > card.totals["coco_map"] > 0
    again = json.loads(json.dumps(card.as_dict(), allow_nan=False))
    assert again["map"] == card.totals["map"] and len(again["per_class"]) == 4
    assert again["per_class"][3]["froc"] is None
    froc = metrics.froc(found, boxed, image_ids=images, class_ids=range(3))
    for rate in metrics.FROC_RATES:
        assert card.totals[f"froc_at_{rate:g}"] == froc.sensitivity[rate]
        of_class = [row[f"froc_at_{rate:g}"] for row in again["per_class"][:3]]
        assert of_class == froc.per_class[f"at_{rate:g}"].tolist()
    assert again["per_class"][0]["froc"] == pytest.approx(froc.per_class["mean"].iloc[0])
    assert card.totals["map_bias"] != 0


def test_the_scorecard_as_text():
    found, true = random_problem(7)
    three = schema.ClassTable(("Mass", "Fluid", "Air", "Normal"))
    common = {"classes": three}
    plain = metrics.scorecard(found, true, **common).text()
    assert "mAP over 3 classes: " in plain and "mAP over 3 findings: " in plain and "Fluid" in plain
    assert "interval" not in plain, "no empty column"
    assert "F1*" in plain and "on this very truth" in plain
    assert "1/8    1/4    1/2      1      2      4      8   mean" in plain
    full = metrics.scorecard(found, true, **common, resamples=20, thresholds={0: 0.5}).text()
    assert "95% interval" in full and full.count("[") == 5
    assert "F1*" not in full and "F1 at the thresholds given" in full


def test_the_scorecard_takes_thresholds_chosen_elsewhere():
    found, true = random_problem(7)
    three = schema.ClassTable(("Mass", "Fluid", "Air", "Normal"))
    given = {0: 0.2, 1: 0.9, 2: 0.5}
    card = metrics.scorecard(found, true, classes=three, thresholds=given)
    point = metrics.operating_point(
        found, true, score_threshold=given, class_ids=range(3), image_ids=true["image_id"].unique()
    )
    assert card.table["score_threshold"].tolist()[:3] == [0.2, 0.9, 0.5]
    assert card.table["f1"].tolist()[:3] == point.per_class["f1"].tolist()
    assert (card.totals["f1"], card.totals["thresholds_given"]) == (point.f1, True)
    chosen = metrics.scorecard(found, true, classes=three)
    assert chosen.totals["f1"] > point.f1 and chosen.totals["thresholds_given"] is False


def test_the_scorecard_of_nothing_and_of_several_readers():
    card = metrics.scorecard(detections([]), truth([("a", 0, 0, 0, 9, 9), ("b", 2)]), classes=TWO)
    assert card.totals["map"] == 0 and card.totals["map_low"] != card.totals["map_low"]
    json.dumps(card.as_dict(), allow_nan=False)
    assert "mAP over 2 classes: 0.000" in card.text()
    assert metrics.scorecard(detections([]), truth([]), classes=TWO).text()
    with pytest.raises(DataError, match="expected one reader per image, got several"):
        metrics.scorecard(detections([]), READERS, classes=TWO)


def test_boxes_in_images_outside_the_truth_do_not_count():
    true = truth([("a", 0, 0, 0, 9, 9)])
    found = detections([("elsewhere", 0, 0.99, 0, 0, 9, 9), ("a", 0, 0.9, 0, 0, 9, 9)])
    assert metrics.scorecard(found, true, classes=TWO).totals["map"] == 1
