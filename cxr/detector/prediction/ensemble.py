"""How much each of several detectors counts for each finding, learned on images that none has seen.

Weighted boxes fusion scores a finding by the weighted mean of what its detectors say, 0 for one that did
not find it. With calibrated scores that is a mixture of probabilities, so its weights can be learned as any
mixture's: those under which the hits and false alarms that came are most likely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import softmax

from cxr import metrics, schema
from cxr.detector.prediction.fusion import fuse_detections
from cxr.detector.prediction.looks import Looks
from cxr.schema import ClassTable

PARTS = 5
"""Parts that images are dealt into, for weights that are judged on images they were not learned from."""

SHRINKAGE = 30.0
"""Hits' worth of pull: of a class towards the weights over all classes, of those towards equal ones.

The likeliest weights favour the better detectors more than average precision does, which gains from each
further detector whose errors are its own.
"""

EQUAL, LEARNED = "all, equal weights", "all, learned weights"
"""Answers of the comparison besides those of single detectors."""

_EDGE = 1e-6


@dataclass(frozen=True)
class Ensemble:
    """How several detectors are fused best.

    Attributes:
        weights: float64 (detectors, findings), each column adding up to 1.
        detections: What they find together, on each image with weights learned from others.
        comparison: `answer, map, gain, gain_low, gain_high, chosen`: each detector alone, all with equal
            weights, all with learned ones; `map` is the mean over the findings, `gain` the difference to the
            best detector on the same images.
    """

    weights: np.ndarray
    detections: pd.DataFrame
    comparison: pd.DataFrame


def learn_ensemble(
    tables: Sequence[pd.DataFrame],
    truth: pd.DataFrame,
    *,
    names: Sequence[str],
    image_ids: Sequence[str],
    looks: Looks,
    classes: ClassTable = schema.VINBIGDATA,
    iou_threshold: float = 0.4,
    resamples: int = 200,
) -> Ensemble:
    """Learn how much each detector counts for each finding.

    Learned weights are taken where their mean over the findings is higher than that of the best detector
    alone. Otherwise the other detectors get no weight, since they do harm or cost time for nothing.

    Args:
        tables: What each detector found on images it was not trained on, its scores calibrated.
        truth: Boxes in the same pixels.
        names: What to call the detectors.
        image_ids: The images, those without any box included.
        looks: How detectors are fused.
        classes: The data set's classes.
        iou_threshold: IoU of a hit.
        resamples: For the intervals of the gains.
    """
    ids, n_findings = list(image_ids), len(classes.finding_ids)
    evidence = _Evidence.collect(
        tables, truth, ids, looks=looks, classes=classes, iou_threshold=iou_threshold
    )
    equal = np.full((len(tables), n_findings), 1 / len(tables))
    learned = evidence.weights(n_findings)

    # On each image with weights from other images, or the comparison would flatter what was learned.
    part = np.random.default_rng(0).permutation(len(ids)) % min(PARTS, len(ids))
    crossed = []
    for number in range(part.max() + 1):
        from_others = evidence.weights(n_findings, part[evidence.image] != number)
        held = {ids[place] for place in np.flatnonzero(part == number)}
        own = [table[table[schema.IMAGE_ID].isin(held)] for table in tables]
        of_part = [image_id for image_id in ids if image_id in held]
        crossed.append(fuse_detections(own, of_part, looks=looks, weights=from_others))

    answers = {
        **dict(zip(names, tables, strict=True)),
        EQUAL: fuse_detections(tables, ids, looks=looks),
        LEARNED: pd.concat(crossed, ignore_index=True),
    }
    alone = np.eye(len(tables))[:, :, None].repeat(n_findings, axis=2)
    weights = dict(zip(answers, [*alone, equal, learned], strict=True))
    comparison = _compare(answers, truth, ids, classes, iou_threshold=iou_threshold, resamples=resamples)
    chosen = comparison.loc[comparison["chosen"], "answer"].item()
    place = {image_id: number for number, image_id in enumerate(ids)}
    order = np.argsort(answers[chosen][schema.IMAGE_ID].map(place).to_numpy(), kind="stable")
    return Ensemble(weights[chosen], answers[chosen].iloc[order].reset_index(drop=True), comparison)


@dataclass(frozen=True)
class _Evidence:
    """Fused boxes, with what each detector said of them and whether they hit.

    Attributes:
        image: Number of its image, int64 (N,).
        label: Its finding, int64 (N,).
        said: Score that each detector gave it, 0 for none; float64 (N, detectors).
        hit: bool (N,).
    """

    image: np.ndarray
    label: np.ndarray
    said: np.ndarray
    hit: np.ndarray

    @classmethod
    def collect(
        cls,
        tables: Sequence[pd.DataFrame],
        truth: pd.DataFrame,
        image_ids: list[str],
        *,
        looks: Looks,
        classes: ClassTable,
        iou_threshold: float,
    ) -> _Evidence:
        findings = classes.finding_ids
        fused = fuse_detections(tables, image_ids, looks=looks)
        problem = metrics.encode(fused, truth, image_ids=image_ids, class_ids=findings)
        n_classes = len(problem.class_ids)
        hit = metrics.match(
            problem.detections, problem.truth, n_classes=n_classes, iou_threshold=iou_threshold
        ).hit
        said = np.zeros((len(fused), len(tables)))
        for number, table in enumerate(tables):
            own = metrics.encode(table, fused, image_ids=image_ids, class_ids=findings)
            of = metrics.match(
                own.detections, own.truth, n_classes=n_classes, iou_threshold=looks.detector_fusion_iou
            ).truth
            np.maximum.at(said[:, number], of[of >= 0], own.detections.score[of >= 0])
        return cls(problem.detections.image, problem.detections.label, said, hit)

    def weights(self, n_findings: int, chosen: np.ndarray | None = None) -> np.ndarray:
        """Weights (detectors, findings), learned from all boxes or from those chosen, bool (N,)."""
        used = np.full(len(self.hit), True) if chosen is None else chosen
        count = self.said.shape[1]
        common = mixture_weights(self.said[used], self.hit[used], prior=np.full(count, 1 / count))
        columns = []
        for finding in range(n_findings):
            own = used & (self.label == finding)
            columns.append(mixture_weights(self.said[own], self.hit[own], prior=common))
        return np.stack(columns, axis=1)


def mixture_weights(
    said: np.ndarray, hit: np.ndarray, *, prior: np.ndarray, shrinkage: float = SHRINKAGE
) -> np.ndarray:
    """Weights under which the mean of several probabilities foretells best what came.

    Args:
        said: Probabilities, float64 (N, detectors).
        hit: What came, bool (N,).
        prior: Weights to be drawn to, above zero, adding up to 1.
        shrinkage: Strength of the pull, in hits.

    Returns:
        float64 (detectors,), above zero, adding up to 1; the prior where there is nothing to learn from.
    """

    def cost(values: np.ndarray) -> tuple[float, np.ndarray]:
        weights = softmax(values)
        mean = np.clip(said @ weights, _EDGE, 1 - _EDGE)
        slope = said.T @ np.where(hit, -1 / mean, 1 / (1 - mean))
        value = -np.log(np.where(hit, mean, 1 - mean)).sum() - shrinkage * prior @ np.log(weights)
        return value, weights * (slope - weights @ slope) + shrinkage * (weights - prior)

    return softmax(minimize(cost, np.log(prior), jac=True, method="L-BFGS-B").x)


def _compare(
    answers: dict[str, pd.DataFrame],
    truth: pd.DataFrame,
    image_ids: list[str],
    classes: ClassTable,
    *,
    iou_threshold: float,
    resamples: int,
) -> pd.DataFrame:
    """Scores of the answers; the last two are fused. The last or the best of the others is chosen."""
    known = truth[truth[schema.IMAGE_ID].isin(image_ids) & truth[schema.CLASS_ID].isin(classes.finding_ids)]
    results = [
        metrics.bootstrap_map(
            table, known, image_ids=image_ids, class_ids=sorted(set(known[schema.CLASS_ID])),
            iou_threshold=iou_threshold, resamples=resamples,
        )
        for table in answers.values()
    ]  # fmt: skip
    score = np.array([result.per_class["ap"].mean() for result in results])
    best = int(score[:-2].argmax())
    gains = [metrics.paired_difference(result, results[best]) for result in results]
    chosen = best if score[best] >= score[-1] else len(score) - 1
    return pd.DataFrame(
        {
            "answer": list(answers),
            "map": score,
            "gain": [gain.value for gain in gains],
            "gain_low": [gain.low for gain in gains],
            "gain_high": [gain.high for gain in gains],
            "chosen": np.arange(len(score)) == chosen,
        }
    )
