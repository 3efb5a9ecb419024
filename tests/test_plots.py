"""Figures: what they draw, what they say when there is nothing to draw, and that they leave no trace."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from cxr import annotations as ann
from cxr import plots
from cxr.plots import _style
from cxr.schema import ANNOTATION_COLUMNS, VINBIGDATA, ClassTable

LUNGS = ClassTable(("Right Lung", "Left Lung", "No finding"))


DOLLARS = "cost $5^{$ \\frac"
"""Where mathematics is read, this cannot be drawn."""


@pytest.fixture
def readings() -> pd.DataFrame:
    """Two abnormal images and a normal one, three readers each."""
    rows = []
    for image, class_id, readers in (("a", 0, "123"), ("a", 3, "12"), ("b", 3, "1"), ("b", 8, "23")):
        rows += [
            (image, VINBIGDATA.name(class_id), class_id, f"R{r}", 10.0, 20.0, 60.0 + int(r), 50.0)
            for r in readers
        ]
    rows += [("n", "No finding", 14, f"R{r}", *[np.nan] * 4) for r in "123"]
    return pd.DataFrame(rows, columns=ANNOTATION_COLUMNS)


@pytest.fixture
def sizes() -> pd.DataFrame:
    return pd.DataFrame({"image_id": ["a", "b", "n"], "rows": 100, "columns": 80})


def texts(figure: Figure) -> str:
    """All words of a figure."""
    return "\n".join(t.get_text() for t in figure.findobj(mpl.text.Text))


def render(figure: Figure) -> Image.Image:
    """The figure as a picture, as a notebook or a report would show it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=50, bbox_inches="tight")
    return Image.open(buffer)


def no_overlap(figure: Figure) -> None:
    """No axes lies on another one, colour bars aside."""
    figure.draw_without_rendering()
    boxes = [axes.get_window_extent() for axes in figure.axes]
    for i, one in enumerate(boxes):
        for other in boxes[i + 1 :]:
            wide = min(one.x1, other.x1) - max(one.x0, other.x0)
            high = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert wide <= 1 or high <= 1


# -- the style ----------------------------------------------------------------------------------------


def test_figures_change_no_setting_and_stay_out_of_pyplot(readings: pd.DataFrame) -> None:
    before = dict(mpl.rcParams)
    figure = plots.class_counts(ann.class_counts(readings), classes=VINBIGDATA)
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []
    assert isinstance(figure, Figure)


def test_a_notebook_can_show_a_figure() -> None:
    png = plots.message("nothing")._repr_png_()
    assert Image.open(io.BytesIO(png)).format == "PNG"


def test_a_saved_figure_is_shown_as_it_was_saved(tmp_path: Path) -> None:
    figure = plots.message("nothing")
    figure.savefig(tmp_path / "a.png", metadata={"Description": "caption"})
    assert figure._repr_png_() == (tmp_path / "a.png").read_bytes()


def test_luminance_and_contrast() -> None:
    assert _style.luminance("#ffffff") == pytest.approx(1.0)
    assert _style.luminance("#000000") == 0.0
    assert _style.luminance("#ff0000") == pytest.approx(0.2126)
    assert _style.contrast("#ffffff") == "#000000"
    assert _style.contrast("#000080") == "#ffffff"


@pytest.mark.parametrize("class_id", range(len(VINBIGDATA.names)))
def test_class_colours_are_visible_on_white(class_id: int) -> None:
    assert _style.luminance(_style.ink(VINBIGDATA.color(class_id))) < 0.56


def test_new_grid_leaves_unused_places_blank() -> None:
    figure, axes = _style.new_grid(4, columns=3, width=1, height=1)
    assert len(axes) == 4
    assert len(figure.axes) == 4
    assert tuple(figure.get_size_inches()) == (3.0, 2.0)


# -- annotations --------------------------------------------------------------------------------------


def test_class_counts_puts_the_commonest_first_and_normal_last(readings: pd.DataFrame) -> None:
    figure = plots.class_counts(ann.class_counts(readings), classes=VINBIGDATA)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[0] == "Cardiomegaly"
    assert names[-1] == "No finding"
    assert len(names) == 15
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths[0] == 2
    no_overlap(figure)


def test_class_counts_leaves_out_a_normal_class_without_rows(readings: pd.DataFrame) -> None:
    found = readings[readings.class_id < 2].assign(class_name="Right Lung")
    figure = plots.class_counts(ann.class_counts(found, classes=LUNGS), classes=LUNGS)
    assert "No finding" not in texts(figure)


def test_reader_counts_draws_both_kinds(readings: pd.DataFrame) -> None:
    figure = plots.reader_counts(ann.reader_counts(readings))
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == [1, 1, 1, 2, 2, 2]


def test_agreement_needs_two_readers(readings: pd.DataFrame) -> None:
    one = readings[readings.rad_id == "R1"]
    measures = {"box_f1": "boxes"}
    assert "One reader" in texts(plots.reader_agreement(ann.reader_agreement(one), measures=measures))
    assert "One reader" in texts(plots.agreement_by_class(ann.positives_by_reader_count(one)))
    three = plots.reader_agreement(ann.reader_agreement(readings), measures=measures)
    assert [label.get_text() for label in three.axes[0].get_xticklabels()] == ["R1", "R2", "R3"]


def test_agreement_by_class_shares_add_up(readings: pd.DataFrame) -> None:
    figure = plots.agreement_by_class(ann.positives_by_reader_count(readings))
    bars = figure.axes[0].patches
    rows = {round(bar.get_y(), 3) for bar in bars}
    for row in rows:
        assert sum(b.get_width() for b in bars if round(b.get_y(), 3) == row) == pytest.approx(1.0)


def test_cooccurrence_writes_the_share_of_the_row(readings: pd.DataFrame) -> None:
    words = texts(plots.cooccurrence(readings, classes=VINBIGDATA))
    assert "Cardiomegaly (2)" in words  # of which one has aortic enlargement and one a nodule
    assert "50%" in words
    assert "100%" in words


def test_box_geometry_in_shares_or_pixels(readings: pd.DataFrame, sizes: pd.DataFrame) -> None:
    shares = plots.box_geometry(ann.box_geometry(readings, sizes), classes=VINBIGDATA)
    pixels = plots.box_geometry(ann.box_geometry(readings), classes=VINBIGDATA)
    assert "share of the image" in texts(shares)
    assert "original pixels" in texts(pixels)
    no_overlap(shares)


def test_heat_maps_one_map_a_finding_with_boxes(readings: pd.DataFrame, sizes: pd.DataFrame) -> None:
    maps = ann.heat_maps(readings, sizes)
    counts = [int((readings.class_id == i).sum()) for i in VINBIGDATA.finding_ids]
    figure = plots.heat_maps(maps, counts, classes=VINBIGDATA)
    assert len(figure.axes) == 3
    assert "3 boxes" in texts(figure)


def test_empty_tables_get_a_sentence(readings: pd.DataFrame) -> None:
    normal = readings[readings.class_id == 14]
    assert "No finding" in texts(plots.cooccurrence(normal, classes=VINBIGDATA))
    assert "No box" in texts(plots.boxes_per_image(normal, classes=VINBIGDATA))
    assert "No box" in texts(plots.box_geometry(ann.box_geometry(normal), classes=VINBIGDATA))
    assert "No box" in texts(plots.heat_maps(np.zeros((14, 4, 4)), [0] * 14, classes=VINBIGDATA))


# -- headers ------------------------------------------------------------------------------------------


def header_table(**columns: list[str]) -> pd.DataFrame:
    from cxr.schema import HEADER_COLUMNS

    n = len(next(iter(columns.values())))
    return pd.DataFrame(
        {"image_id": [f"i{k}" for k in range(n)]} | {c: [""] * n for c in HEADER_COLUMNS} | columns
    )


def test_header_facts_names_what_it_counts() -> None:
    table = header_table(
        **{
            "Transfer Syntax UID": ["1.2.840.10008.1.2", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2"],
            "Patient's Age": ["045Y", "238Y", ""],
            "Window Width": ["1", "4096", "99999"],
            "Bits Stored": ["12", "12", "12"],
        }
    )
    words = texts(plots.header_facts(table))
    for expected in (
        "Implicit VR little endian",
        "JPEG 2000 lossless",
        "usable",
        "over 110 years",
        "missing",
    ):
        assert expected in words
    for expected in ("one grey level or less", "within the bit range", "over 1.2 x the bit range"):
        assert expected in words


def test_header_facts_without_headers() -> None:
    assert "No header" in texts(plots.header_facts(header_table(Rows=[]).iloc[:0]))


def test_failures_counts_reasons() -> None:
    table = pd.DataFrame({"reason": ["empty", "empty", "no_pixel_data"]})
    words = texts(plots.failures(table, stored=7))
    assert "empty" in words
    assert "7 were stored" in words
    assert "No file failed" in texts(plots.failures(table.iloc[:0], stored=7))


# -- images -------------------------------------------------------------------------------------------


def test_scaled_boxes_go_from_original_to_drawn_pixels() -> None:
    rows = pd.DataFrame({"x_min": [100.0], "y_min": [200.0], "x_max": [300.0], "y_max": [400.0]})
    assert plots.scaled_boxes(rows, (2000, 1000), (500, 250)) == [(25.0, 50.0, 75.0, 100.0)]


def test_reader_marks_one_colour_a_reader(readings: pd.DataFrame) -> None:
    marks = plots.reader_marks(readings[readings.image_id == "a"], (100, 80), (100, 80), classes=VINBIGDATA)
    assert len(marks) == 5
    assert len({mark.color for mark in marks}) == 3
    assert marks[0].label == "R1 Aortic enlargement"
    assert plots.reader_marks(readings[readings.image_id == "n"], (9, 9), (9, 9), classes=VINBIGDATA) == []


def test_class_marks_write_the_score_and_leave_out_the_normal_class() -> None:
    rows = pd.DataFrame(
        {"class_id": [3, 14], "score": [0.876, 0.5], "x_min": [1.0, 0.0], "y_min": [1.0, 0.0]}
        | {"x_max": [5.0, 1.0], "y_max": [5.0, 1.0]}
    )
    (mark,) = plots.class_marks(rows, (10, 10), (10, 10), classes=VINBIGDATA)
    assert mark.label == "Cardiomegaly 0.88"
    assert mark.color == VINBIGDATA.color(3)


def test_labels_of_equal_boxes_do_not_cover_each_other() -> None:
    marks = [plots.Mark((40.0, 60.0, 90.0, 110.0), "#ffffff", f"reader {i}") for i in range(5)]
    figure = plots.gallery([plots.Panel(np.zeros((200, 160), np.uint8), "one", marks)])
    figure.draw_without_rendering()
    labels = [t for t in figure.axes[0].texts if t.get_text().startswith("reader")]
    extents = [label.get_window_extent() for label in labels]
    assert len(extents) == 5
    for i, one in enumerate(extents):
        assert not any(one.overlaps(other) for other in extents[i + 1 :])


def test_gallery_stays_within_the_image_and_says_when_it_is_empty() -> None:
    mark = plots.Mark((-5.0, -5.0, 300.0, 300.0), "#ff0000", "out of the image")
    figure = plots.gallery([plots.Panel(np.zeros((50, 40), np.uint8), "", [mark])] * 5, columns=4, title="t")
    assert figure.axes[0].get_xlim() == (-0.5, 39.5)
    assert figure.axes[0].get_ylim() == (49.5, -0.5)
    assert "none here" in texts(plots.gallery([], empty="none here"))


class OneImage:
    """A store with one image."""

    def __getitem__(self, image_id: str) -> np.ndarray:
        return np.full((50, 40), 128, np.uint8)

    def original_size(self, image_id: str) -> tuple[int, int]:
        return (500, 400)


def test_outcome_panel_colours_by_outcome_and_keeps_hits_when_there_are_many() -> None:
    box = {"x_min": 100.0, "y_min": 100.0, "x_max": 200.0, "y_max": 200.0, "class_id": 0, "image_id": "a"}
    found = pd.DataFrame(
        [{**box, "score": s, "kind": k} for s, k in [(0.9, "background")] * 9 + [(0.1, "hit")]]
    )
    truth = pd.DataFrame([{**box, "kind": "hit"}, {**box, "class_id": 3, "kind": "missed"}])
    panel = plots.outcome_panel(OneImage(), "a", found, truth, classes=VINBIGDATA, most=4)
    solid = [mark for mark in panel.marks if not mark.dashed]
    assert len(solid) == 4
    assert solid[0].label == "Aortic enlargement 0.10"
    assert {mark.color for mark in panel.marks} == {color for color, _, _ in plots.OUTCOME_LEGEND}
    assert panel.marks[0].box == (10.0, 10.0, 20.0, 20.0)
    assert [mark.label for mark in panel.marks if mark.dashed] == ["", "missed Cardiomegaly"]


def test_before_after_pairs() -> None:
    stored = np.arange(12, dtype=np.uint16).reshape(4, 3)
    figure = plots.before_after([(stored, np.zeros((4, 3), np.uint8), "file", "store")] * 3)
    assert len(figure.axes) == 6
    assert "No pair" in texts(plots.before_after([]))


# -- features and folds -------------------------------------------------------------------------------


def test_single_feature_auc_by_hand() -> None:
    features = pd.DataFrame({"image_id": list("abcd"), "up": [1, 2, 3, 4], "tied": [1, 1, 1, 1]})
    features["header_gone"] = np.nan
    abnormal = pd.Series([0, 1, 0, 1], index=list("abcd"))
    table = plots.single_feature_auc(features, abnormal, least=2).set_index("feature")
    assert table.loc["up", "auc"] == 0.75  # 2 > 1, 4 > 1, 4 > 3, but not 2 > 3
    assert table.loc["tied", "auc"] == 0.5
    assert np.isnan(table.loc["header_gone", "auc"])
    assert table["group"].tolist() == ["pixel", "pixel", "header"]


def test_single_feature_auc_equals_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(1)
    values, truth = rng.integers(0, 9, 60), rng.integers(0, 2, 60)
    ids = [f"i{k}" for k in range(60)]
    table = plots.single_feature_auc(
        pd.DataFrame({"image_id": ids, "x": values}), pd.Series(truth, index=ids)
    )
    assert table["auc"][0] == pytest.approx(roc_auc_score(truth, values))


def test_feature_figures_with_one_kind_of_image() -> None:
    features = pd.DataFrame({"image_id": list("abcdef"), "x": range(6), "y": [2, 1, 4, 3, 6, 5]})
    abnormal = pd.Series(1, index=list("abcdef"))
    table = plots.single_feature_auc(features, abnormal)
    assert "One kind" in texts(plots.feature_separation(table))
    render(plots.feature_distributions(features, abnormal, ["x", "y"]))
    assert "Rank correlation" in texts(plots.feature_correlation(features, ["x", "y"]))
    version = pd.Series(["v"] * 5 + [""], index=list("abcdef"))
    assert "(empty) (1)" in texts(plots.group_shares(version, abnormal, title="Version"))
    assert "empty for every" in texts(plots.group_shares(version * 0, abnormal, title="Version"))


def test_fold_balance_writes_counts() -> None:
    labels = pd.DataFrame({"image_id": list("aabcd"), "class_id": [0, 0, 0, 3, 14]})
    folds = pd.DataFrame({"image_id": list("abcd"), "fold": [0, 1, 0, 1]})
    cells = [t.get_text() for t in plots.fold_balance(labels, folds, classes=VINBIGDATA).axes[0].texts]
    assert cells == ["1", "1", "1", "0", "0", "1"]


# -- classifier ---------------------------------------------------------------------------------------


def test_roc_of_a_perfect_model_and_of_one_kind_only() -> None:
    truth = np.array([0, 0, 1, 1])
    words = texts(plots.roc_and_pr(truth, {"perfect": np.array([0.1, 0.2, 0.8, 0.9])}, resamples=5))
    assert "perfect  1.000" in words
    assert "One kind" in texts(plots.roc_and_pr(np.ones(4), {"any": np.ones(4)}))


def test_classifier_figures_render() -> None:
    bins = pd.DataFrame({"bin": [0, 1], "p_mean": [0.2, 0.8], "observed": [0.1, 0.9], "images": [5, 0],
                         "low": [0.0, 0.7], "high": [0.3, 1.0]})  # fmt: skip
    render(plots.calibration({"raw": bins, "calibrated": bins}))
    names = ("auc", "ap", "accuracy", "brier", "auc_gain")
    row = {f"{s}{e}": 0.5 for s in names for e in ("", "_low", "_high")}
    table = pd.DataFrame([{"setting": "pixel", **row}, {"setting": "detector"}])
    render(plots.ablation(table))
    words = texts(plots.ablation(table))
    assert "Accuracy at one half" in words and "not tried:\ndetector" in words
    assert "One kind" in texts(plots.ablation(pd.DataFrame([{"setting": "pixel", **row, "auc": np.nan}])))
    drops = pd.DataFrame({"feature": ["a"], "group": ["pixel"], "auc_drop": [0.1], "auc_drop_std": [0.01]})
    render(plots.permutation_importance(drops))
    assert "none" in texts(plots.permutation_importance(drops.assign(auc_drop=0.0)))
    assert "none" in texts(plots.permutation_importance(pd.DataFrame(columns=drops.columns)))
    render(plots.probability_histogram(np.array([0, 1]), np.array([0.2, 0.7])))
    shap = pd.DataFrame({"image_id": ["i", "j"], "x": [0.2, -0.1], "y": [0.0, 0.05]})
    figure = plots.shap_summary(shap, pd.DataFrame({"image_id": ["j", "i"], "x": [1.0, np.nan], "y": [0, 1]}))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["x", "y"]
    assert "none" in texts(plots.shap_summary(shap.assign(x=0.0, y=0.0), shap))


# -- training -----------------------------------------------------------------------------------------


def test_training_curves_mark_the_best_epoch() -> None:
    metrics = pd.DataFrame({"epoch": [0, 1, 2], "loss": [3.0, 2.0, 1.0], "val_map": [0.1, 0.3, 0.2]})
    figure = plots.training_curves(metrics, losses={"loss": "all"}, scores={"val_map": "mAP"}, best="val_map")
    assert "0.300" in texts(figure)
    empty = plots.training_curves(metrics.iloc[:0], losses={"loss": "all"}, scores={})
    assert "No epoch" in texts(empty)
    never = metrics.assign(val_map=np.nan)
    render(plots.training_curves(never, losses={}, scores={"val_map": "mAP"}, best="val_map"))


def test_anchor_fit_draws_every_anchor() -> None:
    figure = plots.anchor_fit(
        np.array([20.0, 200.0]), np.array([1.0, 2.0]), sizes=[32, 64], aspects=[0.5, 1, 2]
    )
    assert len(figure.axes[0].collections[1].get_offsets()) == 6
    assert "No training box" in texts(plots.anchor_fit(np.empty(0), np.empty(0), sizes=[32], aspects=[1]))


# -- evaluation ---------------------------------------------------------------------------------------


def test_per_class_ap_leaves_out_classes_without_truth() -> None:
    table = pd.DataFrame({"class_id": [0, 3, 14], "ap": [0.2, np.nan, 0.9], "n_truth": [4, 0, 7],
                          "low": [0.1, np.nan, 0.8], "high": [0.3, np.nan, 1.0]})  # fmt: skip
    figure = plots.per_class_ap(table, classes=VINBIGDATA)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["No finding (7)", "Aortic enlargement (4)"]
    assert "No truth" in texts(plots.per_class_ap(table.assign(ap=np.nan), classes=VINBIGDATA))


def test_pr_curves_and_froc() -> None:
    curve = (np.array([0.5, 1.0]), np.array([1.0, 0.5]))
    figure = plots.pr_curves({0: curve, 1: curve}, {0: 0.75, 1: float("nan")}, classes=LUNGS)
    assert len(figure.axes) == 1
    assert "Right Lung  0.75" in texts(figure)
    mean = (np.array([0.125, 8]), np.array([0.1, 0.6]))
    words = texts(plots.froc(mean, {0: curve, 1: (np.empty(0), np.empty(0))}, classes=LUNGS))
    assert "1/8" in words
    assert "Right Lung" in words
    assert "No class" in texts(plots.pr_curves({}, {}, classes=LUNGS))
    nothing = (np.empty(0), np.empty(0))
    assert plots.pr_curves({0: nothing}, {0: 0.0}, classes=LUNGS).axes, (
        "a class of which nothing was detected"
    )
    assert "No finding has truth" in texts(plots.froc((np.empty(0), np.empty(0)), {}, classes=LUNGS))


def test_confusion_and_errors() -> None:
    matrix = pd.DataFrame([[3, 1], [2, 0]], index=["x", "background"], columns=["x", "background"])
    cells = [t.get_text() for t in plots.confusion(matrix).axes[0].texts]
    assert cells == ["3", "1", "2", ""]
    assert "no confusion" in texts(plots.confusion(matrix * 0))
    counts = pd.DataFrame({"hit": [3, 0], "background": [1, 0]}, index=["x", "never seen"])
    figure = plots.error_breakdown(counts)
    assert "never seen" not in texts(figure)
    assert "no errors" in texts(plots.error_breakdown(counts * 0))


def test_scores_with_intervals() -> None:
    table = pd.DataFrame(
        {"name": ["a", "b"], "value": [0.5, 0.25], "low": [0.4, np.nan], "high": [0.6, np.nan]}
    )
    assert "0.250" in texts(plots.scores_with_intervals(table, title="t"))
    assert "nothing to compare" in texts(plots.scores_with_intervals(table.iloc[:0], title="t"))


def test_readers_and_detector_stand_in_pairs() -> None:
    names = ["map", "low", "high", "detector", "detector_low", "detector_high"]
    table = pd.DataFrame([[0.5, 0.4, 0.6, 0.25, 0.2, 0.3]], columns=names).assign(rad_id="R8", abnormal=1234)
    figure = plots.reader_ceiling(table)
    words = texts(figure)
    assert "R8 (1,234)" in words and "0.500" in words and "0.250" in words
    assert plots.reader_ceiling(table.assign(low=np.nan, high=np.nan)).axes
    assert "no ceiling" in texts(plots.reader_ceiling(table.iloc[:0]))


def sweep_table() -> pd.DataFrame:
    rows = [("all-normal", 0, 0, 0), ("none", 0, 0, 0), ("soft", 0, 0, 0), ("soft", 1, 0, 0)]
    rows += [("soft", 1, 0, 0.5), ("cut", 0, 0.1, 0), ("cut", 0, 0.2, 0)]
    table = pd.DataFrame(rows, columns=["mode", "power", "low", "rerank"])
    table["map"] = np.linspace(0.1, 0.3, len(table))
    table["map_findings"] = table["map"] * 0.8
    ends = {f"{name}_{end}": table[name] + sign * 0.05
            for name in ("map", "map_findings") for end, sign in (("low", -1), ("high", 1))}  # fmt: skip
    return table.assign(**ends)


@pytest.mark.parametrize(
    "chosen",
    [
        None,
        {"mode": "soft", "power": 1, "low": 0, "rerank": 0.5},
        {"mode": "cut", "power": 0, "low": 0.1, "rerank": 0},
        {"mode": "none", "power": 0, "low": 0, "rerank": 0},
    ],
)
def test_gate_sweep_marks_the_chosen_gate(chosen: dict[str, object] | None) -> None:
    figure = plots.gate_sweep(sweep_table(), chosen=chosen)
    stars = [line for axes in figure.axes for line in axes.lines if line.get_marker() == "*"]
    expected = {"soft": 2, "cut": 1, "none": 0}  # soft: over all classes, and over the findings
    assert len(stars) == (expected[str(chosen["mode"])] if chosen else 0)


def test_gate_sweep_keeps_its_parts_apart() -> None:
    no_overlap(plots.gate_sweep(sweep_table()))


def test_gate_sweep_without_gates() -> None:
    assert "No gate" in texts(plots.gate_sweep(sweep_table().head(1)))


def test_operating_point_and_scores() -> None:
    table = pd.DataFrame(
        {"threshold": [0.1, 0.5], "precision": [0.2, 0.9], "recall": [0.9, 0.3], "f1": [0.3, 0.4]}
    )
    assert "highest F1" in texts(plots.operating_point(table, threshold=0.5))
    found = pd.DataFrame({"score": [0.9, 0.2]})
    assert "hits (1)" in texts(plots.detection_scores(found, np.array([True, False])))
    assert "No detection" in texts(plots.detection_scores(found.iloc[:0], np.empty(0)))


def test_text_from_data_is_drawn_as_it_is(readings: pd.DataFrame):
    """In a title, a bar's name, a legend, a mark and a message."""
    names = ClassTable((DOLLARS, *VINBIGDATA.names[1:]))
    table = readings.assign(class_name=readings.class_name.replace(VINBIGDATA.name(0), DOLLARS))
    panel = plots.Panel(np.zeros((20, 20), np.uint8), DOLLARS, [plots.Mark((1, 2, 9, 9), "#ff0000", DOLLARS)])
    figures = [
        plots.gallery([panel], columns=1, title=DOLLARS, legend=[("#ff0000", DOLLARS, False)]),
        plots.class_counts(ann.class_counts(table, classes=names), classes=names),
        plots.boxes_per_image(table, classes=names),
        plots.message(DOLLARS),
    ]
    for figure in figures:
        figure.savefig(io.BytesIO(), format="png")
        texts = [t for t in figure.findobj(mpl.text.Text) if "$" in t.get_text()]
        assert not any(text.get_parse_math() for text in texts)
