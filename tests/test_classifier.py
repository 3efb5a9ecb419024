"""The classifier: out of fold means out of fold, calibrated, safe to load, and honest about leaks."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xgboost as xgb
from sklearn import metrics as sk

from cxr import classifier, features, phantom, schema, splits
from cxr.annotations import read_annotations
from cxr.classifier import Recipe
from cxr.classifier.calibration import Calibrator, fit_calibrator
from cxr.classifier.scores import auc
from cxr.errors import CheckpointError, DataError, ParameterError
from cxr.phantom import picture
from cxr.phantom.headers import draw_header
from cxr.preprocess import preprocess

FAST = Recipe(max_rounds=20)


def ids(count: int) -> list[str]:
    return [f"image{place:05d}" for place in range(count)]


def make_labels(count: int, *, abnormal: float = 0.3, seed: int = 0) -> pd.Series:
    draws = np.random.default_rng(seed)
    return pd.Series((draws.random(count) < abnormal).astype(int), index=ids(count), name="abnormal")


def make_folds(labels: pd.Series, folds: int = 5) -> pd.DataFrame:
    """Folds with the same share of abnormal images."""
    order = labels.sort_values(kind="stable").index
    return pd.DataFrame({"image_id": order, "fold": np.arange(len(order)) % folds})


def make_features(labels: pd.Series, *, signal: float, noise: int = 6, seed: int = 0) -> pd.DataFrame:
    """One telling feature and some that tell nothing."""
    draws = np.random.default_rng(seed)
    table = pd.DataFrame(
        draws.normal(size=(len(labels), 1 + noise)), columns=["entropy", *[f"lbp_{i}" for i in range(noise)]]
    )
    table["entropy"] += signal * labels.to_numpy()
    table.insert(0, "image_id", labels.index)
    return table


def header_table(labels: pd.Series, *, leak: bool, seed: int = 0) -> pd.DataFrame:
    """The phantom's headers without its pictures."""
    draws = np.random.default_rng(seed)
    rows = []
    for image_id, abnormal in labels.items():
        header = draw_header(bool(abnormal), leak=leak, female=bool(draws.random() < 0.5), rng=draws)
        spacing = header.pixel_spacing
        window = header.window or ("", "")
        rows.append(
            dict.fromkeys(schema.HEADER_COLUMNS, "")
            | {
                "image_id": image_id,
                "Transfer Syntax UID": header.transfer_syntax,
                "SOP Class UID": header.sop_class,
                "Version": header.version,
                "Photometric Interpretation": "MONOCHROME1" if header.inverted else "MONOCHROME2",
                "Bits Stored": str(header.bits_stored),
                "High Bit": str(header.bits_stored - 1),
                "Patient's Sex": header.sex,
                "Patient's Age": header.age or "",
                "Pixel Spacing": "" if spacing is None else f"[{spacing:g}, {spacing:g}]",
                "Window Center": str(window[0]),
                "Window Width": str(window[1]),
            }
        )
    return pd.DataFrame(rows)


# -- out of fold -------------------------------------------------------------------------------------


def test_memorisable_noise_stays_at_an_auc_of_one_half() -> None:
    """Every image has a number of its own; trees know them by heart, out of fold it helps nobody."""
    labels = make_labels(500)
    draws = np.random.default_rng(1)
    table = pd.DataFrame({f"lbp_{i}": draws.permutation(len(labels)) for i in range(10)})
    table.insert(0, "image_id", labels.index)
    result = classifier.cross_validate(table, labels, make_folds(labels), Recipe(max_rounds=25))
    assert auc(result.oof["abnormal"], result.oof["p_raw"]) == pytest.approx(0.5, abs=0.06)
    assert auc(result.oof["abnormal"], result.oof["p_abnormal"]) == pytest.approx(0.5, abs=0.06)
    seen = result.models[0]
    inside = result.oof["fold"] != 0
    in_sample = auc(result.oof["abnormal"][inside], seen.margin(result.features[inside])[:, 0])
    assert in_sample > 0.6, "the same trees do know the images they were fitted on"


def test_labels_of_a_fold_do_not_reach_what_scores_it() -> None:
    """Turn the labels of one fold round: its own probabilities do not move by a bit."""
    labels = make_labels(200)
    table, folds = make_features(labels, signal=1.5), make_folds(labels)
    held_out = labels.index.isin(folds["image_id"][folds["fold"] == 2])
    turned = labels.where(~held_out, 1 - labels)
    recipe = Recipe(trials=2, max_rounds=6)
    first = classifier.cross_validate(table, labels, folds, recipe).oof
    second = classifier.cross_validate(table, turned, folds, recipe).oof
    fold_two = first["fold"] == 2
    pd.testing.assert_series_equal(first["p_abnormal"][fold_two], second["p_abnormal"][fold_two])
    assert not first["p_abnormal"][~fold_two].equals(second["p_abnormal"][~fold_two])


def test_every_labelled_image_is_scored_once_by_a_model_that_did_not_see_it() -> None:
    labels = make_labels(120)
    table, folds = make_features(labels, signal=3.0), make_folds(labels)
    calls: list[tuple[int, int]] = []
    result = classifier.cross_validate(
        table, labels, folds, FAST, progress=lambda done, total: calls.append((done, total))
    )
    assert result.oof["image_id"].tolist() == sorted(labels.index)
    assert calls == [(place, 5) for place in range(1, 6)]
    expected = folds.set_index("image_id")["fold"].loc[result.oof["image_id"]].tolist()
    assert result.oof["fold"].tolist() == expected
    for fold, model in result.models.items():
        assert model.images == int((folds["fold"] != fold).sum())
    assert auc(result.oof["abnormal"], result.oof["p_abnormal"]) > 0.9


def test_the_same_seed_gives_the_same_bits_whatever_the_order_of_the_rows() -> None:
    labels = make_labels(120)
    table, folds = make_features(labels, signal=1.0), make_folds(labels)
    recipe = replace(FAST, trials=2, seed=4)
    first = classifier.cross_validate(table, labels, folds, recipe).oof
    second = classifier.cross_validate(
        table.iloc[::-1].reset_index(drop=True), labels, folds.iloc[::-1], recipe
    ).oof
    pd.testing.assert_frame_equal(first, second)


def test_cross_validation_refuses_what_it_cannot_do() -> None:
    labels = make_labels(30)
    table, folds = make_features(labels, signal=1.0), make_folds(labels)
    with pytest.raises(DataError, match="expected at least 2 folds with labelled images, got 1"):
        classifier.cross_validate(table, labels, folds.assign(fold=0))
    with pytest.raises(DataError, match=r"1 images have no features \(first: image00003\)"):
        classifier.cross_validate(table.drop(index=3), labels, folds)
    gaps = table.assign(detector_score_0=np.where(np.arange(30) < 6, 0.5, np.nan))
    with pytest.raises(DataError, match=r"of 24 images have no detector features .* every fold are needed"):
        classifier.cross_validate(gaps, labels, folds, Recipe(feature_groups=("pixel", "detector")))
    with pytest.raises(DataError, match="no feature of the groups header"):
        classifier.cross_validate(table, labels, folds, Recipe(feature_groups=("header",)))
    with pytest.raises(ParameterError, match="trials: expected at least 1, got 0"):
        Recipe(trials=0)
    with pytest.raises(ParameterError, match=r"feature_groups: expected one of pixel, .*, got 'pixels'"):
        Recipe(feature_groups=("pixels",))
    with pytest.raises(DataError, match="expected labelled images, got none"):
        classifier.fit(table, labels[:0])


def test_the_search_is_seeded_and_says_loudly_when_the_clock_stopped_it(caplog) -> None:
    labels = make_labels(80)
    table = make_features(labels, signal=1.0)
    recipe = replace(FAST, trials=4, seed=1)
    full = classifier.fit(table, labels, recipe)
    assert full.parameters["tried"] == 4 and full.message == ""
    assert full.parameters == classifier.fit(table, labels, recipe).parameters
    impatient = replace(FAST, trials=1000, search_seconds=0.0)
    hurried = classifier.fit(table, labels, impatient)
    assert hurried.parameters["tried"] == 1
    assert "stopped the search after 1 of 1000 settings" in hurried.message
    assert hurried.message in caplog.text and caplog.records[0].levelname == "WARNING"
    cross = classifier.cross_validate(table, labels, make_folds(labels), impatient)
    assert "stopped the search" in cross.message


def test_settings_that_were_found_are_used_again_without_a_search() -> None:
    labels = make_labels(80)
    table = make_features(labels, signal=1.0)
    recipe = replace(FAST, trials=4, seed=1)
    found = classifier.fit(table, labels, recipe)
    again = classifier.fit(table, labels, recipe, tree_settings=found.parameters)
    assert again.parameters["tried"] == 1 and again.rounds == found.rounds
    assert again.predict(table).equals(found.predict(table))


def test_the_trees_do_not_depend_on_the_number_of_threads() -> None:
    labels = make_labels(2000)
    table = make_features(labels, signal=1.0)
    one, two = (classifier.fit(table, labels, replace(FAST, threads=threads)) for threads in (1, 2))
    assert one.predict(table).equals(two.predict(table))


# -- one class, several classes ----------------------------------------------------------------------


@pytest.mark.parametrize(("value", "kind"), [(1, "abnormal"), (0, "normal")])
def test_a_single_class_gives_a_constant_and_says_so(value: int, kind: str, tmp_path) -> None:
    labels = make_labels(40) * 0 + value
    table, folds = make_features(labels, signal=0.0), make_folds(labels)
    result = classifier.cross_validate(table, labels, folds)
    assert result.message.startswith(f"All 40 training images are {kind}: there is nothing to tell apart")
    assert result.oof["p_abnormal"].nunique() == 1
    assert result.oof["p_abnormal"][0] == pytest.approx((32 * value + 1) / 34)
    assert classifier.permutation_importance(result)["auc_drop"].isna().all()
    assert (classifier.shap_values(result).iloc[:, 1:] == 0).all(axis=None)
    model = classifier.fit(table, labels)
    classifier.save(model, tmp_path / "model.ubj")
    loaded = classifier.load(tmp_path / "model.ubj")
    assert loaded.message == model.message != ""
    assert loaded.predict(table)["p_abnormal"].tolist() == [pytest.approx((40 * value + 1) / 42)] * 40
    only = classifier.ablation({"header": result}, resamples=10)
    assert np.isnan(only.loc[0, "auc"])
    assert classifier.leak_verdict(only).startswith("Cannot tell whether the headers leak: not tried, or")


def test_findings_are_learned_at_once_and_a_finding_without_examples_is_constant() -> None:
    labels = make_labels(300)
    table, folds = make_features(labels, signal=3.0), make_folds(labels)
    targets = pd.DataFrame({"p_0": labels, "p_1": make_labels(300, seed=9), "p_2": 0}, index=labels.index)
    result = classifier.cross_validate(table, targets, folds, FAST)
    assert list(result.oof.columns) == ["image_id", "fold", "p_0", "p_1", "p_2"]
    assert auc(targets["p_0"].loc[result.oof["image_id"]], result.oof["p_0"]) > 0.9
    assert auc(targets["p_1"].loc[result.oof["image_id"]], result.oof["p_1"]) == pytest.approx(0.5, abs=0.1)
    assert result.oof["p_2"].max() < 0.01
    assert "p_2" in result.message
    assert classifier.shap_values(result, output=1).shape == (300, 1 + 7)


def test_labels_from_a_table_of_annotations() -> None:
    classes = schema.ClassTable(("mass", "fluid", "No finding"))
    table = pd.DataFrame({"image_id": ["b", "b", "a", "c", "c"], "class_id": [0, 0, 2, 2, 1]})
    assert classifier.image_labels(table, classes=classes).to_dict() == {"a": 0, "b": 1, "c": 1}
    wide = classifier.finding_labels(table, classes=classes)
    assert wide.loc["b"].to_dict() == {"p_0": 1, "p_1": 0}
    assert wide.loc["c"].to_dict() == {"p_0": 0, "p_1": 1}
    assert len(classifier.image_labels(table[:0], classes=classes)) == 0


# -- calibration and scores --------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_calibration_finds_the_probabilities_behind_the_margins(method: str) -> None:
    draws = np.random.default_rng(0)
    margin = draws.normal(size=20_000) * 2
    true = 1 / (1 + np.exp(-(0.5 * margin - 1)))
    calibrate = fit_calibrator(margin, (draws.random(len(true)) < true).astype(int), method=method)
    grid = np.linspace(-3, 3, 7)
    assert calibrate(grid) == pytest.approx(1 / (1 + np.exp(-(0.5 * grid - 1))), abs=0.06)
    rising = calibrate(np.linspace(-50, 50, 999))
    assert (np.diff(rising) >= 0).all() and rising.min() > 0 and rising.max() < 1


def test_calibration_of_margins_that_rank_the_wrong_way_is_the_prevalence() -> None:
    margin, labels = np.linspace(-2, 2, 1200), np.repeat([1, 0], [300, 900])
    assert fit_calibrator(margin, labels, method="sigmoid")(margin) == pytest.approx(0.25, abs=0.01)
    assert fit_calibrator(margin, labels, method="isotonic")(margin) == pytest.approx(0.25, abs=0.01)
    with pytest.raises(ParameterError, match="expected one of sigmoid, isotonic, none, got 'platt'"):
        fit_calibrator(margin, labels, method="platt")
    with pytest.raises(ParameterError, match="isotonic needs at least 1,000 training images, got 999"):
        fit_calibrator(margin[:999], labels[:999], method="isotonic")


def test_on_pure_noise_the_probabilities_are_hardly_worse_than_the_prevalence() -> None:
    """Margins taken where each inner model suits its own held-out images best would be too sure."""
    excess = []
    for seed in (0, 1, 6):
        draws = np.random.default_rng(seed)
        labels = pd.Series((draws.random(300) < 0.33).astype(int), index=ids(300), name="abnormal")
        table = pd.DataFrame({f"lbp_{i}": draws.permutation(300) for i in range(10)})
        table.insert(0, "image_id", labels.index)
        oof = classifier.cross_validate(table, labels, make_folds(labels), Recipe(seed=seed)).oof
        prevalence = np.full(300, labels.mean())
        excess.append(sk.log_loss(labels, oof["p_abnormal"]) - sk.log_loss(labels, prevalence))
    assert np.mean(excess) < 0.008


def test_plain_and_constant_calibrators() -> None:
    assert Calibrator("none")(np.array([0.0])) == pytest.approx([0.5])
    assert Calibrator("constant", (), (0.2,))(np.zeros((2, 2))).tolist() == [[0.2, 0.2], [0.2, 0.2]]


def test_weighted_training_is_calibrated_back_to_the_prevalence() -> None:
    labels = make_labels(600, abnormal=0.15)
    result = classifier.cross_validate(make_features(labels, signal=1.5), labels, make_folds(labels), FAST)
    assert result.oof["p_raw"].mean() > 0.3, "both classes weigh the same in training"
    assert result.oof["p_abnormal"].mean() == pytest.approx(labels.mean(), abs=0.03)


def test_scores_equal_scikit_learn() -> None:
    draws = np.random.default_rng(2)
    truth = (draws.random(300) < 0.3).astype(int)
    probability = np.round(np.clip(0.3 * truth + draws.random(300) * 0.7, 0, 1), 2)  # with ties
    table = classifier.scores(truth, probability, resamples=200).set_index("score")
    assert table.loc["auc", "value"] == pytest.approx(sk.roc_auc_score(truth, probability))
    assert table.loc["ap", "value"] == pytest.approx(sk.average_precision_score(truth, probability))
    assert table.loc["accuracy", "value"] == pytest.approx(sk.accuracy_score(truth, probability >= 0.5))
    assert table.loc["brier", "value"] == pytest.approx(sk.brier_score_loss(truth, probability))
    assert (table["low"] < table["value"]).all() and (table["value"] < table["high"]).all()


def test_bootstrap_equals_scoring_the_resampled_images() -> None:
    draws = np.random.default_rng(3)
    truth = (draws.random(80) < 0.4).astype(int)
    probability = np.round(draws.random(80), 1)
    table = classifier.scores(truth, probability, resamples=70, seed=5).set_index("score")
    again = np.random.default_rng(5)
    samples = []
    for start in range(0, 70, 64):  # drawn in blocks of 64
        for row in again.integers(0, 80, (min(64, 70 - start), 80)):
            samples.append(
                [
                    sk.roc_auc_score(truth[row], probability[row]),
                    sk.average_precision_score(truth[row], probability[row]),
                ]
            )
    low, high = np.percentile(samples, [2.5, 97.5], axis=0)
    assert table.loc[["auc", "ap"], "low"].to_numpy() == pytest.approx(low)
    assert table.loc[["auc", "ap"], "high"].to_numpy() == pytest.approx(high)


def test_paired_differences_score_both_on_the_same_resamples() -> None:
    draws = np.random.default_rng(3)
    truth = (draws.random(400) < 0.4).astype(int)
    good = np.clip(0.25 * truth + draws.random(400) * 0.7, 0, 1)
    better = np.clip(good + 0.04 * (2 * truth - 1), 0, 1)
    table = classifier.paired_differences(truth, better, good, resamples=64, seed=5).set_index("score")
    rows = np.random.default_rng(5).integers(0, 400, (64, 400))
    samples = [sk.roc_auc_score(truth[r], better[r]) - sk.roc_auc_score(truth[r], good[r]) for r in rows]
    value = sk.roc_auc_score(truth, better) - sk.roc_auc_score(truth, good)
    expected = [value, *np.percentile(samples, [2.5, 97.5])]
    assert table.loc["auc", ["value", "low", "high"]].tolist() == pytest.approx(expected)
    apart = [classifier.scores(truth, p, resamples=64).set_index("score").loc["auc"] for p in (good, better)]
    assert apart[0]["high"] > apart[1]["low"] and table.loc["auc", "low"] > 0, "bands overlap, yet told apart"
    same = classifier.paired_differences(truth, good, good, resamples=10)
    assert (same[["value", "low", "high"]] == 0).all(axis=None)
    assert classifier.paired_differences([], [], [], resamples=10)["value"].isna().all()


def test_scores_of_one_class_and_of_nothing() -> None:
    one = classifier.scores([1, 1], [0.9, 0.8], resamples=20).set_index("score")["value"]
    assert np.isnan(one["auc"]) and np.isnan(one["ap"]) and one["accuracy"] == 1
    assert classifier.scores([], [], resamples=20)["value"].isna().all()
    assert len(classifier.reliability([], [])) == 0


def test_reliability_worked_by_hand() -> None:
    table = classifier.reliability([0, 0, 0, 1, 1, 1, 1, 0], [0.1] * 4 + [0.8] * 4, bins=2)
    assert table["p_mean"].tolist() == pytest.approx([0.1, 0.8])
    assert table["observed"].tolist() == [0.25, 0.75]
    assert table["images"].tolist() == [4, 4]
    # Wilson: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), n = 4, p = 1/4
    assert table.loc[0, ["low", "high"]].tolist() == pytest.approx([0.0456, 0.6994], abs=1e-4)
    constant = classifier.reliability([0, 1], [0.5, 0.5])
    assert constant[["p_mean", "observed", "images"]].to_numpy().tolist() == [[0.5, 0.5, 2]]


# -- importance --------------------------------------------------------------------------------------


def test_importance_names_the_feature_that_tells() -> None:
    labels = make_labels(250)
    result = classifier.cross_validate(make_features(labels, signal=2.0), labels, make_folds(labels), FAST)
    table = classifier.permutation_importance(result, repeats=3)
    assert table.loc[0, "feature"] == "entropy" and table.loc[0, "auc_drop"] > 0.2
    assert table["auc_drop"][1:].abs().max() < 0.05
    assert set(table["group"]) == {"pixel"}
    values = classifier.shap_values(result)
    assert values["image_id"].tolist() == result.oof["image_id"].tolist()
    assert values.drop(columns="image_id").abs().mean().idxmax() == "entropy"


def test_contributions_add_up_to_the_margin() -> None:
    labels = make_labels(100)
    table = make_features(labels, signal=1.0)
    model = classifier.fit(table, labels, FAST)
    whole = model.contributions(table)
    assert whole.shape == (100, 8)
    assert whole.sum(axis=1) == pytest.approx(model.margin(table)[:, 0], abs=1e-4)


# -- ablation and the leak ---------------------------------------------------------------------------


def test_headers_that_leak_are_found_out() -> None:
    labels = make_labels(400)
    headers = features.header_features(header_table(labels, leak=True))
    table = features.join_features(make_features(labels, signal=0.5), headers)
    results = classifier.compare_groups(table, labels, make_folds(labels), FAST)
    assert list(results) == ["header", "pixel", "pixel+header"]
    report = classifier.ablation(results, resamples=50)
    assert report["setting"].tolist() == list(classifier.ABLATION_SETTINGS), "also those not tried"
    assert report["auc"][0] > 0.85 > 0.7 > report["auc"][1]
    assert report["auc"][3:].isna().all() and (report["images"][3:] == 0).all()
    gain = report.loc[2]
    assert gain["auc_gain"] == pytest.approx(gain["auc"] - report["auc"][1]) and gain["auc_gain_low"] > 0
    verdict = classifier.leak_verdict(report)
    assert verdict.startswith("Warning: the DICOM headers alone") and "Keep them off" in verdict
    shown = classifier.readable(report).set_index("setting")
    assert shown.loc["detector", "accuracy"] == "-"
    low, high = report.loc[0, ["accuracy_low", "accuracy_high"]]
    assert shown.loc["header", "accuracy"].endswith(f"({low:.3f} to {high:.3f})")


def test_headers_that_do_not_leak_are_not_blamed() -> None:
    labels = make_labels(1200)
    headers = features.header_features(header_table(labels, leak=False))
    results = classifier.compare_groups(
        headers, labels, make_folds(labels), replace(FAST, feature_groups=("header",))
    )
    report = classifier.ablation(results, resamples=50)
    assert report["auc"][0] == pytest.approx(0.5, abs=0.05)
    assert classifier.leak_verdict(report).startswith("No leak seen: the headers alone reach AUC 0.")


def verdict_table(auc: float, low: float, high: float, gain: tuple[float, float, float]) -> pd.DataFrame:
    names = ["setting", "images", "auc", "auc_low", "auc_high", "auc_gain", "auc_gain_low", "auc_gain_high"]
    rows = [("header", 90, auc, low, high, 0, 0, 0), ("pixel", 90, 0.7, 0.6, 0.8, *[np.nan] * 3)]
    return pd.DataFrame([*rows, ("pixel+header", 90, 0.7, 0.6, 0.8, *gain)], columns=names)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((0.56, 0.51, 0.61, (0.03, 0.01, 0.05)), "^Warning.*Keep them off"),
        (
            (0.56, 0.51, 0.61, (0.03, -0.01, 0.05)),
            r"^Warning.*\+0\.030 .95% interval -0\.010.* add nothing",
        ),
        (
            (0.62, 0.45, 0.79, (0.0, 0.0, 0.0)),
            "^Cannot tell.*0.620 .95% interval 0.450 to 0.790. on 90 images",
        ),
        ((0.51, 0.46, 0.56, (0.0, 0.0, 0.0)), "^No leak seen: the headers alone reach AUC 0.510"),
    ],
)
def test_the_verdict_tells_no_leak_from_too_few_images(numbers: tuple, expected: str) -> None:
    assert re.search(expected, classifier.leak_verdict(verdict_table(*numbers)))


def test_groups_are_compared_with_the_settings_searched_for_the_ones_in_use() -> None:
    labels = make_labels(100)
    found = pd.DataFrame({"image_id": labels.index, "detector_score_0": labels.to_numpy() * 0.5})
    table, folds = features.join_features(make_features(labels, signal=1.0), found), make_folds(labels)
    calls: list[tuple[int, int]] = []
    recipe = replace(FAST, feature_groups=("detector", "pixel"), trials=3, seed=2)
    results = classifier.compare_groups(
        table, labels, folds, recipe, progress=lambda done, total: calls.append((done, total))
    )
    assert list(results) == ["pixel", "detector", "pixel+detector"], "without headers there is no 'all'"
    assert calls == [(1, 3), (2, 3), (3, 3)]
    used = results[classifier.setting_name(["detector", "pixel"])]
    assert used.oof.equals(classifier.cross_validate(table, labels, folds, recipe).oof)
    for fold, model in used.models.items():
        other = results["pixel"].models[fold].parameters
        assert other["tried"] == 1 and other["max_depth"] == model.parameters["max_depth"]
    report = classifier.ablation(results, resamples=20).set_index("setting")
    assert report.loc["detector", "auc"] == 1.0 and report.index[-1] == "pixel+detector"


@pytest.mark.slow
@pytest.mark.parametrize("leak", [True, False])
def test_the_phantom_s_files_leak_or_not_as_asked(leak: bool, tmp_path, monkeypatch) -> None:
    """From DICOM files through preprocessing to the verdict. Only the drawing is left out, for speed.

    A leak shows on few images. With 600, half of them abnormal, a useless AUC has a standard deviation
    of 0.024; the interval must stay below the AUC from which a leak cannot be ruled out.
    """

    def draw(shape, findings, **_):
        small = np.full((shape[0] // 2, shape[1] // 2), 0.5)
        return SimpleNamespace(density=small, boxes=[[(1.0, 1.0, 9.0, 9.0)] for _ in findings])

    monkeypatch.setattr(picture, "draw", draw)
    images = 200 if leak else 600
    data = phantom.make_phantom(tmp_path / "data", images=images, test_images=0, size=256, seed=5,
                                header_leak=leak, abnormal_fraction=0.5, jobs=1)  # fmt: skip
    preprocess({"train": data / "train"}, tmp_path / "out", image_size=32, jobs=1)
    headers = pd.read_csv(tmp_path / "out" / "dicom_metadata.csv", dtype=str, keep_default_na=False)
    annotations = read_annotations(data / "train.csv", on_problem="drop")  # boxes that are all alike
    results = classifier.compare_groups(
        features.header_features(headers),
        classifier.image_labels(annotations),
        splits.make_folds(annotations, folds=5, seed=0),
        replace(FAST, feature_groups=("header",)),
    )
    report = classifier.ablation(results, resamples=500)
    if leak:
        assert report["auc"][0] > 0.85
        assert classifier.leak_verdict(report).startswith("Warning")
    else:
        assert report["auc"][0] == pytest.approx(0.5, abs=0.05)
        assert classifier.leak_verdict(report).startswith("No leak seen")


# -- files -------------------------------------------------------------------------------------------


@pytest.fixture
def fitted() -> tuple[classifier.Classifier, pd.DataFrame]:
    labels = make_labels(1000)
    table = make_features(labels, signal=1.0)
    return classifier.fit(
        table, labels, replace(FAST, calibration="isotonic"), folds=make_folds(labels)
    ), table


def test_a_saved_classifier_predicts_the_same_bits(fitted, tmp_path) -> None:
    model, table = fitted
    digest = classifier.save(model, tmp_path / "new" / "model.ubj")
    assert digest == hashlib.sha256((tmp_path / "new" / "model.ubj").read_bytes()).hexdigest()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["model.ubj", "model.ubj.sha256"]
    loaded = classifier.load(tmp_path / "new" / "model.ubj", feature_names=model.feature_names)
    pd.testing.assert_frame_equal(loaded.predict(table), model.predict(table))
    for name in ("feature_names", "outputs", "calibrators", "groups", "images", "positives", "rounds"):
        assert getattr(loaded, name) == getattr(model, name), name
    backwards = table[["image_id", *reversed(model.feature_names)]]
    pd.testing.assert_frame_equal(loaded.predict(backwards), model.predict(table))
    assert len(loaded.predict(table[:0])) == 0


def test_load_refuses_a_damaged_or_foreign_file(fitted, tmp_path) -> None:
    model, table = fitted
    path = tmp_path / "model.ubj"
    classifier.save(model, path)
    with pytest.raises(CheckpointError, match=r"gone\.ubj: no such classifier file"):
        classifier.load(tmp_path / "gone.ubj")
    wrong = list(reversed(model.feature_names))
    with pytest.raises(
        CheckpointError, match="expected feature 0 to be 'entropy', got 'lbp_5' in the features"
    ):
        classifier.load(path, feature_names=wrong)
    with pytest.raises(CheckpointError, match="expected 7 features, got 1 in the features given"):
        classifier.load(path, feature_names=["entropy"])
    with pytest.raises(DataError, match="expected 7 features, got a table without entropy"):
        model.predict(table.drop(columns="entropy"))

    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"expected SHA-256 \w+, got \w+; the file was changed"):
        classifier.load(path)

    for name, other, said in [
        ("text.ubj", b"not a model", "got another file"),
        ("empty.ubj", b"", "got an empty file"),  # XGBoost would end the process
        ("half.ubj", bytes(content[: len(content) // 2]), "got [^/]+$"),
    ]:
        (tmp_path / name).write_bytes(other)
        with pytest.raises(CheckpointError, match=f"expected an XGBoost model in UBJ, {said}"):
            classifier.load(tmp_path / name)
    model.booster.set_attr(cxr=None)
    model.booster.save_model(tmp_path / "plain.ubj")
    with pytest.raises(CheckpointError, match="expected a classifier of this project, got a plain XGBoost"):
        classifier.load(tmp_path / "plain.ubj")


@pytest.mark.parametrize(
    ("field", "value"),
    [("outputs", None), ("groups", "pixel"), ("images", "many"), ("calibrators", [{"method": "none"}])],
)
def test_load_refuses_a_broken_description(fitted, tmp_path, field, value) -> None:
    model, _ = fitted
    classifier.save(model, tmp_path / "model.ubj")
    booster = xgb.Booster(model_file=str(tmp_path / "model.ubj"))
    about = json.loads(booster.attr("cxr"))
    for number, changed in enumerate(
        [{**about, field: value}, {k: v for k, v in about.items() if k != field}]
    ):
        booster.set_attr(cxr=json.dumps(changed))
        booster.save_model(tmp_path / f"{number}.ubj")
        with pytest.raises(CheckpointError, match="expected the description that `save` writes"):
            classifier.load(tmp_path / f"{number}.ubj")


def test_load_refuses_trees_whose_features_are_in_another_order(fitted, tmp_path) -> None:
    model, _ = fitted
    classifier.save(model, tmp_path / "model.ubj")
    booster = xgb.Booster(model_file=str(tmp_path / "model.ubj"))
    about = json.loads(booster.attr("cxr"))
    about["feature_names"][:2] = about["feature_names"][1::-1]
    booster.set_attr(cxr=json.dumps(about))
    booster.save_model(tmp_path / "swapped.ubj")
    with pytest.raises(CheckpointError, match="expected feature 0 to be 'lbp_0', got 'entropy' in the trees"):
        classifier.load(tmp_path / "swapped.ubj")
