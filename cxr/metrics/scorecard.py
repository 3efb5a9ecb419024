"""The table a person wants first: every class on one line, the means below."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cxr.errors import DataError
from cxr.metrics.coco import coco_map
from cxr.metrics.encoding import with_normal_rows
from cxr.metrics.froc import FROC_RATES, froc
from cxr.metrics.intervals import bootstrap_map
from cxr.metrics.operating import operating_point
from cxr.metrics.roc import image_roc
from cxr.metrics.voc import voc_map
from cxr.schema import CLASS_ID, CLASS_NAME, IMAGE_ID, RAD_ID, VINBIGDATA, ClassTable


@dataclass(frozen=True)
class Scorecard:
    """All scores of one set of detections.

    Attributes:
        table: One row per class of the class table, the normal class last: `class_id, class_name, ap, ap_low,
            ap_high`; `froc` and `froc_at_0.125` to `froc_at_8` (share of its boxes found at so many false
            positives per image, and the mean of the seven); `auc` (by image; abnormal against normal in the
            normal class's row); `score_threshold, precision, recall, f1` (at the threshold); `n_truth,
            n_detections`. NaN where a number has no meaning.
        totals: The numbers over all classes, see `scorecard`.
    """

    table: pd.DataFrame
    totals: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, lists and strings for JSON; None where there is no number."""
        totals = {name: _plain(value) for name, value in self.totals.items()}
        return {**totals, "per_class": plain_rows(self.table)}

    def text(self) -> str:
        """The table and the means as lines of text for a terminal."""
        totals = self.totals
        width = max(len(name) for name in self.table[CLASS_NAME])
        with_intervals = self.table["ap_low"].notna().any()
        gap = f"  {'95% interval':>13}" if with_intervals else ""
        head = (
            f"{'':{width}}  {'AP':>6}{gap}  {'FROC':>6}  {'AUC':>6}  "
            f"{'F1' if totals['thresholds_given'] else 'F1*':>6}  {'truth':>6}  {'found':>7}"
        )
        lines = [head]
        for row in self.table.itertuples():
            interval = f"  {_interval_text(row.ap_low, row.ap_high):>13}" if with_intervals else ""
            lines.append(
                f"{row.class_name:{width}}  {_number(row.ap)}{interval}  {_number(row.froc)}  "
                f"{_number(row.auc)}  {_number(row.f1)}  {row.n_truth:6d}  {row.n_detections:7d}"
            )
        lines.append("-" * len(head))
        over_all, over_findings = (
            f"mAP over {totals['n_classes']} classes",
            f"mAP over {totals['n_findings']} findings",
        )
        for name, key in ((over_all, "map"), (over_findings, "map_findings")):
            interval = _interval_text(totals[f"{key}_low"], totals[f"{key}_high"])
            lines.append(f"{name}: {_number(totals[key]).strip()} {interval}".rstrip())
        lines.append(
            f"IoU > {totals['iou_threshold']:g}; {totals['n_images']} images, "
            f"{totals['n_normal']} of them normal; "
            f"abnormal or not: AUC {_number(totals['auc_abnormal']).strip()}"
        )
        lines.append(
            "false alarms per image  " + "".join(f"{_fraction(rate):>7}" for rate in FROC_RATES) + "   mean"
        )
        found = [totals[f"froc_at_{rate:g}"] for rate in FROC_RATES]
        lines.append(
            "share of findings found " + "".join(f" {_number(value)}" for value in (*found, totals["froc"]))
        )
        lines.append(
            "F1 at the thresholds given"
            if totals["thresholds_given"]
            else "* the best F1 of all thresholds on this very truth, so it flatters"
        )
        return "\n".join(lines)


def scorecard(
    detections: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    classes: ClassTable = VINBIGDATA,
    iou_threshold: float = 0.4,
    image_ids: Iterable[str] | None = None,
    thresholds: Mapping[int, float] | None = None,
    resamples: int = 0,
    seed: int = 0,
    coco: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Scorecard:
    """Score detections in every way at once.

    Args:
        detections: `schema.DETECTION_COLUMNS`, original pixels; with or without lines of the normal class.
        truth: `image_id, class_id` and box columns, original pixels, one opinion per image: several readers
            are fused first (`annotations.fuse_readers`). Normal images have a row of the normal class.
        classes: Classes of the data set.
        iou_threshold: IoU that must be exceeded.
        image_ids: The images that count; those of the truth by default, so that what is found in
            other images does not.
        thresholds: Score from which on detections of a class are shown, by class id, for precision, recall
            and F1: chosen elsewhere. None takes the best F1 on this truth, see `operating_point`.
        resamples: Resamples of the bootstrap intervals; 0 leaves them out.
        seed: Seed of the bootstrap.
        coco: Whether to add COCO's scores over the findings (slower).
        progress: Called with resamples done and their number.

    Returns:
        The table and `totals`: `map` (over all classes with truth, the normal class one of them),
        `map_findings`, both with `_low` and `_high`; `n_classes, n_findings` (how many have truth),
        `map_bias` (see `bootstrap_map`), `froc, froc_at_0.125` to `froc_at_8`
        (means over findings), `auc_abnormal`, `auc_findings` (mean), `precision, recall, f1,
        false_positives_per_image` (each finding at its own threshold), `thresholds_given` (whether they
        were chosen elsewhere), `n_images, n_normal, n_truth, n_detections, iou_threshold`, with `coco` also
        `coco_map, coco_ap50`.

    Raises:
        DataError: A column is missing, or the truth holds several readers of an image.
        BoxError: An impossible box or score.
    """
    if RAD_ID in truth and len(truth) and truth.groupby(IMAGE_ID)[RAD_ID].nunique().max() > 1:
        raise DataError("truth: expected one reader per image, got several: fuse them first")
    images = list(dict.fromkeys(truth[IMAGE_ID] if image_ids is None else image_ids))
    truth = with_normal_rows(truth, classes)
    ids, findings = range(len(classes.names)), classes.finding_ids
    common: dict[str, Any] = {"iou_threshold": iou_threshold, "image_ids": images}
    voc = voc_map(detections, truth, class_ids=ids, **common)
    sensitivity = froc(detections, truth, class_ids=findings, **common)
    point = operating_point(detections, truth, score_threshold=thresholds, class_ids=findings, **common)
    roc = image_roc(detections, truth, image_ids=images, classes=classes)

    table = voc.per_class.copy()
    table.insert(1, CLASS_NAME, classes.names)
    low, high, bias, low_findings, high_findings = (float("nan"),) * 5
    table["ap_low"] = table["ap_high"] = float("nan")
    if resamples:
        boot = bootstrap_map(
            detections, truth, class_ids=ids, resamples=resamples, seed=seed, progress=progress, **common
        )
        table["ap_low"], table["ap_high"] = boot.per_class["low"], boot.per_class["high"]
        low, high, bias = boot.low, boot.high, boot.bias
        _, low_findings, high_findings = boot.mean_over(findings)
    at_rates = {f"at_{rate:g}": f"froc_at_{rate:g}" for rate in FROC_RATES}
    by_class = sensitivity.per_class.rename(columns={"mean": "froc", **at_rates}).drop(columns="n_truth")
    table = table.merge(by_class, on=CLASS_ID, how="left")
    table = table.merge(roc.per_class[[CLASS_ID, "auc"]], on=CLASS_ID, how="left")
    chosen = point.per_class[[CLASS_ID, "score_threshold", "precision", "recall", "f1"]]
    table = table.merge(chosen, on=CLASS_ID, how="left")
    order = ["ap", "ap_low", "ap_high", "froc", *at_rates.values(), "auc", "score_threshold"]
    order += ["precision", "recall", "f1", "n_truth", "n_detections"]
    table = table[[CLASS_ID, CLASS_NAME, *order]]

    of_findings = table[table[CLASS_ID] != classes.normal_id]
    totals = {
        "map": voc.map,
        "map_low": low,
        "map_high": high,
        "map_bias": bias,
        "map_findings": voc.mean_over(findings),
        "map_findings_low": low_findings,
        "map_findings_high": high_findings,
        "n_classes": int((table["n_truth"] > 0).sum()),
        "n_findings": int((of_findings["n_truth"] > 0).sum()),
        "froc": sensitivity.mean,
        **dict(zip(at_rates.values(), sensitivity.sensitivity.tolist(), strict=True)),
        "auc_abnormal": roc.abnormal,
        "auc_findings": roc.mean,
        "precision": point.precision,
        "recall": point.recall,
        "f1": point.f1,
        "false_positives_per_image": point.false_positives_per_image,
        "thresholds_given": thresholds is not None,
        "n_images": len(images),
        "n_normal": int(table.loc[table[CLASS_ID] == classes.normal_id, "n_truth"].sum()),
        "n_truth": int(of_findings["n_truth"].sum()),
        "n_detections": int(table["n_detections"].sum()),
        "iou_threshold": iou_threshold,
    }
    if coco:
        by_coco = coco_map(detections, truth, image_ids=images, class_ids=findings)
        totals |= {"coco_map": by_coco.map, "coco_ap50": by_coco.ap50}
    return Scorecard(table, totals)


def plain_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as plain numbers and strings for JSON; None where there is no number."""
    return [{name: _plain(value) for name, value in row.items()} for row in table.to_dict("records")]


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float) -> str:
    return "     -" if math.isnan(value) else f"{value:6.3f}"


def _fraction(rate: float) -> str:
    return f"{rate:g}" if rate >= 1 else f"1/{round(1 / rate)}"


def _interval_text(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"[{low:.3f} {high:.3f}]"
