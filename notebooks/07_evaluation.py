# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Judge the detector
#
# Each detector is shown the images of the fold it has never seen, and its boxes are held against the
# fused boxes of the readers. One number decides a competition; it takes pictures to know what the
# number means. Both are here, and beside them what the readers themselves would score.
#
# - **Reads** `06_detector/checkpoints/`, `02_preprocess/images/`, `04_split/consensus.csv`,
#   `04_split/folds.csv`, `05_classifier/oof_probabilities.csv`, `01_eda/train_full_dataset.csv`
# - **Writes** `07_evaluation/val_predictions.csv`, `07_evaluation/evaluation.json`,
#   `07_evaluation/calibration.json`
# - **Time** demo (CPU) about 1 minute; full data set about 10 minutes on one GPU

# %%
from dataclasses import asdict
from importlib.util import find_spec

import numpy as np
import pandas as pd
from IPython.display import Markdown

from cxr import annotations as ann
from cxr import metrics, plots, schema, submission
from cxr.detector.ensemble import predict_out_of_fold
from cxr.detector.folds import checkpoints_by_fold, chosen_checkpoints
from cxr.rundir import RunDir, locate
from cxr.store import ImageStore

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
run_dir: str = "outputs/demo"  # folder of the run
data_dir: str = "data/demo"  # folder with train.csv, for the names of the classes
seed: int = 0  # for resampling
checkpoints: list[str] = []  # detectors, {fold} standing for each fold; empty for those of notebook 06
predict_batch_size: int = 8  # images a step
num_workers: int = 0  # loading processes
score_floor: float = 0.005  # boxes below this score are dropped; low, since extra boxes never hurt AP
max_boxes: int = 300  # most boxes an image
tta_flip: bool = True  # also look at the mirror image
tta_scales: list[float] = [1.0]  # also look at other sizes
fusion_iou: float = 0.55  # boxes of several looks that overlap more than this are one
iou_threshold: float = 0.4  # a box hits when it overlaps the truth by more than this
resamples: int = 500  # bootstrap resamples for intervals
gallery_images: int = 8  # images in each gallery

# %% [markdown]
# What follows from the parameters: a detector for each fold that was trained, the images of those
# folds, and their fused boxes.

# %%
run = RunDir(run_dir, "07_evaluation")
classes = ann.read_classes(locate(data_dir))
findings = list(classes.finding_ids)
store = ImageStore(run.input(schema.IMAGES_DIR))
detectors = checkpoints_by_fold(chosen_checkpoints(run.input(schema.CHECKPOINTS_DIR), checkpoints))
folds = pd.read_csv(run.input(schema.FOLDS_CSV), dtype={"image_id": str})
folds = folds[folds.image_id.isin(store.ids) & folds.fold.isin(list(detectors))]
val_ids = folds.image_id.tolist()
consensus = pd.read_csv(run.input(schema.CONSENSUS_CSV), dtype={"image_id": str})
val = consensus[consensus.image_id.isin(val_ids)]

# %% [markdown]
# ## Predictions
#
# Look at the number of boxes: it should be large. Average precision is decided by the order of the
# scores, so weak boxes at the end cost nothing and sometimes hit.
#
# Several detectors will be fused on the test images. Then each learns here what its scores are worth
# (`calibration.json`), so that the one that is sure of itself does not outvote the one that is right.

# %%
looks = {"flip": tta_flip, "scales": tuple(tta_scales), "fusion_iou": fusion_iou}
found, calibrations = predict_out_of_fold(
    store, folds, detectors, val, classes=classes, iou_threshold=iou_threshold,
    batch_size=predict_batch_size, score_threshold=score_floor, max_boxes=max_boxes, **looks,
    num_workers=num_workers, progress=run.progress("images"),
)  # fmt: skip
run.write_json(calibrations, schema.CALIBRATION_JSON)
run.write_csv(found, schema.VAL_PREDICTIONS_CSV)
Markdown(f"{len(found):,} boxes on {len(val_ids):,} images.")

# %% [markdown]
# ## The gate, chosen before anything else
#
# The classifier says how likely an image is abnormal, without having seen it in training. How far
# should it be allowed to speak? Softly: the score of each box is multiplied by a power of that
# probability. Or with two thresholds: below the first, no boxes; above the second, no normal line.
# Look at how far the curve lies above the dashed line (no gate), and at the width of its band.

# %%
oof = pd.read_csv(run.input(schema.OOF_CSV), dtype={"image_id": str})
oof = oof[oof.image_id.isin(val_ids)]
p_findings = oof[["image_id", *[c for c in oof if c.startswith("p_") and c[2:].isdigit()]]]
p_findings = p_findings if p_findings.shape[1] > 1 else None
p_abnormal = oof[["image_id", "p_abnormal"]]
sweep = submission.gate_sweep(
    found, p_abnormal, val,
    p_findings=p_findings, classes=classes, iou_threshold=iou_threshold, seed=seed,
    progress=run.progress("gates"),
)  # fmt: skip
chosen = submission.choose_gate(sweep)
Markdown(f"Best out of fold: **{chosen.describe()}**.")

# %% [markdown]
# The choice is the highest mean over all classes. Now look at how flat the curve is around the star.

# %%
run.figure(
    plots.gate_sweep(sweep, chosen=asdict(chosen)),
    "01_gate",
    "Score against the strength of the gate; without a gate, and with every image called normal, as lines.",
)

# %% [markdown]
# The same as numbers, the best first, with intervals:

# %%
sweep.sort_values("map", ascending=False).head(8).round(4)

# %% [markdown]
# The gate was chosen on validation images and is only applied to the test images, never chosen there.
# When the curve is flat within its band, the exact power does not matter; take the mild one. The
# dotted line is what one gets for calling every image normal, which is the floor to compare any score
# with.
#
# ## The score
#
# The competition's mean over all classes counts the normal class as one of them; the mean over the
# findings does not. Look at the intervals: a difference smaller than they are wide is not an
# improvement.

# %%
gated = submission.apply_gate(chosen, found, p_abnormal, p_findings=p_findings, classes=classes)
card = metrics.scorecard(
    gated, val,
    classes=classes, iou_threshold=iou_threshold, image_ids=val_ids, resamples=resamples, seed=seed,
    coco=find_spec("faster_coco_eval") is not None,
)  # fmt: skip
print(card.text())

# %% [markdown]
# AP is the average precision of one class, `sens@1` the share of its boxes found at one false alarm
# per image, AUC says how well images are ranked by their best box of the class, F1 is the best there
# is on these images. A class without truth in these images has no number and counts in no mean.

# %%
totals = ("map", "map_findings", "coco_map", "coco_ap50", "froc", "auc_abnormal")
pd.Series({name: card.totals[name] for name in totals if name in card.totals}).round(4).to_frame("value").T

# %% [markdown]
# COCO's score, where its tool is installed, averages over stricter and stricter overlaps, so it asks
# for exact edges, on which readers do not agree either. It is here because other work reports it.

# %%
per_class = card.table.rename(columns={"ap_low": "low", "ap_high": "high"})
run.figure(
    plots.per_class_ap(per_class, classes=classes),
    "02_per_class",
    "Average precision of each class with its 95 % interval; the number of truth boxes in brackets.",
)

# %% [markdown]
# Long lines belong to classes with few boxes: their score is mostly luck. Compare the order with
# notebook 01's picture of how many readers marked a finding: what readers agree on, the detector
# finds.
#
# ## What readers reach, and whose images we are judged on
#
# Each reader is scored, on the same metric, against the fused boxes of the others who read the same
# images. Beside it our own score, on all images, on those of the readers who drew most of the
# training boxes, and on the rest. Look at the gap between the last two.

# %%
readers = ann.read_annotations(run.input(schema.TRAIN_FULL_CSV), classes=classes)
readers = readers[readers.image_id.isin(val_ids)]
ceiling = metrics.reader_ceiling(readers, iou_threshold=iou_threshold, classes=classes).dropna(subset=["map"])
groups = {"ours, all images": val_ids}
words = {"dominant": f"read by {', '.join(schema.DOMINANT_READERS)}", "other": "read by other readers only"}
for name, table in ann.reader_groups(readers, classes=classes).groupby("group"):
    groups[f"ours, images {words[name]}"] = table.image_id.tolist()

# %% [markdown]
# Every group is scored with the same boxes and the same truth; only the images differ.

# %%
rows = []
for name, ids in groups.items():
    part = {"image_ids": ids, "class_ids": findings, "iou_threshold": iou_threshold}
    boot = metrics.bootstrap_map(gated, val, resamples=resamples, seed=seed, **part)
    rows.append((f"{name} ({len(ids):,})", boot.map, boot.low, boot.high, True))
for row in ceiling.itertuples():
    rows.append((f"reader {row.rad_id} against the others ({row.images:,})", row.map, np.nan, np.nan, False))
comparison = pd.DataFrame(rows, columns=["name", "value", "low", "high", "ours"])
run.figure(
    plots.scores_with_intervals(
        comparison, title="Our score and the readers'", label="mAP over the findings"
    ),
    "03_ceiling",
    "Our score with its interval (blue); each reader against the others (orange); images in brackets.",
)

# %% [markdown]
# The readers' numbers in full. `map_tied` treats all boxes of a reader as equally sure, which they
# are.

# %%
ceiling.round(3) if len(ceiling) else Markdown("One reader: no ceiling to show.")

# %% [markdown]
# A reader gives no scores, so a reader's mAP is one point of a curve where ours is the whole of it:
# the two can be compared only roughly. Still, where the readers score low against each other, nobody
# can score high against them. A model that is much better on the dominant readers' images has learnt
# their habits; the lower of the two numbers is what to expect elsewhere.
#
# ## Precision and recall, class by class
#
# Look at the left end of each curve: are the most confident boxes right?

# %%
limits = {"image_ids": val_ids, "iou_threshold": iou_threshold}
voc = metrics.voc_map(gated, metrics.with_normal_rows(val, classes), **limits)
curves = {i: (curve.recall.to_numpy(), curve.precision.to_numpy()) for i, curve in voc.curves.items()}
run.figure(
    plots.pr_curves(curves, voc.per_class.set_index("class_id").ap.to_dict(), classes=classes),
    "04_pr_curves",
    "Precision against recall for each class, average precision in the title: the shaded area.",
)

# %% [markdown]
# A curve that starts high and stops early finds few boxes but is right about them; one that runs
# along the bottom finds many among far more false alarms. The area counts the same for both.
#
# ## FROC: how many false alarms for a find
#
# Radiologists ask it this way. Look at one false alarm per image on the axis below.

# %%
froc = metrics.froc(gated, val, class_ids=findings, **limits)
mean = (froc.sensitivity.index.to_numpy(), froc.sensitivity.to_numpy())
lines = {i: (c.false_positives.to_numpy(), c.sensitivity.to_numpy()) for i, c in froc.curves.items()}
run.figure(
    plots.froc(mean, lines, classes=classes),
    "05_froc",
    "Share of truth boxes found against false alarms per image, for each finding and on average.",
)

# %% [markdown]
# The thick line is the mean over the findings at the usual rates. Where it is still rising at the
# right end, the boxes are there but ranked too low.
#
# ## A threshold for a person
#
# The metric wants every weak box; a person wants few. Precision: which share of the boxes shown is
# right. Recall: which share of the findings is shown.

# %%
steps = np.linspace(0.02, 0.98, 49)
points = [metrics.operating_point(found, val, score_threshold=t, class_ids=findings, **limits) for t in steps]
columns = {name: [getattr(p, name) for p in points] for name in ("precision", "recall", "f1")}
table = pd.DataFrame({"threshold": steps, **columns})
best = table.f1.fillna(0).idxmax()
threshold = float(table.threshold[best])
run.figure(
    plots.operating_point(table, threshold=threshold),
    "06_threshold",
    "Precision, recall and F1 of all findings together against the score threshold.",
)

# %% [markdown]
# The dotted line is where F1 is highest. What this means in numbers:

# %%
Markdown(
    f"At a score of **{threshold:.2f}** {table.precision[best]:.0%} of the boxes are right, "
    f"{table.recall[best]:.0%} of the findings are shown, "
    f"with {points[best].false_positives_per_image:.2f} false alarms per image."
)

# %% [markdown]
# This threshold is for the pictures below and for people; nothing is cut at it in a submission.
#
# ## What is mistaken for what
#
# Rows are what is true, columns what the detector said. Look for dark cells off the diagonal.

# %%
confusion = metrics.confusion(found, val, score_threshold=threshold, class_ids=findings, **limits)
names = {i: classes.name(i) for i in findings}
run.figure(
    plots.confusion(confusion.rename(index=names, columns=names)),
    "07_confusion",
    "What true boxes were called at the threshold; last column: missed, last row: false alarms.",
)

# %% [markdown]
# A dark last column is a class that is missed rather than mistaken. Confusions between findings that
# look alike, such as opacity, infiltration and consolidation, are the readers' own (notebook 01).
#
# ## Where the errors come from
#
# Each box is a hit, or wrong for one reason: badly placed, wrong class, both, a duplicate, or nothing
# there. Look for the longest part that is not green.

# %%
errors = metrics.error_breakdown(found, val, score_threshold=threshold, class_ids=findings, **limits)
run.figure(
    plots.error_breakdown(errors.counts.set_index("class_id").rename(index=names)),
    "08_errors",
    "What became of the boxes above the threshold, and the truth boxes that were missed.",
)

# %% [markdown]
# Now the price: by how much would the score rise, were all errors of one kind put right and no other?

# %%
errors.gain.round(4).to_frame("mAP gained if these errors were put right").T

# %% [markdown]
# The counts say what happens often, the gains what it costs. Compare the cost of missed and
# background errors with that of crooked edges: usually better ranking pays more than better boxes.

# %%
run.figure(
    plots.detection_scores(errors.detections, (errors.detections.kind == "hit").to_numpy()),
    "09_scores",
    "Scores of hits and of false alarms above the threshold.",
)

# %% [markdown]
# Where the two heaps lie on each other, the score does not tell a hit from a false alarm.
#
# ## Galleries, sorted by how wrong we were
#
# Solid boxes are the detector's, dashed ones the readers'.

# %%
shown, drawn = errors.detections, errors.truth
keys = ["image_id", "class_id", "x_min", "y_min"]
overlooked = drawn[drawn.kind == "missed"].merge(val[[*keys, "n_readers"]], on=keys, how="left")
galleries = {
    "10_false_alarms": ("False alarms, the surest first", shown[shown.kind == "background"], "score"),
    "11_misses": ("Missed findings, those that most readers saw first", overlooked, "n_readers"),
    "12_hits": ("Hits, the surest first", shown[shown.kind == "hit"], "score"),
}

# %% [markdown]
# Three lists, each with the worst, or best, at its head. For each image what was right is drawn as
# well, and the surest of what was wrong.

# %%
figures = {}
for key, (title, table, by) in galleries.items():
    ids = table.sort_values(by, ascending=False, kind="stable").image_id.unique()[:gallery_images]
    panels = [plots.outcome_panel(store, image_id, shown, drawn, classes=classes) for image_id in ids]
    caption = f"{title}. Green: hit, red: wrong, blue dashed: truth that was found, yellow dashed: missed."
    figure = plots.gallery(panels, title=title, legend=plots.OUTCOME_LEGEND)
    figures[key] = run.figure(figure, key, caption)
figures["10_false_alarms"]

# %% [markdown]
# Here the detector was surest and no reader saw anything. Some of these are findings that nobody
# drew. Others are devices, skin folds, or a heart at the upper limit.
#
# Now what was missed, beginning with what most readers agreed on: there is no excuse for these.

# %%
figures["11_misses"]

# %% [markdown]
# Small, faint, or behind the heart and the diaphragm: these want more pixels. A plain miss of
# something large wants more training images of its kind.
#
# And what went well, so that the pictures stay in proportion.

# %%
figures["12_hits"]

# %% [markdown]
# A hit may lie a good way off and still count: compare the solid boxes with the dashed ones.
#
# ## Step through all of them
#
# With a running kernel, the slider shows each validation image in turn.

# %%
plots.browse_outcomes(store, val_ids, shown, drawn, classes=classes)

# %% [markdown]
# ## Summary
#
# All numbers go into `evaluation.json`, with the gate that notebook 08 will apply.

# %%
by_mode = sweep.groupby("mode")["map"].max()
extra = {
    "map_without_gate": float(by_mode["none"]),
    "map_all_normal": float(by_mode["all-normal"]),
    "reader_map_lowest": float(ceiling["map"].min()) if len(ceiling) else None,
    "reader_map_highest": float(ceiling["map"].max()) if len(ceiling) else None,
    "display_threshold": threshold,
}
gate = {f"gate_{name}": value for name, value in asdict(chosen).items()}
run.write_json(card.as_dict() | gate | extra, schema.EVALUATION_JSON)

# %% [markdown]
# **Next:** notebook 08 predicts the test images and writes the submission.

# %%
# NBVAL_CHECK_OUTPUT
print("validation images", card.totals["n_images"], "of them normal", card.totals["n_normal"])
print("truth boxes", card.totals["n_truth"], "of", card.totals["n_findings"], "findings")
print("galleries", ", ".join(figures))
