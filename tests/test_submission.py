"""Gate and submission files: the right sense, every image, a strict reader."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr import metrics, schema, submission
from cxr.errors import DataError, ParameterError, SubmissionError
from cxr.submission import Gate

SMALL = schema.ClassTable(("mass", "fluid", "No finding"))


def detections(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=schema.DETECTION_COLUMNS)


def probabilities(**by_image: float) -> pd.DataFrame:
    return pd.DataFrame({"image_id": list(by_image), "p_abnormal": list(by_image.values())})


def lines(table: pd.DataFrame) -> list[tuple]:
    """Image, class and score of each line."""
    return [(row.image_id, row.class_id, round(row.score, 6)) for row in table.itertuples()]


BOXES = detections(("a", 0, 0.8, 10, 10, 50, 50), ("a", 1, 0.5, 20, 20, 60, 60), ("b", 0, 0.4, 5, 5, 9, 9))
P = probabilities(a=0.9, b=0.25, c=0.04)


# -- the gate ----------------------------------------------------------------------------------------


def test_soft_gate_gives_every_image_a_graded_normal_line() -> None:
    gated = submission.gate(BOXES, P, mode="soft", power=0.5, classes=SMALL)
    assert lines(gated) == [
        ("a", 0, round(0.8 * 0.9**0.5, 6)),
        ("a", 1, round(0.5 * 0.9**0.5, 6)),
        ("a", 2, 0.1),
        ("b", 2, 0.75),
        ("b", 0, 0.2),
        ("c", 2, 0.96),
    ]
    normal = gated[gated["class_id"] == 2]
    assert (normal[schema.BOX_COLUMNS].to_numpy() == [0, 0, 1, 1]).all()
    assert list(gated.columns) == schema.DETECTION_COLUMNS


def test_cut_drops_the_boxes_and_keeps_a_graded_line_for_every_image() -> None:
    gated = submission.gate(BOXES, P, mode="cut", low=0.5, classes=SMALL)
    assert lines(gated) == [("a", 0, 0.8), ("a", 1, 0.5), ("a", 2, 0.1), ("b", 2, 0.75), ("c", 2, 0.96)]


def test_no_gate_keeps_the_boxes_and_calls_silent_images_normal() -> None:
    gated = submission.gate(BOXES, P, mode="none", classes=SMALL)
    assert lines(gated) == [("a", 0, 0.8), ("a", 1, 0.5), ("b", 0, 0.4), ("c", 2, 1.0)]


def test_gate_replaces_normal_lines_that_are_there_and_leaves_its_input_alone() -> None:
    table = pd.concat([BOXES, detections(("c", 2, 0.3, 0, 0, 1, 1))])
    before = table.copy()
    assert lines(submission.gate(table, P, classes=SMALL)) == lines(submission.gate(BOXES, P, classes=SMALL))
    pd.testing.assert_frame_equal(table, before)


def test_gate_without_detections_and_without_images() -> None:
    assert lines(submission.gate(BOXES[:0], P, classes=SMALL)) == [
        ("a", 2, 0.1),
        ("b", 2, 0.75),
        ("c", 2, 0.96),
    ]
    assert len(submission.gate(BOXES[:0], P[:0], classes=SMALL)) == 0
    assert lines(submission.all_normal(["x"], classes=SMALL)) == [("x", 2, 1.0)]


def test_gate_refuses_nonsense() -> None:
    with pytest.raises(ParameterError, match="expected one of soft, cut, none, got 'hard'"):
        submission.gate(BOXES, P, mode="hard")
    with pytest.raises(ParameterError, match=r"0 <= low <= 1, got power 1\.0, low 1\.5"):
        submission.gate(BOXES, P, mode="cut", low=1.5)
    with pytest.raises(DataError, match=r"image b: expected p_abnormal in \[0, 1\], got 1\.2"):
        submission.gate(BOXES, probabilities(a=0.5, b=1.2))
    with pytest.raises(DataError, match=r"image a: expected p_abnormal in \[0, 1\], got nan"):
        submission.gate(BOXES[:2], probabilities(a=np.nan))
    with pytest.raises(DataError, match="image a has two probabilities"):
        submission.gate(BOXES[:2], pd.concat([P[:1], P[:1]]))
    with pytest.raises(DataError, match="detections of image b, which has no probability"):
        submission.gate(BOXES, probabilities(a=0.5))
    with pytest.raises(DataError, match="expected a column 'p_abnormal'"):
        submission.gate(BOXES, P.rename(columns={"p_abnormal": "p"}))


def test_rerank_multiplies_by_the_probability_of_the_class() -> None:
    wide = pd.DataFrame({"image_id": ["b", "a"], "p_0": [0.5, 0.25]})
    assert submission.rerank(BOXES, wide, power=0.5)["score"].tolist() == pytest.approx(
        [0.4, 0.5, 0.4 * 0.5**0.5]
    )
    assert submission.rerank(BOXES, wide, power=0)["score"].tolist() == BOXES["score"].tolist()
    assert len(submission.rerank(BOXES[:0], wide)) == 0
    with pytest.raises(DataError, match="no class probabilities for image b"):
        submission.rerank(BOXES, wide[1:])
    setting = Gate("none", rerank=1.0)
    applied = submission.apply_gate(setting, BOXES[:2], probabilities(a=0.5), p_findings=wide, classes=SMALL)
    assert lines(applied) == [("a", 1, 0.5), ("a", 0, 0.2)]
    for nothing in (None, P[["image_id"]], P[["image_id"]].assign(p_2=0.5)):
        with pytest.raises(DataError, match="re-ranks by class, but no class probabilities"):
            submission.apply_gate(setting, BOXES, P, p_findings=nothing, classes=SMALL)


def test_a_gate_describes_itself() -> None:
    assert Gate("soft", power=0.5).describe() == "soft, power 0.5"
    assert Gate("soft", power=0).describe() == "normal line only (soft, power 0)"
    assert Gate("cut", low=0.1).describe() == "cut, no box below 0.1"
    assert Gate("none", rerank=1.0).describe() == "no gate, re-ranked by class (power 1)"


def test_a_gate_is_asked_for_by_name_or_taken_from_the_evaluation() -> None:
    chosen = {"gate_mode": "cut", "gate_power": 0.0, "gate_low": 0.2, "gate_rerank": 0.0, "map": 0.5}
    assert submission.gate_by_name("auto", chosen) == Gate("cut", power=0.0, low=0.2)
    assert submission.gate_by_name("line", {}) == submission.NORMAL_LINE_ONLY
    assert submission.gate_by_name("soft", chosen) == Gate("soft", power=1.0)
    with pytest.raises(ParameterError, match=r"gate_mode: expected one of auto, line, .*got 'filter'"):
        submission.gate_by_name("filter", chosen)
    with pytest.raises(DataError, match="expected gate_mode, gate_power, gate_low, gate_rerank in"):
        submission.gate_by_name("auto", {})


# -- what the gate does to the score -----------------------------------------------------------------


def make_study(seed: int = 0, images: int = 120) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Detections with false alarms everywhere, a fair classifier, and the truth."""
    draws = np.random.default_rng(seed)
    truth, found, p_abnormal = [], [], {}
    for place in range(images):
        image_id = f"image{place:03d}"
        abnormal = place % 3 == 0
        p_abnormal[image_id] = float(np.clip(draws.normal(0.75 if abnormal else 0.25, 0.15), 0.01, 0.99))
        if not abnormal:
            truth.append((image_id, 2, *[np.nan] * 4))
        for _ in range(int(draws.integers(1, 4)) if abnormal else 0):
            class_id = int(draws.integers(0, 2))
            x, y = draws.uniform(0, 800, 2)
            truth.append((image_id, class_id, x, y, x + 100, y + 80))
            if draws.random() < 0.7:
                found.append((image_id, class_id, draws.uniform(0.3, 0.9), x + 5, y + 5, x + 100, y + 85))
        for _ in range(3):
            x, y = draws.uniform(0, 800, 2)
            found.append((image_id, int(draws.integers(0, 2)), draws.uniform(0, 0.8), x, y, x + 90, y + 90))
    columns = ["image_id", "class_id", *schema.BOX_COLUMNS]
    return detections(*found), probabilities(**p_abnormal), pd.DataFrame(truth, columns=columns)


def score(table: pd.DataFrame, truth: pd.DataFrame, images: pd.Series) -> metrics.VocResult:
    return metrics.voc_map(
        table, metrics.with_normal_rows(truth, SMALL), image_ids=images, class_ids=range(3)
    )


def test_the_normal_line_in_the_wrong_sense_costs_score() -> None:
    """The mistake that has been shipped: the line "no finding" scored by p(abnormal)."""
    found, p_abnormal, truth = make_study()
    right = submission.gate(found, p_abnormal, mode="soft", power=0.0, classes=SMALL)
    wrong = right.copy()
    normal = wrong["class_id"] == SMALL.normal_id
    wrong.loc[normal, "score"] = 1.0 - wrong.loc[normal, "score"]
    images = p_abnormal["image_id"]
    good, bad = score(right, truth, images), score(wrong, truth, images)
    ap = [result.per_class.set_index("class_id").loc[SMALL.normal_id, "ap"] for result in (good, bad)]
    assert ap[0] > 0.95 and ap[1] < 0.7
    assert good.map - bad.map > 0.1
    findings = list(SMALL.finding_ids)
    assert good.mean_over(findings) == bad.mean_over(findings), "the findings' own lines did not change"


def test_normal_lines_rank_images_by_falling_p_abnormal() -> None:
    gated = submission.gate(BOXES, P, classes=SMALL)
    normal = gated[gated["class_id"] == 2].merge(P, on="image_id")
    assert normal.sort_values("score", ascending=False)["p_abnormal"].is_monotonic_increasing


def test_sweep_finds_that_a_fair_classifier_helps_and_chooses_it() -> None:
    found, p_abnormal, truth = make_study()
    calls: list[tuple[int, int]] = []
    sweep = submission.gate_sweep(
        found,
        p_abnormal,
        truth,
        grid=[Gate("none"), Gate("soft", power=0.0), Gate("soft", power=1.0), Gate("cut")],
        classes=SMALL,
        resamples=60,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert sweep["mode"].tolist() == ["all-normal", "none", "soft", "soft", "cut"]
    assert calls[-1] == (4, 4)
    baseline, none, graded, soft = (sweep.loc[place] for place in range(4))
    assert baseline["map"] == pytest.approx(80 / 120 / 3), "precision 2/3 of one class in three"
    assert baseline["map_findings"] == 0
    assert graded["gain"] == graded["gain_low"] == graded["gain_high"] == 0, "against the normal line only"
    assert none["gain_high"] < 0, "most of what a gate seems to gain over nothing is the normal line"
    assert graded["map"] > none["map"] and graded["map_findings"] == none["map_findings"]
    assert soft["map_findings"] > graded["map_findings"] and soft["gain_low"] > 0
    assert (sweep["map_low"] <= sweep["map"]).all() and (sweep["map"] <= sweep["map_high"]).all()
    assert submission.choose_gate(sweep) == Gate("soft", power=1.0)
    assert submission.choose_gate(sweep.drop(index=3)).mode in ("soft", "cut"), "a line for every image"
    plain = submission.gate_sweep(found, p_abnormal, truth, grid=[Gate("none")], classes=SMALL, resamples=0)
    assert plain["map"].tolist() == sweep["map"][:2].tolist() and plain["map_low"].isna().all()
    with pytest.raises(DataError, match="at least one scored graded setting"):
        submission.choose_gate(sweep[:2])
    with pytest.raises(DataError, match="expected images with out-of-fold probabilities, got none"):
        submission.gate_sweep(found, p_abnormal[:0], truth, classes=SMALL)


def test_a_gain_that_may_be_luck_is_not_chosen() -> None:
    found, p_abnormal, truth = make_study()
    grid = [Gate("soft", power=0.0), Gate("soft", power=1.0)]
    sweep = submission.gate_sweep(found, p_abnormal, truth, grid=grid, classes=SMALL, resamples=60)
    assert sweep.loc[2, "gain_low"] > 0 and submission.choose_gate(sweep).power == 1.0
    sweep.loc[2, "gain_low"] = -0.001
    assert submission.choose_gate(sweep) == submission.NORMAL_LINE_ONLY
    sweep[["gain_low", "gain_high"]] = np.nan
    assert submission.choose_gate(sweep).power == 1.0, "without resamples the best score decides"


def test_a_cross_fitted_gate_is_chosen_without_the_images_it_is_applied_to() -> None:
    """Spoil one half, so that a strong gate hurts there: only the other half's setting changes."""
    found, p_abnormal, truth = make_study()
    part = np.random.default_rng(0).permutation(len(p_abnormal)) % 2
    grid = [submission.NORMAL_LINE_ONLY, Gate("soft", power=2.0)]
    gated, before = submission.cross_fitted(found, p_abnormal, truth, grid=grid, classes=SMALL)
    assert before == [grid[1], grid[1]]
    spoilt = p_abnormal.copy()
    spoilt.loc[part == 0, "p_abnormal"] = 1 - spoilt.loc[part == 0, "p_abnormal"]
    _, after = submission.cross_fitted(found, spoilt, truth, grid=grid, classes=SMALL)
    assert after == [grid[1], grid[0]]
    assert (gated["class_id"] == SMALL.normal_id).sum() == len(p_abnormal), "one line for every image"
    own = gated[gated["image_id"].isin(p_abnormal["image_id"][part == 0])]
    applied = submission.apply_gate(before[0], found[found["image_id"].isin(own["image_id"])],
                                    p_abnormal[part == 0], classes=SMALL)  # fmt: skip
    assert lines(own) == lines(applied)
    with pytest.raises(DataError, match="at least 2 images to cross-fit"):
        submission.cross_fitted(found, p_abnormal[:1], truth, classes=SMALL)


def test_gates_are_compared_on_the_same_resamples() -> None:
    found, p_abnormal, truth = make_study()
    soft = submission.gate(found, p_abnormal, power=1.0, classes=SMALL)
    tables = {"ours": soft} | submission.baselines(found, p_abnormal, classes=SMALL)
    images = p_abnormal["image_id"].tolist()
    table = submission.compare_gates(tables, truth, images, classes=SMALL, resamples=60).set_index("name")
    assert table.index.tolist() == [
        "ours",
        submission.LINE_ONLY,
        "no gate, no normal line",
        "every image normal",
    ]
    sweep = submission.gate_sweep(
        found, p_abnormal, truth, grid=[Gate("soft", power=1.0), Gate("soft", power=0.0)], classes=SMALL,
        resamples=60,
    )  # fmt: skip
    columns = [c for c in table if c.startswith(("map", "gain"))]
    assert table.loc["ours", columns].tolist() == sweep.loc[1, columns].tolist()
    assert (table.loc[submission.LINE_ONLY, ["gain", "gain_low", "gain_high"]] == 0).all()
    width = table["map_high"] - table["map_low"], table["gain_high"] - table["gain_low"]
    assert width[1]["ours"] < width[0]["ours"], "what is hard for both cancels"


def test_sweep_tries_reranking_where_there_are_class_probabilities() -> None:
    found, p_abnormal, truth = make_study()
    held = truth.assign(one=1).pivot_table(index="image_id", columns="class_id", values="one", aggfunc="max")
    held = held.reindex(columns=[0, 1]).fillna(0) * 0.9 + 0.05
    held.columns = ["p_0", "p_1"]
    sweep = submission.gate_sweep(
        found, p_abnormal, truth, p_findings=held.reset_index(), classes=SMALL, resamples=0
    )
    best = submission.choose_gate(sweep, column="map_findings")
    assert best.rerank > 0, "perfect knowledge of the class helps"
    assert len(submission.default_grid(rerank=True)) == len(sweep) - 1


def test_sweep_where_no_image_is_normal() -> None:
    """The lungs: every image has boxes, the classifier is constant."""
    truth = detections(("a", 0, 1, 10, 10, 50, 50), ("b", 0, 1, 5, 5, 9, 9)).drop(columns="score")
    sweep = submission.gate_sweep(
        BOXES,
        probabilities(a=0.99, b=0.99),
        truth,
        classes=SMALL,
        resamples=10,
        grid=submission.default_grid(),
    )
    assert sweep["map"][0] == 0
    assert (sweep["map"][1:] == 1).all()
    assert submission.choose_gate(sweep) == submission.NORMAL_LINE_ONLY, "of equals the first"


# -- files -------------------------------------------------------------------------------------------


def test_a_written_file_by_hand(tmp_path: Path) -> None:
    table = detections(
        ("b", 0, np.float32(0.1), 1.234567, 2.0, 3.5, 1000.125),
        ("a", 2, 0.25, 0, 0, 1, 1),
        ("b", 2, 1e-7, 0, 0, 1, 1),
    )
    submission.write(table, ["a", "b", "c"], tmp_path / "new" / "sub.csv", classes=SMALL)
    assert (tmp_path / "new" / "sub.csv").read_text() == (
        "image_id,PredictionString\n"
        "a,2 0.25 0 0 1 1\n"
        "b,0 0.1 1.23 2 3.5 1000.12 2 0.0000001 0 0 1 1\n"
        "c,2 1 0 0 1 1\n"
    )
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sub.csv"], "no half-written file is left"


def test_write_then_parse_gives_the_same_lines(tmp_path: Path) -> None:
    found, p_abnormal, _ = make_study()
    gated = submission.gate(found, p_abnormal, classes=SMALL)
    submission.write(gated, p_abnormal["image_id"], tmp_path / "sub.csv", classes=SMALL)
    back = submission.parse(tmp_path / "sub.csv", classes=SMALL)
    assert back["image_id"].tolist() == gated["image_id"].tolist()
    assert back["class_id"].tolist() == gated["class_id"].tolist()
    assert (back["score"].to_numpy(np.float32) == gated["score"].to_numpy(np.float32)).all()
    assert back[schema.BOX_COLUMNS].to_numpy() == pytest.approx(
        gated[schema.BOX_COLUMNS].to_numpy(), abs=0.00501
    )
    submission.write(back, p_abnormal["image_id"], tmp_path / "again.csv", classes=SMALL)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "sub.csv").read_bytes()


def test_an_image_without_detections_does_not_repeat_its_neighbour(tmp_path: Path) -> None:
    submission.write(BOXES[:1], ["c", "a", "b"], tmp_path / "sub.csv")
    rows = (tmp_path / "sub.csv").read_text().splitlines()[1:]
    assert rows == ["c,14 1 0 0 1 1", "a,0 0.8 10 10 50 50", "b,14 1 0 0 1 1"]
    table = submission.reformat(BOXES[:1], ["c", "a", "b"])
    assert table["image_id"].tolist() == ["c", "a", "b"]
    assert table["class_name"].tolist() == ["No finding", "Aortic enlargement", "No finding"]
    assert table.loc[0, schema.BOX_COLUMNS].tolist() == [0, 0, 1, 1]


def test_files_without_any_detection_or_image(tmp_path: Path) -> None:
    submission.write(BOXES[:0], [], tmp_path / "sub.csv")
    assert len(submission.parse(tmp_path / "sub.csv")) == 0
    table = submission.reformat(BOXES[:0], [])
    assert list(table.columns) == ["image_id", "class_id", "class_name", "score", *schema.BOX_COLUMNS]
    submission.write_table(table, tmp_path / "deep" / "table.csv")
    assert len(pd.read_csv(tmp_path / "deep" / "table.csv")) == 0


def test_a_sliver_keeps_its_area_when_rounded(tmp_path: Path) -> None:
    submission.write(detections(("a", 0, 0.5, 10.001, 10, 10.002, 12)), ["a"], tmp_path / "sub.csv")
    assert submission.parse(tmp_path / "sub.csv")[schema.BOX_COLUMNS].iloc[0].tolist() == [10, 10, 10.01, 12]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("z", 0, 0.5, 0, 0, 5, 5), r"sub\.csv: image z is not one of the 2 expected"),
        (("a", 15, 0.5, 0, 0, 5, 5), r"\(image a\): expected a class id of 0\.\.14, got 15"),
        (("a", 0, 1.5, 0, 0, 5, 5), r"expected a score in \[0, 1\], got 1\.5"),
        (("a", 0, np.nan, 0, 0, 5, 5), r"expected a score in \[0, 1\], got nan"),
        (("a", 0, 0.5, 0, np.inf, 5, 5), "expected finite coordinates, got 0 inf 5 5"),
        (("a", 0, 0.5, 5, 0, 5, 5), "expected x_max above x_min and y_max above y_min, got 5 0 5 5"),
        (("a", 0, 0.5, -1, 0, 5, 5), "expected coordinates of at least 0, got -1 0 5 5"),
        (("a", 14, 0.5, 0, 0, 5, 5), "expected the box 0 0 1 1 for class 14, got 0 0 5 5"),
    ],
)
def test_write_refuses_impossible_lines_and_leaves_the_old_file(
    row: tuple, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "sub.csv"
    path.write_text("old")
    with pytest.raises(SubmissionError, match=message):
        submission.write(detections(row), ["a", "b"], path)
    assert path.read_text() == "old"
    with pytest.raises(SubmissionError, match="image a is listed twice"):
        submission.write(BOXES[:0], ["a", "a"], path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the columns image_id, PredictionString, got none"),
        (
            "image_id,predictions\na,\n",
            "expected the columns image_id, PredictionString, got image_id, predictions",
        ),
        ("image_id,PredictionString\na,\n", r"row 2 \(image a\): expected groups of six .*, got 0 numbers"),
        (
            "image_id,PredictionString\na,14 1 0 0 1\n",
            r"row 2 \(image a\): expected groups of six .*, got 5 numbers",
        ),
        ("image_id,PredictionString\n,14 1 0 0 1 1\n", r"row 2 \(image \?\): expected an image id"),
        (
            "image_id,PredictionString\na,14 1 0 0 1 1 3 0.5 one 2 9 9\n",
            r"row 2 \(image a\): expected a number for x_min of box 2, got 'one'",
        ),
        (
            "image_id,PredictionString\na,14 1 0 0 1 1\nb,14 1 0 0 1 1\na,14 1 0 0 1 1\n",
            r"row 4 \(image a\): the image is already in row 2",
        ),
        (
            "image_id,PredictionString\na,14 1 0 0 1 1\nb,3.5 1 0 0 9 9\n",
            r"row 3 \(image b\): expected a class id",
        ),
        ("image_id,PredictionString\na,15 1 0 0 9 9\n", r"expected a class id of 0\.\.14, got 15"),
        ("image_id,PredictionString\na,1 -0.1 0 0 9 9\n", r"expected a score in \[0, 1\], got -0\.1"),
        ("image_id,PredictionString\na,1 nan 0 0 9 9\n", r"expected a score in \[0, 1\], got nan"),
        (
            "image_id,PredictionString\na,1 0.5 9 0 8 9\n",
            "x_max above x_min and y_max above y_min, got 9 0 8 9",
        ),
        ("image_id,PredictionString\na,14 0.5 0 0 8 9\n", "expected the box 0 0 1 1 for class 14"),
        ("image_id,PredictionString\na,14 1 0 0 1 1,x\n", r"row 2 \(image a\): expected 2 fields, got 3"),
    ],
)
def test_parse_names_file_row_and_image(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text(text)
    with pytest.raises(SubmissionError, match=r"theirs\.csv.*" + message):
        submission.parse(path)


def test_parse_reads_what_others_write(tmp_path: Path) -> None:
    """Other column order, a byte order mark, quotes, blank lines, Windows line ends."""
    path = tmp_path / "theirs.csv"
    path.write_bytes(
        b'\xef\xbb\xbfPredictionString,image_id\r\n"3 1e-2 1.5 2 30 40  14 0.5 0 0 1 1 ",a\r\n\r\n'
    )
    table = submission.parse(path)
    assert lines(table) == [("a", 3, 0.01), ("a", 14, 0.5)]
    assert table.loc[0, schema.BOX_COLUMNS].tolist() == [1.5, 2, 30, 40]
    with pytest.raises(SubmissionError, match="no such submission file"):
        submission.parse(tmp_path / "gone.csv")
    with pytest.raises(SubmissionError, match="expected a CSV file"):
        submission.parse(tmp_path)
    path.write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(SubmissionError, match="expected a CSV file"):
        submission.parse(path)


BOX_COLUMNS = "image_id,file,class_id,score,x_min,y_min,x_max,y_max\n"


def test_a_table_of_boxes_is_read_like_a_submission(tmp_path: Path) -> None:
    (tmp_path / "submission.csv").write_text(
        "image_id,PredictionString\n007,0 0.5 1 2 3.5 4 1 0.25 1 2 3 4\n"
    )
    (tmp_path / "table.csv").write_text(BOX_COLUMNS + "007,x.png,0,0.5,1,2,3.5,4\n007,x.png,1,0.25,1,2,3,4\n")
    submitted, table = (
        submission.read_detections(tmp_path / name, classes=SMALL) for name in ("submission.csv", "table.csv")
    )
    pd.testing.assert_frame_equal(table, submitted)
    (tmp_path / "submission.csv").write_text(
        "image_id, PredictionString\n007, 0 0.5 1 2 3.5 4 1 0.25 1 2 3 4\n"
    )
    blanks = submission.read_detections(tmp_path / "submission.csv", classes=SMALL)
    pd.testing.assert_frame_equal(blanks, submitted)
    (tmp_path / "table.csv").write_text(BOX_COLUMNS)
    assert submission.read_detections(tmp_path / "table.csv").columns.tolist() == schema.DETECTION_COLUMNS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOX_COLUMNS + "a,f,0,x,1,2,3,4\n", "row 2 (image a): expected a number for score"),
        (BOX_COLUMNS + "a,f,0,0.5,1,2,3,4\nb,f,0,0.5,3,2,3,4\n", "row 3 (image b): expected x_max above"),
        (BOX_COLUMNS + "a,f,99,0.5,1,2,3,4\n", "row 2 (image a): expected a class id of 0.."),
        (BOX_COLUMNS + "a,f,0,1.5,1,2,3,4\n", "row 2 (image a): expected a score in [0, 1]"),
        (BOX_COLUMNS + "a,f,0,0.5,1,2\n", "row 2 (image a): expected 8 fields, got 6"),
        ("image_id,class_id\na,0\n", "PredictionString, or image_id, class_id, score, x_min"),
        ("", "expected the columns image_id, PredictionString, got none"),
    ],
)
def test_a_table_of_boxes_names_file_row_and_image(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(SubmissionError, match=re.escape(message)):
        submission.read_detections(path)


def test_check_against_the_sample(tmp_path: Path) -> None:
    sample, path = tmp_path / "sample_submission.csv", tmp_path / "sub.csv"
    submission.write(submission.all_normal(["a", "b", "c"]), ["a", "b", "c"], sample)
    assert submission.sample_ids(sample) == ["a", "b", "c"]
    submission.write(BOXES, ["c", "b", "a"], path)
    assert len(submission.check(path, sample)) == 4, "any order"
    submission.write(BOXES[:2], ["a", "c"], path)
    with pytest.raises(
        SubmissionError,
        match=r"expected the 3 images of sample_submission.csv, got 2: 1 missing \(first: b\)",
    ):
        submission.check(path, sample)
    submission.write(BOXES, ["a", "b", "c", "d"], path)
    with pytest.raises(SubmissionError, match=r"1 not expected \(first: d\)"):
        submission.check(path, sample)
    sample.write_text("image_id,PredictionString\na,\na,\n")
    with pytest.raises(SubmissionError, match=r"sample_submission\.csv: image a is listed twice"):
        submission.sample_ids(sample)


def test_a_phantom_sample_submission_is_the_all_normal_one(phantom_dir: Path, tmp_path: Path) -> None:
    sample = phantom_dir / "sample_submission.csv"
    ids = submission.sample_ids(sample)
    submission.write(submission.all_normal(ids), ids, tmp_path / "sub.csv")
    pd.testing.assert_frame_equal(submission.check(tmp_path / "sub.csv", sample), submission.parse(sample))
