# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Judge the detector
#
# Each detector looks at the images of the fold it has never seen. Its boxes are compared with the
# fused boxes of the readers. One number decides a competition, and pictures show what the number
# means. This notebook has both, and beside them the score that the readers themselves would
# reach.
#
# - **Reads** `06_detector/checkpoints/`, `02_preprocess/images/`, `04_split/consensus.csv`,
#   `04_split/folds.csv`, `05_classifier/oof_probabilities.csv`, `01_eda/train_full_dataset.csv`
# - **Writes** `07_evaluation/val_predictions.csv` with `07_evaluation/val_predictions.json`,
#   `07_evaluation/evaluation.json`, `07_evaluation/looks.json`
# - **Time** demo (CPU) about 1 minute; full data set about 10 minutes on one GPU

# %%
from dataclasses import asdict
from importlib.util import find_spec

import numpy as np
import pandas as pd
from IPython.display import Markdown

from cxr import annotations as ann
from cxr import features as feat
from cxr import metrics, plots, recipes, schema, submission, viewer
from cxr.detector.checkpoints.run import checkpoints_by_fold, chosen_checkpoints
from cxr.detector.prediction.looks import Looks, LooksRecord
from cxr.detector.prediction.out_of_fold import predict_out_of_fold
from cxr.rundir import RunDir, locate
from cxr.splits import read_folds
from cxr.store import ImageStore

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
run_dir: str = "outputs/demo"  # machine: folder of the run
data_dir: str = "data/demo"  # machine: folder with classes.csv, if you have one
seed: int = 0  # for resampling
checkpoints: list[str] = []  # detectors, {fold} standing for each fold; empty for those of notebook 06
predict_batch_size: int = 8  # images a step
num_workers: int = 0  # machine: loading processes
score_floor: float = 0.005  # boxes below this score are dropped; low, since extra boxes never hurt AP
max_boxes: int = 300  # most boxes an image
tta_flip: bool = True  # also look at the mirror image
tta_scales: list[float] = [1.0]  # sizes to look at, relative to the network's own
detector_fusion: str = "wbf"  # how several looks are fused: wbf, nms, soft-nms, union or agreement
detector_fusion_iou: float = 0.55  # boxes of several looks that overlap more than this are one
reader_fusion: str = "wbf"  # of readers' boxes: wbf, nms, soft-nms, union or agreement (at least two readers)
reader_fusion_iou: float = 0.4  # readers' boxes that overlap more than this are one finding
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
all_folds = read_folds(run.input(schema.FOLDS_CSV))
folds = all_folds[all_folds.image_id.isin(store.ids) & all_folds.fold.isin(list(detectors))]
val_ids = folds.image_id.tolist()
consensus = run.read_csv(schema.CONSENSUS_CSV)
val = consensus[consensus.image_id.isin(val_ids)]

# %% [markdown]
# ## Predictions
#
# Look at the number of boxes: it should be large. Average precision depends on the order of the
# scores, so weak boxes at the end cost nothing and sometimes hit.
#
# Several detectors will be fused on the test images. What the scores of each are worth is therefore learnt
# here: without that a detector with high scores would outvote one that is right more often. How the
# detectors looked and what their scores are worth goes into `looks.json`, and notebook 08 looks likewise.

# %%
looks = recipes.from_values(Looks, globals())
judged = predict_out_of_fold(
    store, folds, detectors, val, looks=looks, classes=classes, iou_threshold=iou_threshold,
    batch_size=predict_batch_size, num_workers=num_workers, progress=run.progress("images"),
)  # fmt: skip
record = LooksRecord(looks, tuple(checkpoints), iou_threshold, judged.calibrations)
run.write_json(record.to_dict(), schema.LOOKS_JSON)
run.write_csv(judged.detections, schema.VAL_PREDICTIONS_CSV)
found = judged.detections[schema.DETECTION_COLUMNS]
run.write_json(feat.fold_record(all_folds, detectors), schema.VAL_PREDICTIONS_JSON)
count = sum(map(len, detectors.values()))
Markdown(f"{len(found):,} boxes on {len(val_ids):,} images, from {count} detector(s).")

# %% [markdown]
# The file says for every box which fold its detector left out, and the record beside it by which table
# of folds: notebook 05 of a later run can make features of these boxes, and refuses any other.
#
# "Never seen" has one exception. Training saw no pixel of these images, but of its epochs it kept the
# one that scored best *on them* (`best.ckpt`), and the gate and the threshold below are chosen on them
# too. So the numbers of this notebook are a little better than on new images; `evaluation.json` says so
# with them. Notebook 08's score, where the truth of the test images is known, is free of this.

# %% [markdown]
# ## How much each family counts
#
# Detectors of one training, one a fold, are a family. The parameter `checkpoints` may name several, for
# example Faster R-CNN and RetinaNet. For each finding, this notebook learns how much each family counts when
# their boxes are fused. Look at `gain`, the difference to the best family alone on the same images.

# %%
one_family = Markdown("One family of detectors, or not one of each in every fold: all count alike.")
one_family if judged.comparison is None else judged.comparison.round(4)

# %% [markdown]
# Each image was scored with weights learned from other images. Learned weights are taken only where
# they score higher than the best family alone. Where the interval of `gain` holds zero, fusing is not
# better beyond chance. The weights go into `looks.json` with the calibrations. Each row adds up to 1 over the
# families; look for findings at which one family is better than its mean.

# %%
one_family if judged.weights is None else judged.weights.round(2)

# %% [markdown]
# A finding with few boxes has weights near those of all findings, since its own say little.
#
# ## The gate, chosen before anything else
#
# The classifier says how likely an image is abnormal, without having seen the image in training.
# The gate lets this probability change the predictions. How much should it change them?
#
# - *Normal line only*: each image gets a line of the normal class with the score 1 - p(abnormal), the
#   boxes stay as they are. This is the least a gate can do, and what the others are held against:
#   with no line at all the normal class scores next to nothing and any gate looks like a great gain.
# - *Soft*: besides, the score of each box is multiplied by a power of p(abnormal).
# - *Cut*: besides, an image with a p(abnormal) below a threshold keeps no box.
#
# Look at how far the curve rises above the normal line only, and at the width of its band.

# %%
oof = run.read_csv(schema.OOF_CSV)
oof = oof[oof.image_id.isin(val_ids)]
p_findings = oof[["image_id", *(f"p_{class_id}" for class_id in findings)]]
p_abnormal = oof[["image_id", "p_abnormal"]]
gating = {"p_findings": p_findings, "classes": classes, "iou_threshold": iou_threshold, "seed": seed}
sweep = submission.gate_sweep(
    found, p_abnormal, val, **gating, resamples=resamples, progress=run.progress("gates")
)
chosen = submission.choose_gate(sweep)
Markdown(f"Chosen out of fold, of those that give every image a graded line: **{chosen.describe()}**.")

# %% [markdown]
# This notebook chooses among the gates whose gain over the normal line only is beyond chance, and
# takes the one with the highest mean over all classes. If there is none, it chooses the normal
# line only: the best of many gates always looks a little better on the images by which it was
# picked. Look at how flat the curve is around the star, and whether the mean over the findings,
# to the right of it, agrees.

# %%
run.figure(
    plots.gate_sweep(sweep, chosen=asdict(chosen)),
    "01_gate",
    "Score against the strength of the gate, over all classes and over the findings; right, cuts.",
)

# %% [markdown]
# The same as numbers, the best gate of each kind. `gain` is the difference to the normal line
# only, on the same resampled images. Where its interval holds zero, the gate is not better beyond
# chance.

# %%
best_rows = sweep.loc[sweep.groupby(["mode", "rerank"])["map"].idxmax()]
best_rows.sort_values("map", ascending=False).round(4)

# %% [markdown]
# The best of many settings owes some of its score to the images by which it was chosen. To
# measure what choosing is worth, the images are dealt into two halves. The gate is chosen on one
# half and applied to the other, and the other way round. Compare the gain of this row with the
# gain of the gate that was chosen on all images.

# %%
crossed, choices = submission.cross_fitted(found, p_abnormal, val, **gating, resamples=resamples)
gated = submission.apply_gate(chosen, found, p_abnormal, p_findings=p_findings, classes=classes)
gates = submission.compare_gates(
    {"chosen on all, scored on all": gated, "chosen on one half, scored on the other": crossed}
    | submission.baselines(found, p_abnormal, classes=classes),
    val, p_abnormal.image_id.tolist(),
    classes=classes, iou_threshold=iou_threshold, resamples=resamples, seed=seed,
)  # fmt: skip
gates.round(4)

# %% [markdown]
# Do the halves agree on the gate?

# %%
Markdown("The halves chose: " + "; ".join(choice.describe() for choice in choices) + ".")

# %% [markdown]
# The gate was chosen on validation images and is only applied to the test images, never chosen there.
# The dotted line is what one gets for calling every image normal, which is the floor to compare any
# score with. Where the two halves choose differently, or the worth of choosing is not clear of zero,
# the exact setting is luck.
#
# ## The score
#
# The competition's mean over all classes counts the normal class as one of them; the mean over the
# findings does not. Look at the intervals: where would the score lie with other images of the kind?

# %%
card = metrics.scorecard(
    gated, val,
    classes=classes, iou_threshold=iou_threshold, image_ids=val_ids, resamples=resamples, seed=seed,
    coco=find_spec("faster_coco_eval") is not None,
)  # fmt: skip
print(card.text())

# %% [markdown]
# AP is the average precision of one class, FROC the share of its boxes found, averaged over seven
# rates of false alarms, AUC says how well images are ranked by their best box of the class. A class
# without truth in these images has no number and counts in no mean.
#
# F1 is marked, because its thresholds are the best on these images and F1 is therefore too high.
# The thresholds go into `evaluation.json`. Notebook 08 uses them on the test images, where F1 is
# not too high. Each threshold was chosen for one fold's detector; the scores of several fused
# detectors have another scale.
#
# Do not compare two models by their intervals. The scores of two models on the same images rise
# and fall together, so a difference much smaller than the intervals can be beyond chance. Only
# the interval of the difference itself tells (`gain` above; `metrics.paired_difference` for two
# runs).
#
# More totals, which other work reports:

# %%
totals = ("coco_map", "coco_ap50", "froc", "auc_abnormal", "map_bias")
pd.Series({name: card.totals[name] for name in totals if name in card.totals}).round(4).to_frame("value").T

# %% [markdown]
# COCO's score, where its tool is installed, averages over stricter and stricter overlaps, so it asks
# for exact edges, on which readers do not agree either. `map_bias` is by how much resampled scores lie
# above the score itself: resampling repeats images, and a copy of a hit helps the hit. The intervals
# are corrected for it.

# %%
per_class = card.table.rename(columns={"ap_low": "low", "ap_high": "high"})
run.figure(
    plots.per_class_ap(per_class, classes=classes),
    "02_per_class",
    "Average precision of each class with its 95 % interval; the number of truth boxes in brackets.",
)

# %% [markdown]
# Long lines belong to classes with few boxes, whose score depends mostly on chance. Compare the
# order with notebook 01's picture of how many readers marked a finding: the detector is best at
# findings on which readers agree.
#
# ## What readers reach
#
# Each reader is scored, on the same metric, against the fused boxes of the others who read the same
# images; and so is the detector, against the very same boxes. Look at the pairs: is the detector's dot
# left or right of the reader's?

# %%
readers = ann.read_annotations(run.input(schema.TRAIN_FULL_CSV), classes=classes)
readers = readers[readers.image_id.isin(val_ids)]
ceiling = metrics.reader_ceiling(
    readers,
    detections=gated, iou_threshold=iou_threshold, resamples=resamples, seed=seed,
    fusion_method=reader_fusion, fusion_iou_threshold=reader_fusion_iou, classes=classes,
)  # fmt: skip
run.figure(
    plots.reader_ceiling(ceiling),
    "03_ceiling",
    "Each reader (orange) and the detector (blue) against the other readers, on that reader's images; "
    "bars are 95 % intervals.",
)

# %% [markdown]
# The same as numbers. `map_tied` takes all boxes of a reader as equally sure, which they are.
# `difference` is the detector minus the reader, on the same images: beyond chance where its ends have
# the same sign.

# %%
too_few = f"No reader shares {metrics.LEAST_IMAGES} of these images with findings with another: no ceiling."
ceiling.round(3) if len(ceiling) else Markdown(too_few)

# %% [markdown]
# A reader gives no scores, so a reader's mAP is one point of a curve, while the detector's mAP is
# the area under a whole curve. The two can be compared only roughly, and the comparison favours
# the detector. Compare within a row; different rows are about different images. Where readers
# score low against each other, no detector can score high against them.
#
# ## Whose images we are judged on
#
# Most boxes were drawn by few readers. Is the score as high on the images that they did not read?
# Average precision falls with the share of images without the finding, so only images with findings
# count here, and only findings that both groups have. Look at the gap and its interval.

# %%
words = {"dominant": f"read by {', '.join(schema.DOMINANT_READERS)}", "other": "read by other readers only"}
of_group = ann.reader_groups(readers, classes=classes).groupby("group").image_id.agg(list)
groups = {words[name]: of_group[name] for name in words if name in of_group}
by_group = metrics.group_scores(
    gated, val, groups, iou_threshold=iou_threshold, resamples=resamples, seed=seed, classes=classes
)
by_group.round(3)

# %% [markdown]
# The gap is the first group's score minus the second's, resampled independently. These scores do
# not compare with the one above, which counts normal images too.

# %%
labels = by_group.group + " (" + by_group.images.astype(str) + ")"
run.figure(
    plots.scores_with_intervals(
        by_group.assign(name=labels, value=by_group["map"]),
        title="Images with findings, by who read them",
        label="mAP over the findings that both have",
    ),
    "04_groups",
    "Our score on images with findings, by who read them; images in brackets, bars are 95 % intervals.",
)

# %% [markdown]
# A gap beyond chance says that the groups differ, not why: a model may have learnt how the dominant
# readers draw, but the images of the others may also be harder, or hold more of the rare findings.
# The lower number is the one to expect from readers who are not in the training set.
#
# ## Precision and recall, class by class
#
# Look at the left end of each curve: are the most confident boxes right?

# %%
limits = {"image_ids": val_ids, "iou_threshold": iou_threshold}
boxed = metrics.with_normal_rows(val, classes)
voc = metrics.voc_map(gated, boxed, **limits)
curves = {i: (curve.recall.to_numpy(), curve.precision.to_numpy()) for i, curve in voc.curves.items()}
run.figure(
    plots.pr_curves(curves, voc.per_class.set_index("class_id").ap.to_dict(), classes=classes),
    "05_pr_curves",
    "Precision against recall for each class, average precision in the title: the shaded area.",
)

# %% [markdown]
# A curve that starts high and stops early finds few boxes but is right about them; one that runs
# along the bottom finds many among far more false alarms. The area counts the same for both.
#
# ## FROC: how many false alarms for a find
#
# Radiologists ask how many findings are found for how many false alarms. Look at one false alarm
# per image on the axis below.

# %%
froc = metrics.froc(gated, val, class_ids=findings, **limits)
mean = (froc.sensitivity.index.to_numpy(), froc.sensitivity.to_numpy())
lines = {i: (c.false_positives.to_numpy(), c.sensitivity.to_numpy()) for i, c in froc.curves.items()}
run.figure(
    plots.froc(mean, lines, classes=classes),
    "06_froc",
    "Share of truth boxes found against false alarms per image, for each finding and on average.",
)

# %% [markdown]
# The thick line is the mean over the findings at the usual rates. Where it is still rising at the
# right end, the boxes are there but ranked too low. The same at the seven rates, as numbers:

# %%
rates = {f"froc_at_{rate:g}": f"{rate:g}" for rate in metrics.FROC_RATES}
sensitivity = card.table.set_index("class_name")[[*rates, "froc", "n_truth"]]
sensitivity.dropna().rename(columns=rates | {"froc": "mean"}).round(3)

# %% [markdown]
# Read along a row: what does a class gain when more false alarms are allowed? Read down the column of
# one: which findings are safe at a price that a radiologist would pay?
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
    "07_threshold",
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
    plots.confusion(
        confusion.rename(
            index=names | {metrics.BACKGROUND: "false alarm"}, columns=names | {metrics.BACKGROUND: "missed"}
        )
    ),
    "08_confusion",
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
    "09_errors",
    "What became of the boxes above the threshold, and the truth boxes that were missed.",
)

# %% [markdown]
# Now the price: by how much would the score rise, were all errors of one kind put right and no other?

# %%
errors.gain.round(4).to_frame("mAP gained if these errors were put right").T

# %% [markdown]
# The counts say which errors are common, the gains say what each kind costs. Compare the cost of
# missed findings and false alarms with that of badly placed boxes: usually better ranking gains
# more than better edges.

# %%
run.figure(
    plots.detection_scores(errors.detections, (errors.detections.kind == "hit").to_numpy()),
    "10_scores",
    "Scores of hits and of false alarms above the threshold.",
)

# %% [markdown]
# Where the two distributions overlap, the score does not tell a hit from a false alarm.
#
# ## Galleries, sorted by how wrong we were
#
# Solid boxes are the detector's, dashed ones the readers'.

# %%
shown, drawn = errors.detections, errors.truth
keys = ["image_id", "class_id", "x_min", "y_min"]
overlooked = drawn[drawn.kind == "missed"].merge(val[[*keys, "n_readers"]], on=keys, how="left")
galleries = {
    "11_false_alarms": ("False alarms, the surest first", shown[shown.kind == "background"], "score"),
    "12_misses": ("Missed findings, those that most readers saw first", overlooked, "n_readers"),
    "13_hits": ("Hits, the surest first", shown[shown.kind == "hit"], "score"),
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
figures["11_false_alarms"]

# %% [markdown]
# On these images the detector was most certain and no reader saw anything. Some boxes are
# findings that no reader drew. Others are devices, skin folds, or a heart at the upper limit of
# size.
#
# The next images show missed findings, beginning with those that most readers marked. The
# detector should have found these.

# %%
figures["12_misses"]

# %% [markdown]
# A finding that is small, faint, or behind the heart or the diaphragm needs more pixels. A missed
# large finding needs more training images of its kind.
#
# The last gallery shows the best images, for comparison.

# %%
figures["13_hits"]

# %% [markdown]
# A hit may lie a good way off and still count: compare the solid boxes with the dashed ones.
#
# ## Step through the worst of them
#
# The most wrong images, to page through by arrow keys; move the score and see what it hides. How wrong an
# image is stands above it. `cxr view` in a terminal makes such a page of all validation and test images.

# %%
viewer.notebook_page(
    store, val_ids, classes=classes, readers=readers, truth=val, detections=found,
    score_threshold=threshold, iou_threshold=iou_threshold, images=gallery_images,
)  # fmt: skip

# %% [markdown]
# ## Summary
#
# All numbers go into `evaluation.json`, with the gate that notebook 08 will apply.

# %%
by_name = gates.set_index("name")
honest = by_name.loc["chosen on one half, scored on the other"]
extra = {
    "caution": "detectors are the epochs that scored best on these images; gate, threshold chosen on them",
    "map_normal_line_only": by_name.loc[submission.LINE_ONLY, "map"],
    "map_without_gate": by_name.loc["no gate, no normal line", "map"],
    "map_all_normal": by_name.loc["every image normal", "map"],
    **{f"gate_cross_fitted_{column}": value for column, value in honest.items()},
    "display_threshold": threshold,
    "readers": metrics.plain_rows(ceiling),
    "reader_groups": metrics.plain_rows(by_group),
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
