"""Choosing the gate: every setting's mAP on out-of-fold predictions, beside the all-normal score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from cxr import metrics, schema
from cxr.errors import DataError
from cxr.submission.gates import GRADED_MODES, NORMAL_LINE_ONLY, Gate, all_normal, apply_gate, gate

ALL_NORMAL = "all-normal"
"""Mode of the sweep's baseline row: no model, every image normal."""
LINE_ONLY = "normal line only"
"""Name of that baseline in tables and pictures."""
_SCORE_COLUMNS = [f"{name}{end}" for name in ("map", "map_findings", "gain") for end in ("", "_low", "_high")]


def default_grid(*, rerank: bool = False) -> list[Gate]:
    """Settings worth trying: the normal line only first, soft gates of rising strength, cuts, none.

    Args:
        rerank: Also try each soft gate with re-ranking by class.
    """
    soft = [Gate("soft", power=power, low=0.0) for power in (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)]
    cuts = [Gate("cut", power=0.0, low=low) for low in (0.02, 0.05, 0.1, 0.2, 0.3)]
    ranked = [Gate("soft", power=power, low=0.0, rerank=0.5) for power in (0.0, 0.5, 1.0)]
    none = Gate("none", power=0.0, low=0.0)
    return [NORMAL_LINE_ONLY, *soft, *cuts, *(ranked if rerank else []), none]


def gate_sweep(
    detections: pd.DataFrame,
    p_abnormal: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    grid: Sequence[Gate] | None = None,
    p_findings: pd.DataFrame | None = None,
    classes: schema.ClassTable = schema.VINBIGDATA,
    iou_threshold: float = 0.4,
    resamples: int = 200,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Score every setting of the gate on images that neither detector nor classifier was trained on.

    Args:
        detections: Out-of-fold detections, columns `schema.DETECTION_COLUMNS`.
        p_abnormal: Out-of-fold `image_id, p_abnormal`: the images that count.
        truth: `image_id, class_id` and boxes, original pixels; images that do not count are ignored.
        grid: Settings to try; `default_grid` if not given.
        p_findings: Out-of-fold `image_id, p_<class_id>`, for settings that re-rank.
        classes: The class table.
        iou_threshold: IoU above which a box matches.
        resamples: Bootstrap samples of the images, for the intervals; 0 leaves them missing.
        seed: Of the resampling.
        progress: Called with (settings done, settings).

    Returns:
        One row a setting, the all-normal baseline (`mode` "all-normal") first: the columns of
        `Gate`, then `map` (over all classes with truth, the normal class included),
        `map_findings` (without it) and `gain` (of `map` over the setting `NORMAL_LINE_ONLY`, resampled
        pair by pair; missing if that was not tried), each with a 95% interval (`map_low, map_high`,
        ...). The best row's interval is that of a setting chosen beforehand: choosing among many
        makes it slightly too good, see `cross_fitted`.

    Raises:
        DataError: No image counts, or as in `apply_gate`.
    """
    settings = default_grid(rerank=p_findings is not None) if grid is None else list(grid)
    images = p_abnormal[schema.IMAGE_ID].tolist()
    if not images:
        raise DataError("gate sweep: expected images with out-of-fold probabilities, got none")
    detections = detections[detections[schema.IMAGE_ID].isin(images)]
    scored_truth = metrics.with_normal_rows(truth[truth[schema.IMAGE_ID].isin(images)], classes)
    scored: list[_Scored] = []
    for done, setting in enumerate([None, *settings]):
        if setting is None:
            table = all_normal(images, classes=classes)
        else:
            table = apply_gate(setting, detections, p_abnormal, p_findings=p_findings, classes=classes)
        scored.append(
            _score(table, scored_truth, images, classes, iou_threshold, resamples=resamples, seed=seed)
        )
        if progress:
            progress(done, len(settings))
    pairs = zip(scored[1:], settings, strict=True)
    plain = next((result for result, s in pairs if (s.mode, s.power, s.rerank) == ("soft", 0, 0)), None)
    described = [(ALL_NORMAL, 0.0, 0.0, 0.0), *map(astuple, settings)]
    rows = [
        (*setting, *result.map, *result.findings, *result.gain_over(plain))
        for setting, result in zip(described, scored, strict=True)
    ]
    names = [field.name for field in fields(Gate)]
    return pd.DataFrame(rows, columns=[*names, *_SCORE_COLUMNS])


def baselines(
    detections: pd.DataFrame, p_abnormal: pd.DataFrame, *, classes: schema.ClassTable = schema.VINBIGDATA
) -> dict[str, pd.DataFrame]:
    """What stands beside any gate: the normal line only, neither gate nor line, and every image normal."""
    return {
        LINE_ONLY: apply_gate(NORMAL_LINE_ONLY, detections, p_abnormal, classes=classes),
        "no gate, no normal line": gate(detections, p_abnormal, mode="none", classes=classes),
        "every image normal": all_normal(p_abnormal[schema.IMAGE_ID].tolist(), classes=classes),
    }


def compare_gates(
    tables: Mapping[str, pd.DataFrame],
    truth: pd.DataFrame,
    image_ids: Sequence[str],
    *,
    reference: str = LINE_ONLY,
    classes: schema.ClassTable = schema.VINBIGDATA,
    iou_threshold: float = 0.4,
    resamples: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Score several gated versions of the same detections on the same resampled images.

    Args:
        tables: Name to gated detections.
        truth: `image_id, class_id` and boxes, original pixels; other images are ignored.
        image_ids: The images that count.
        reference: Name of the table that gains are over.
        classes: The class table.
        iou_threshold: IoU above which a box matches.
        resamples: Bootstrap samples of the images; 0 leaves the intervals missing.
        seed: Of the resampling.

    Returns:
        One row a table: `name`, and `map, map_findings, gain` with intervals as in `gate_sweep`.
    """
    scored_truth = metrics.with_normal_rows(truth[truth[schema.IMAGE_ID].isin(image_ids)], classes)
    scored = {
        name: _score(table, scored_truth, image_ids, classes, iou_threshold, resamples=resamples, seed=seed)
        for name, table in tables.items()
    }
    rows = [
        (name, *result.map, *result.findings, *result.gain_over(scored[reference]))
        for name, result in scored.items()
    ]
    return pd.DataFrame(rows, columns=["name", *_SCORE_COLUMNS])


@dataclass(frozen=True)
class _Scored:
    """Score of one setting: value, low, high; and the resamples behind it, where there are any."""

    map: tuple[float, float, float]
    findings: tuple[float, float, float]
    drawn: metrics.BootstrapResult | None

    def gain_over(self, other: _Scored | None) -> tuple[float, float, float]:
        if other is None:
            return np.nan, np.nan, np.nan
        if self.drawn is None or other.drawn is None:
            return self.map[0] - other.map[0], np.nan, np.nan
        return astuple(metrics.paired_difference(self.drawn, other.drawn))


def _score(
    table: pd.DataFrame,
    truth: pd.DataFrame,
    images: Sequence[str],
    classes: schema.ClassTable,
    iou_threshold: float,
    *,
    resamples: int,
    seed: int,
) -> _Scored:
    alike: dict[str, Any] = {
        "iou_threshold": iou_threshold,
        "image_ids": images,
        "class_ids": range(len(classes.names)),
    }
    if resamples < 1:
        plain = metrics.voc_map(table, truth, **alike)
        findings = plain.mean_over(classes.finding_ids)
        return _Scored((plain.map, np.nan, np.nan), (findings, np.nan, np.nan), None)
    drawn = metrics.bootstrap_map(table, truth, resamples=resamples, seed=seed, **alike)
    return _Scored((drawn.map, drawn.low, drawn.high), drawn.mean_over(classes.finding_ids), drawn)


def choose_gate(sweep: pd.DataFrame, *, column: str = "map") -> Gate:
    """The best setting that beats the normal line only beyond chance, else the normal line only.

    The best of many settings always looks a little better than the simplest one. Where the paired
    interval of its gain holds zero, that is luck, and on new images it as often costs as it gains. A
    sweep that was not resampled, or has no normal line only, has no such interval: then the best
    score decides, of equals the first in the sweep.

    Only settings that give every image a graded normal line (`GRADED_MODES`) are chosen from; "none" is
    in the sweep for comparison.

    Args:
        sweep: What `gate_sweep` returned, on out-of-fold predictions, never on the test.
        column: "map", or "map_findings" for which the best score decides.

    Raises:
        DataError: No such setting in the sweep, or none with a score.
    """
    tried = sweep[sweep["mode"].isin(GRADED_MODES)]
    if not tried[column].notna().any():
        raise DataError("gate: expected a sweep with at least one scored graded setting, got none")
    if column == "map" and tried["gain_low"].notna().any():
        beyond_chance = tried[tried["gain_low"] > 0]
        if beyond_chance.empty:
            return NORMAL_LINE_ONLY
        tried = beyond_chance
    best = tried.loc[tried[column].idxmax()]
    return Gate(
        mode=str(best["mode"]),
        power=float(best["power"]),
        low=float(best["low"]),
        rerank=float(best["rerank"]),
    )


def cross_fitted(
    detections: pd.DataFrame,
    p_abnormal: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    grid: Sequence[Gate] | None = None,
    p_findings: pd.DataFrame | None = None,
    classes: schema.ClassTable = schema.VINBIGDATA,
    iou_threshold: float = 0.4,
    parts: int = 2,
    resamples: int = 200,
    seed: int = 0,
) -> tuple[pd.DataFrame, list[Gate]]:
    """Gate every image by a setting that was chosen on other images.

    The best of many settings owes some of its score to these very images. Here the images are
    dealt into parts; for each the setting is chosen on the others, and only then applied. What
    the result scores is what choosing is worth.

    Args:
        detections: See `gate_sweep`.
        p_abnormal: See `gate_sweep`.
        truth: See `gate_sweep`.
        grid: See `gate_sweep`.
        p_findings: See `gate_sweep`.
        classes: The class table.
        iou_threshold: IoU above which a box matches.
        parts: Number of parts.
        resamples: Bootstrap resamples in each choice, see `choose_gate`.
        seed: Of the dealing and the resampling.

    Returns:
        The gated detections of all images, and the setting chosen for each part.

    Raises:
        DataError: Fewer images than parts, or as in `gate_sweep`.
    """
    images = p_abnormal[schema.IMAGE_ID].to_numpy()
    if len(images) < parts:
        raise DataError(f"gate: expected at least {parts} images to cross-fit the choice, got {len(images)}")
    part = np.random.default_rng(seed).permutation(len(images)) % parts
    gated, chosen = [], []
    for number in range(parts):
        sweep = gate_sweep(
            detections,
            p_abnormal[part != number],
            truth,
            grid=grid,
            p_findings=p_findings,
            classes=classes,
            iou_threshold=iou_threshold,
            resamples=resamples,
            seed=seed,
        )
        setting = choose_gate(sweep)
        own = detections[detections[schema.IMAGE_ID].isin(images[part == number])]
        gated.append(
            apply_gate(setting, own, p_abnormal[part == number], p_findings=p_findings, classes=classes)
        )
        chosen.append(setting)
    return pd.concat(gated, ignore_index=True), chosen
