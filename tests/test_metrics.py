"""FROC, ROC, operating points, errors, COCO, the scorecard: each checked another way."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from metric_problems import detections, random_problem, truth
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cxr import metrics, schema
from cxr.errors import DataError, ParameterError

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
    both = truth([("a", 0, 0, 0, 9, 9), ("a", 1, 0, 0, 9, 9)]).assign(rad_id=["R1", "R2"])
    with pytest.raises(DataError, match="expected one reader per image, got several"):
        metrics.scorecard(detections([]), both, classes=TWO)


def test_boxes_in_images_outside_the_truth_do_not_count():
    true = truth([("a", 0, 0, 0, 9, 9)])
    found = detections([("elsewhere", 0, 0.99, 0, 0, 9, 9), ("a", 0, 0.9, 0, 0, 9, 9)])
    assert metrics.scorecard(found, true, classes=TWO).totals["map"] == 1
