"""The competition's metric: by hand, by property, and beside independent implementations."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pandas as pd
import pytest
from mean_average_precision import MetricBuilder
from metric_problems import all_point_area, detections, random_problem, truth, voc_by_loop
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cxr import annotations, metrics, schema
from cxr.boxes import iou
from cxr.errors import BoxError, DataError

TRUE = truth([("a", 0, 0, 0, 10, 10), ("a", 0, 20, 20, 40, 40), ("b", 0, 0, 0, 10, 10), ("c", 1)])


# -- by hand -----------------------------------------------------------------------------------------


def test_average_precision_by_hand():
    found = detections(
        [
            ("a", 0, 0.9, 0, 0, 10, 10),  # hit: 1 of 1
            ("c", 0, 0.8, 0, 0, 10, 10),  # an image without truth counts: 1 of 2
            ("a", 0, 0.7, 20, 20, 40, 38),  # hit: 2 of 3
            ("a", 0, 0.6, 0, 0, 10, 9),  # its truth box is taken: 2 of 4
            ("b", 0, 0.5, 50, 50, 60, 60),  # nothing there: 2 of 5
        ]
    )
    result = metrics.voc_map(found, TRUE)
    # Three truth boxes: one third at precision 1, one third at 2/3, the last is never reached.
    assert result.map == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)
    assert result.per_class.to_dict("records") == [
        {"class_id": 0, "ap": result.map, "n_truth": 3, "n_detections": 5}
    ]
    curve = result.curves[0]
    assert curve["recall"].tolist() == pytest.approx([1 / 3, 2 / 3, 2 / 3])
    assert curve["precision"].tolist() == pytest.approx([1, 2 / 3, 2 / 5])
    assert curve["score"].tolist() == [0.9, 0.7, 0.5] and curve["detections"].tolist() == [1, 3, 5]
    assert result.n_images == 3 and result.iou_threshold == 0.4


def test_precision_is_made_monotone_from_the_right():
    found = detections([("c", 0, 0.9, 0, 0, 9, 9), ("a", 0, 0.8, 0, 0, 10, 10), ("b", 0, 0.7, 0, 0, 10, 10)])
    # The hits stand at 1 of 2 and 2 of 3: the better precision behind counts for both.
    assert metrics.voc_map(found, TRUE).map == pytest.approx(2 / 3 * 2 / 3)


def test_the_truth_box_of_highest_iou_decides_even_when_it_is_taken():
    true = truth([("a", 0, 0, 0, 10, 10), ("a", 0, 0, 0, 10, 7)])
    found = detections([("a", 0, 0.9, 0, 0, 10, 10), ("a", 0, 0.8, 0, 0, 10, 9.5)])
    # The second also overlaps the free box by 7/9.5, but belongs to the taken one: a false positive.
    assert metrics.voc_map(found, true).map == pytest.approx(0.5)


def test_of_equal_ious_the_first_truth_row_decides():
    true = truth([("a", 0, 0, 0, 10, 10), ("a", 0, 0, 0, 10, 10)])
    problem = metrics.encode(detections([("a", 0, 0.9, 0, 0, 10, 10), ("a", 0, 0.8, 0, 0, 10, 10)]), true)
    matches = metrics.match(problem.detections, problem.truth, n_classes=1, iou_threshold=0.4)
    assert matches.truth.tolist() == [0, 0] and matches.winner.tolist() == [0, -1]
    assert matches.hit.tolist() == [True, False]


def test_the_iou_must_exceed_the_threshold():
    true = truth([("a", 0, 0, 0, 10, 10)])
    found = detections([("a", 0, 1.0, 0, 0, 10, 4)])  # IoU exactly 0.4
    assert metrics.voc_map(found, true).map == 0
    assert metrics.voc_map(found, true, iou_threshold=0.399).map == 1


def test_equal_scores_keep_the_order_of_the_rows():
    hit, miss = ("a", 0, 0.5, 0, 0, 10, 10), ("a", 0, 0.5, 50, 50, 60, 60)
    true = truth([("a", 0, 0, 0, 10, 10)])
    assert metrics.voc_map(detections([hit, miss]), true).map == 1
    assert metrics.voc_map(detections([miss, hit]), true).map == 0.5
    # Of two that could be the hit, the first is.
    problem = metrics.encode(detections([hit, hit]), true)
    matches = metrics.match(problem.detections, problem.truth, n_classes=1, iou_threshold=0.4)
    assert matches.hit.tolist() == [True, False]


def test_classes_do_not_mix_and_those_without_truth_do_not_count():
    found = detections([("a", 1, 0.9, 0, 0, 10, 10), ("b", 0, 0.9, 0, 0, 10, 10)])
    result = metrics.voc_map(found, TRUE)
    assert result.map == pytest.approx(1 / 3)
    assert np.isnan(result.per_class["ap"].iloc[1]) and result.per_class["n_detections"].tolist() == [1, 1]
    assert set(result.curves) == {0}


def test_images_and_classes_can_be_chosen():
    found, true = random_problem(1)
    some = [f"image{number}" for number in range(0, 40, 2)]
    chosen = metrics.voc_map(found, true, image_ids=some, class_ids=[0, 2])
    cut = [part[part["image_id"].isin(some) & part["class_id"].isin([0, 2])] for part in (found, true)]
    assert chosen.map == metrics.voc_map(*cut).map
    assert chosen.n_images == 20 and chosen.per_class["class_id"].tolist() == [0, 2]
    assert chosen.mean_over([2]) == chosen.per_class["ap"].iloc[1]
    assert np.isnan(chosen.mean_over([7]))


# -- the normal class --------------------------------------------------------------------------------


def test_normal_images_get_the_one_pixel_box():
    given = truth([("a", 0, 0, 0, 10, 10), ("b", 14), ("b", 14), ("c", 14)])
    boxed = metrics.with_normal_rows(given, schema.VINBIGDATA)
    normal = boxed[boxed["class_id"] == 14]
    assert normal["image_id"].tolist() == ["b", "c"]
    assert normal[schema.BOX_COLUMNS].to_numpy().tolist() == [[0, 0, 1, 1]] * 2
    assert len(boxed) == 3 and given["x_min"].isna().sum() == 3
    again = metrics.with_normal_rows(boxed, schema.VINBIGDATA)
    pd.testing.assert_frame_equal(again, boxed, check_dtype=False)


def test_calling_all_images_normal_scores_their_share_of_one_class_in_fifteen():
    rng = np.random.default_rng(0)
    rows: list[tuple] = []
    for number in range(3000):
        abnormal = rng.random() < 0.293 or number < 14
        rows.append((f"i{number}", number % 14, 5, 5, 99, 99) if abnormal else (f"i{number}", 14))
    true = metrics.with_normal_rows(truth(rows), schema.VINBIGDATA)
    found = detections([(f"i{number}", 14, 1.0, 0, 0, 1, 1) for number in range(3000)])
    result = metrics.voc_map(found, true)
    assert result.map == pytest.approx(0.047, abs=0.002)
    assert result.mean_over(schema.VINBIGDATA.finding_ids) == 0


# -- nothing -----------------------------------------------------------------------------------------


def test_nothing_found_and_nothing_there():
    none_found, nothing_true = detections([]), truth([])
    assert metrics.voc_map(none_found, TRUE).map == 0
    assert metrics.voc_map(none_found, TRUE).curves[0].empty
    assert np.isnan(metrics.voc_map(none_found, nothing_true).map)
    assert np.isnan(metrics.voc_map(detections([("a", 0, 1.0, 0, 0, 1, 1)]), truth([("a", 1)])).map)
    assert metrics.voc_map(none_found, nothing_true).per_class.empty
    assert metrics.voc_map(none_found, TRUE, image_ids=[]).n_images == 0


def test_a_detection_without_area_is_a_false_positive():
    true = truth([("a", 0, 0, 0, 10, 10)])
    found = detections([("a", 0, 0.9, 5, 5, 5, 5), ("a", 0, 0.8, 9, 9, 1, 1), ("a", 0, 0.7, 0, 0, 10, 10)])
    assert metrics.voc_map(found, true).map == pytest.approx(1 / 3)


def test_impossible_tables_are_named():
    good = detections([("a", 0, 0.9, 0, 0, 10, 10)])
    with pytest.raises(BoxError, match=r"detection 1 \(image a\): expected a finite score"):
        metrics.voc_map(good.assign(score=np.nan), TRUE)
    with pytest.raises(BoxError, match=r"detection 1 \(image a\)"):
        metrics.voc_map(good.assign(x_max=np.inf), TRUE)
    with pytest.raises(BoxError, match=r"truth row 1 \(image a\): expected a box with a positive area"):
        metrics.voc_map(good, truth([("a", 0, 9, 9, 1, 1)]))
    with pytest.raises(BoxError, match="truth row 1"):
        metrics.voc_map(good, truth([("a", 0, np.nan, 0, 1, 1)]))
    with pytest.raises(DataError, match=r"detections row 1 \(image a\): expected a whole number as class_id"):
        metrics.voc_map(good.assign(class_id=0.5), TRUE)
    with pytest.raises(DataError, match=r"truth row 4 .* got nan"):
        metrics.voc_map(good, TRUE.assign(class_id=[0, 0, 0, np.nan]))
    with pytest.raises(DataError, match="detections: expected a column 'score'"):
        metrics.voc_map(good.drop(columns="score"), TRUE)
    with pytest.raises(DataError, match="truth: expected a column 'class_id'"):
        metrics.voc_map(good, TRUE.drop(columns="class_id"))


# -- properties --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_perfect_prediction_scores_one(seed):
    _, true = random_problem(seed)
    true = true.drop_duplicates(["image_id", "class_id"])
    assert metrics.voc_map(true.assign(score=np.linspace(0, 1, len(true))), true).map == 1


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_rows_changes_nothing_where_scores_differ(seed):
    found, true = random_problem(seed)
    expected = metrics.voc_map(found, true)
    shuffled = metrics.voc_map(
        found.sample(frac=1, random_state=seed), true.sample(frac=1, random_state=seed)
    )
    np.testing.assert_allclose(shuffled.per_class["ap"], expected.per_class["ap"], rtol=1e-14)


@pytest.mark.parametrize("scales", [(1024 / 2880, 1024 / 2880), (819 / 2304, 1024 / 2881), (0.5, 7.3)])
@pytest.mark.parametrize("seed", range(3))
def test_scaling_all_boxes_or_the_scores_changes_nothing(seed, scales):
    """From original to network pixels, whose two scales differ by rounding, nothing is lost or gained."""
    found, true = random_problem(seed)
    expected = metrics.voc_map(found, true).map
    factors = dict(zip(schema.BOX_COLUMNS, (*scales, *scales), strict=True))
    scaled = [
        part.assign(**{name: part[name] * factor for name, factor in factors.items()})
        for part in (found, true)
    ]
    assert metrics.voc_map(*scaled).map == pytest.approx(expected, abs=1e-14)
    assert metrics.voc_map(found.assign(score=found["score"] * 4 - 100), true).map == expected


@pytest.mark.parametrize("seed", range(5))
def test_a_false_positive_never_helps_and_below_all_others_never_hurts(seed):
    found, true = random_problem(seed, found=60)
    before = metrics.voc_map(found, true).map
    for score in (0.9, 0.5, 0.1, -1.0):
        extra = detections([("image0", 0, score, 5000, 5000, 5001, 5001)])
        after = metrics.voc_map(pd.concat([found, extra], ignore_index=True), true).map
        assert after <= before
    assert after == before


def test_inputs_are_left_alone():
    found, true = random_problem(2)
    copies = found.copy(), true.copy()
    metrics.voc_map(found, true)
    metrics.with_normal_rows(true, schema.VINBIGDATA)
    pd.testing.assert_frame_equal(found, copies[0])
    pd.testing.assert_frame_equal(true, copies[1])


# -- beside others -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_ours_equals_the_development_kit_line_by_line(seed, ties):
    found, true = random_problem(seed, ties=ties)
    ours = metrics.voc_map(found, true).per_class.set_index("class_id")["ap"]
    for label, expected in voc_by_loop(found, true).items():
        assert ours[label] == pytest.approx(expected, abs=2e-15)


@pytest.mark.parametrize("seed", range(2))
def test_an_independent_voc_tool_agrees(seed):
    """`mean-average-precision` follows the same rule; it counts the last pixel as inside, so gets one less.

    Its results are float32, and the order of its equal scores is not stated, so scores differ here.
    """
    found, true = random_problem(seed, images=12, found=120)
    tool = MetricBuilder.build_evaluation_metric("map_2d", async_mode=False, num_classes=3)
    for image in sorted(set(found["image_id"]) | set(true["image_id"])):
        sides = []
        for part, rest in ((found, ["class_id", "score"]), (true, ["class_id"])):
            of_image = part[part["image_id"] == image]
            inside = of_image[schema.BOX_COLUMNS].to_numpy() - [0, 0, 1, 1]
            sides.append(np.column_stack([inside, of_image[rest]]))
        tool.add(sides[0], np.column_stack([sides[1], np.zeros((len(sides[1]), 2))]))
    theirs = tool.value(iou_thresholds=[0.4])[0.4]
    ours = metrics.voc_map(found, true).per_class.set_index("class_id")["ap"]
    np.testing.assert_allclose([theirs[c]["ap"] for c in ours.index], ours, atol=1e-6)


def test_the_independent_voc_tool_decides_by_the_best_truth_box_too():
    true = np.array([[0, 0, 9, 9, 0, 0, 0], [0, 0, 9, 6, 0, 0, 0]])
    found = np.array([[0, 0, 9, 9, 0, 0.9], [0, 0, 9, 8.5, 0, 0.8]])
    tool = MetricBuilder.build_evaluation_metric("map_2d", async_mode=False, num_classes=1)
    tool.add(found, true)
    assert tool.value(iou_thresholds=[0.4])["mAP"] == pytest.approx(0.5)
    assert tool.value(iou_thresholds=[0.4], mpolicy="soft")["mAP"] == pytest.approx(1.0), "COCO's rule"


def coco_evaluate(
    found: pd.DataFrame, true: pd.DataFrame, *, recalls: int = 101, corners_as_sizes: bool = False
) -> COCOeval:
    """pycocotools at one IoU threshold, 0.4, all sizes, as many detections as there are."""
    images = {name: number for number, name in enumerate(pd.concat([true, found])["image_id"].unique())}

    def records(part: pd.DataFrame) -> list[dict]:
        edges = part[schema.BOX_COLUMNS].to_numpy()
        if not corners_as_sizes:
            edges = np.hstack([edges[:, :2], edges[:, 2:] - edges[:, :2]])
        made = []
        for number, (row, box) in enumerate(zip(part.itertuples(), edges.tolist(), strict=True), start=1):
            made.append(
                {"id": number, "image_id": images[row.image_id], "category_id": row.class_id, "bbox": box,
                 "area": box[2] * box[3], "iscrowd": 0, "score": getattr(row, "score", 1.0)}
            )  # fmt: skip
        return made

    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for part in (true, found):
            side = COCO()
            labels = [{"id": label} for label in sorted(true["class_id"].unique().tolist())]
            side.dataset = {"images": [{"id": number} for number in images.values()], "categories": labels,
                            "annotations": records(part)}  # fmt: skip
            side.createIndex()
            sides.append(side)
        evaluation = COCOeval(*sides, "bbox")
        evaluation.params.iouThrs = np.array([0.4])
        evaluation.params.recThrs = np.linspace(0, 1, recalls)
        evaluation.params.maxDets = [100_000]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def coco_ap(evaluation: COCOeval) -> np.ndarray:
    return evaluation.eval["precision"][0, :, :, 0, 0].mean(axis=0)


def apart(seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A problem in which no detection overlaps two truth boxes of its class by more than 0.4."""
    found, true = random_problem(seed)
    return found, true.drop_duplicates(["image_id", "class_id"], ignore_index=True)


@pytest.mark.parametrize("seed", range(3))
def test_pycocotools_agrees_but_for_its_recall_points(seed):
    """Their area is a mean of precision at given recalls: 101 of them are off, 100,001 are not."""
    found, true = apart(seed)
    ours = metrics.voc_map(found, true).per_class["ap"].to_numpy()
    coarse = np.abs(coco_ap(coco_evaluate(found, true)) - ours)
    fine = np.abs(coco_ap(coco_evaluate(found, true, recalls=100_001)) - ours)
    assert 1e-4 < coarse.max() < 2e-2 and fine.max() < 2e-5


def test_pycocotools_agrees_on_every_hit_where_truth_boxes_are_apart():
    """From their flags of true positives and our area, the very same number comes out."""
    found, true = apart(3)
    evaluation = coco_evaluate(found, true)
    ours = metrics.voc_map(found, true).per_class.set_index("class_id")["ap"]
    for label, expected in ours.items():
        cells = [e for e in evaluation.evalImgs if e is not None and e["category_id"] == label]
        scores = np.concatenate([cell["dtScores"] for cell in cells])
        hits = np.concatenate([cell["dtMatches"][0] > 0 for cell in cells])
        n_truth = sum(len(cell["gtIds"]) for cell in cells)
        assert all_point_area(hits[np.argsort(-scores, kind="stable")], n_truth) == pytest.approx(expected)


def test_pycocotools_gives_a_second_chance_that_voc_does_not():
    """Their detection takes the best truth box that is free; VOC's belongs to the best one, taken or not."""
    true = truth([("a", 0, 0, 0, 10, 10), ("a", 0, 0, 0, 10, 7)])
    found = detections([("a", 0, 0.9, 0, 0, 10, 10), ("a", 0, 0.8, 0, 0, 10, 9.5)])
    assert coco_ap(coco_evaluate(found, true))[0] == pytest.approx(1.0)
    assert metrics.voc_map(found, true).map == pytest.approx(0.5)


def test_pycocotools_takes_an_iou_equal_to_the_threshold():
    true = truth([("a", 0, 0, 0, 10, 10)])
    found = detections([("a", 0, 0.9, 0, 0, 10, 4)])
    assert coco_ap(coco_evaluate(found, true))[0] == pytest.approx(1.0)
    assert metrics.voc_map(found, true).map == 0


def test_tools_that_drop_images_without_truth_score_higher():
    """A false alarm in a normal image must count; listing only annotated images loses it."""
    true = truth([("a", 0, 0, 0, 10, 10)])
    found = detections([("normal", 0, 0.9, 0, 0, 10, 10), ("a", 0, 0.8, 0, 0, 10, 10)])
    annotated = found[found["image_id"].isin(true["image_id"])]
    assert coco_ap(coco_evaluate(annotated, true))[0] == pytest.approx(1.0)
    assert coco_ap(coco_evaluate(found, true))[0] == pytest.approx(0.5)
    assert metrics.voc_map(found, true).map == pytest.approx(0.5)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["pycocotools", "faster_coco_eval"])
def test_torchmetrics_agrees_but_for_its_recall_points(backend):
    """COCO's rule and recall points again, by another front end and another engine."""
    torch = pytest.importorskip("torch")
    detection = pytest.importorskip("torchmetrics.detection")
    found, true = apart(4)
    metric = detection.MeanAveragePrecision(
        iou_thresholds=[0.4], rec_thresholds=np.linspace(0, 1, 10_001).tolist(),
        max_detection_thresholds=[1, 10, 100], class_metrics=True, backend=backend,
    )  # fmt: skip
    for image in pd.concat([true, found])["image_id"].unique():
        of_found, of_true = found[found["image_id"] == image], true[true["image_id"] == image]
        metric.update(
            [{"boxes": torch.tensor(of_found[schema.BOX_COLUMNS].to_numpy()),
              "scores": torch.tensor(of_found["score"].to_numpy()),
              "labels": torch.tensor(of_found["class_id"].to_numpy())}],
            [{"boxes": torch.tensor(of_true[schema.BOX_COLUMNS].to_numpy()),
              "labels": torch.tensor(of_true["class_id"].to_numpy())}],
        )  # fmt: skip
    theirs = metric.compute()["map_per_class"].numpy()
    np.testing.assert_allclose(theirs, metrics.voc_map(found, true).per_class["ap"], atol=3e-4)


# -- the mistake that was copied ---------------------------------------------------------------------


def test_corners_given_as_width_and_height_inflate_the_score():
    """A much-copied notebook hands `x_min, y_min, x_max, y_max` to a tool that reads `x, y, width, height`.

    Every box then reaches from its corner far to the lower right, and boxes that do not touch overlap.
    """
    left, right = [600.0, 700, 900, 1000], [1000.0, 700, 1300, 1000]
    assert iou([left], [right])[0, 0] == 0
    as_sizes = mask.iou(np.array([left]), np.array([right]), [0])[0, 0]
    assert as_sizes > 0.10

    found, true = chest_like_problem()
    ours = metrics.voc_map(found, true)
    right_way = coco_ap(coco_evaluate(found, true)).mean()
    wrong_way = coco_ap(coco_evaluate(found, true, corners_as_sizes=True)).mean()
    assert ours.map == pytest.approx(right_way, abs=0.01)
    # What this detector would have been told: 0.72 for what is worth 0.53, a third too much.
    assert ours.map == pytest.approx(0.53, abs=0.01)
    assert wrong_way == pytest.approx(0.72, abs=0.01)


@pytest.mark.slow
@pytest.mark.real
def test_the_copied_mistake_inflates_real_readers_by_a_third(real_dir):
    table = annotations.read_annotations(real_dir / "vinbigdata" / "train.csv.gz")
    table = table[table["x_min"].notna()]
    found, true = (table[table["rad_id"] == reader] for reader in ("R8", "R9"))
    common = set(found["image_id"]) & set(true["image_id"])
    found, true = (part[part["image_id"].isin(common)].assign(score=1.0) for part in (found, true))
    ours = metrics.voc_map(found, true).map
    wrong_way = coco_ap(coco_evaluate(found, true, corners_as_sizes=True)).mean()
    assert ours == pytest.approx(0.234, abs=0.001) and wrong_way == pytest.approx(0.305, abs=0.001)


def chest_like_problem() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Findings of the size and at the places of chest findings, and a middling detector."""
    rng = np.random.default_rng(11)
    found, true = [], []
    for image in range(300):
        for label in range(4):
            if rng.random() < 0.4:
                continue
            centre, size = rng.normal([1100, 1200], 350), rng.uniform(250, 700, 2)
            true.append((f"i{image}", label, *(centre - size / 2), *(centre + size / 2)))
            for _ in range(2):
                moved = centre + rng.normal(0, 0.22, 2) * size
                grown = size * np.exp(rng.normal(0, 0.22, 2))
                found.append((f"i{image}", label, rng.beta(4, 2), *(moved - grown / 2), *(moved + grown / 2)))
        for label in range(4):
            centre, size = rng.normal([1100, 1200], 350), rng.uniform(250, 700, 2)
            found.append((f"i{image}", label, rng.beta(2, 3), *(centre - size / 2), *(centre + size / 2)))
    return detections(found), truth(true)


# -- without numba -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_without_numba_the_result_is_the_same(monkeypatch, seed, ties):
    problems = [random_problem(seed, ties=ties), random_problem(seed, boxes=0), random_problem(seed, found=0)]
    compiled = [metrics.voc_map(*problem) for problem in problems]
    for module in ("matching", "voc"):
        monkeypatch.setattr(f"cxr.metrics.{module}.HAVE_NUMBA", False)
    for expected, problem in zip(compiled, problems, strict=True):
        plain = metrics.voc_map(*problem)
        pd.testing.assert_frame_equal(plain.per_class, expected.per_class, check_exact=True)
        assert plain.curves.keys() == expected.curves.keys()
        for label, curve in plain.curves.items():
            pd.testing.assert_frame_equal(curve, expected.curves[label], check_exact=True)
