"""Intervals, differences, readers and groups of images: how sure a score is, and what it compares with."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from metric_problems import detections, random_problem, truth, voc_by_loop

from cxr import annotations, metrics, schema
from cxr.errors import ParameterError
from cxr.metrics.intervals import bias_corrected

TWO = schema.ClassTable(("Mass", "Fluid", "Normal"))


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
    ceiling = metrics.reader_ceiling(READERS, min_images=1, classes=TWO).set_index("rad_id")
    # R3 on a and b against R1 and R2 fused: one box in a, two apart in b; its own box hits.
    assert ceiling.loc["R3", "images"] == 2 and ceiling.loc["R3", "abnormal"] == 2
    assert ceiling.loc["R3", "precision"] == 1 and ceiling.loc["R3", "recall"] == pytest.approx(1 / 3)
    assert ceiling.loc["R3", "map"] == pytest.approx(1 / 3)
    assert ceiling.loc["R1", "images"] == 3 and ceiling.loc["R1", "abnormal"] == 2
    assert ceiling[["low", "detector", "difference"]].isna().all(axis=None)
    assert metrics.reader_ceiling(READERS, min_images=3, classes=TWO).empty
    assert metrics.reader_ceiling(READERS, classes=TWO).empty, "too few images to tell"


def test_a_detector_meets_the_truth_that_the_reader_meets():
    """The left-out reader's boxes are no truth: a detector that repeats them scores as the reader does."""
    own = READERS[(READERS["rad_id"] == "R3") & (READERS["class_id"] != 2)]
    repeats = own.assign(score=1.0)[schema.DETECTION_COLUMNS]
    of_all = annotations.fuse_readers(READERS, classes=TWO)
    common = {"detections": repeats, "readers": ("R3",), "min_images": 1, "classes": TWO}
    row = metrics.reader_ceiling(READERS, **common, resamples=50).iloc[0]
    assert row["detector"] == row["map"] == pytest.approx(1 / 3)
    assert (row["difference"], row["difference_low"], row["difference_high"]) == (0, 0, 0)
    assert (row["detector_low"], row["detector_high"]) == (row["low"], row["high"])
    assert row["detector"] < metrics.voc_map(repeats, of_all, class_ids=[0, 1]).map, "judged by its own boxes"


def test_the_ceiling_fuses_as_the_run_does():
    """By agreement R3 is judged on the two boxes that R1 and R2 share, not on the two that one drew."""
    common = {"readers": ("R3",), "min_images": 1, "classes": TWO}
    fused = metrics.reader_ceiling(READERS, **common, fusion_method="agreement")
    assert fused["map"].tolist() == [0.5] and fused["images"].tolist() == [2]
    strict = metrics.reader_ceiling(READERS, **common, fusion_iou_threshold=0.95)
    assert strict["recall"].tolist() == [pytest.approx(1 / 4)]
    # Ties are broken as in `fuse_readers`, which takes the last reader's name first.
    chain = reader_table([("a", "R0", 0, 0, 0, 10, 10)] + [
        ("a", f"R{k}", 0, x, 0, x + 10, 10) for k, x in ((1, 0.0), (2, 2.5), (3, 5.5))
    ])  # fmt: skip
    others = chain[chain["rad_id"] != "R0"]
    truth_of = annotations.fuse_readers(others, iou_threshold=0.45, classes=TWO)
    assert len(truth_of) == 2
    row = metrics.reader_ceiling(
        chain.sample(frac=1, random_state=1),
        readers=("R0",),
        min_images=1,
        fusion_iou_threshold=0.45,
        classes=TWO,
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
    assert metrics.reader_ceiling(alone, min_images=1, classes=TWO).empty
    assert metrics.reader_ceiling(READERS.iloc[:0], min_images=1, classes=TWO).empty
    normal = READERS[READERS["image_id"] == "c"]
    assert metrics.reader_ceiling(normal, min_images=1, classes=TWO).empty, "all normal"


@pytest.mark.real
def test_the_published_ceiling_of_real_readers(real_dir):
    read = annotations.read_annotations(real_dir / "vinbigdata" / "train.csv.gz")
    pairs = metrics.reader_pairs(read, readers=schema.DOMINANT_READERS)
    assert len(pairs) == 6 and pairs["map"].between(0.205, 0.24).all()
    assert pairs["map"].round(2).min() == 0.21 and pairs["map"].round(2).max() == 0.23
    ceiling = metrics.reader_ceiling(read, readers=schema.DOMINANT_READERS)
    assert ceiling["map"].between(0.23, 0.25).all()
