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
# # Write the submission
#
# The test images go through the detector and the gate that notebook 07 chose, and come out as two
# files: one in the competition's format, one that a person can read. Where the truth of the test
# images is known (in a study, or on the phantom), the score is printed at the end.
#
# - **Reads** `06_detector/checkpoints/`, `02_preprocess/images/`, `02_preprocess/failures.csv`,
#   `04_split/folds.csv`, `05_classifier/classifier_post_pred.csv`, `07_evaluation/evaluation.json`,
#   `07_evaluation/looks.json`; where they are there `sample_submission.csv`, `test_truth.csv`
# - **Writes** `08_submission/test_predictions.csv`, `08_submission/test_predictions_reformatted.csv`,
#   `08_submission/test_detections.csv` with `08_submission/test_detections.json`,
#   `08_submission/kernel/`, and with a truth `08_submission/score.json`
# - **Time** demo (CPU) under 1 minute; full data set about 10 minutes on one GPU

# %%
import json

import pandas as pd
from IPython.display import Markdown

from cxr import annotations as ann
from cxr import chain, errors, kaggle, metrics, plots, schema, submission, viewer
from cxr import features as feat
from cxr.detector.checkpoints.run import checkpoints_by_fold, chosen_checkpoints
from cxr.detector.prediction.detector import class_weights, load_detectors
from cxr.detector.prediction.fusion import fuse_detections
from cxr.detector.prediction.looks import read_looks
from cxr.detector.prediction.predict import predict_store
from cxr.rundir import RunDir, locate
from cxr.splits import read_folds
from cxr.store import ImageStore

# %% [markdown]
# ## Parameters
#
# The gate is notebook 07's choice unless `gate_mode` names another.

# %% tags=["parameters"]
run_dir: str = "outputs/demo"  # machine: folder of the run
data_dir: str = "data/demo"  # machine: folder; may hold classes.csv, sample_submission.csv, test_truth.csv
seed: int = 0  # for resampling
predict_batch_size: int = 8  # images a step
num_workers: int = 0  # machine: loading processes
gate_mode: str = "auto"  # auto: notebook 07's choice; line: normal line only; soft, cut or none
resamples: int = 500  # bootstrap resamples for intervals
gallery_images: int = 8  # images in each gallery

# %% [markdown]
# What follows from the parameters: the images to answer for. Each image of the sample submission
# needs an answer, an unreadable one too.

# %%
run = RunDir(run_dir, "08_submission")
run.output(schema.SCORE_JSON).unlink(missing_ok=True)  # an old score must not outlive its submission
data = locate(data_dir)
classes = ann.read_classes(data)
store = ImageStore(run.input(schema.IMAGES_DIR))
sample = data / "sample_submission.csv"
test_ids = store.ids_of("test")
failures = pd.read_csv(run.input(schema.FAILURES_CSV), dtype=str)
unread = failures.image_id[failures.split == "test"].tolist()
image_ids = submission.sample_ids(sample) if sample.is_file() else sorted({*test_ids, *unread})
Markdown(f"{len(image_ids):,} images to answer for, {len(test_ids):,} of them readable.")

# %% [markdown]
# ## Predictions
#
# Every detector looks at every test image, one after the other, as it looked at the validation images in
# notebook 07. Where there are several, notebook 07 has learnt what the scores of each are worth. Look at
# the number of boxes.

# %%
record = read_looks(run.input(schema.LOOKS_JSON))
looks, iou_threshold = record.looks, record.iou_threshold
files = chosen_checkpoints(run.input(schema.CHECKPOINTS_DIR), record.checkpoints)
readable = [i for i in image_ids if i in store]
detectors = load_detectors(files, record.calibrations)
by_detector = [
    predict_store(
        detector, store, readable, looks=looks,
        batch_size=predict_batch_size, num_workers=num_workers, progress=run.progress("images"),
    )
    for detector in detectors
]  # fmt: skip
Markdown(f"{sum(map(len, by_detector)):,} boxes from {len(files)} detector(s).")

# %% [markdown]
# These boxes, before any gate and with the fold that each detector left out, are kept for notebook 05 of
# a later run (`test_detections`), which makes features of them. Detectors of another run have no folds
# here, so theirs are not kept.

# %%
if not record.checkpoints:
    folds = read_folds(run.input(schema.FOLDS_CSV))
    trained = list(checkpoints_by_fold(files))
    marked = [table.assign(fold=fold) for fold, table in zip(trained, by_detector, strict=True)]
    run.write_csv(pd.concat(marked, ignore_index=True), schema.TEST_DETECTIONS_CSV)
    run.write_json(feat.fold_record(folds, trained), schema.TEST_DETECTIONS_JSON)

# %% [markdown]
# Where there are several detectors, boxes that overlap become one. A box that one of the detectors did
# not draw gets a lower score (`detector_fusion` in notebook 07 names other ways). Where notebook 07 has
# learnt how much each detector counts for each finding, it counts so here.

# %%
found = fuse_detections(by_detector, readable, looks=looks, weights=class_weights(detectors))
Markdown(f"{len(found):,} boxes to gate.")

# %% [markdown]
# Weak boxes are kept: they cost nothing, and sometimes hit.
#
# ## The gate
#
# Notebook 07 chooses among gates that give every image a normal line with the score 1 -
# p(abnormal), a graded number and never simply 0 or 1. Only `gate_mode: none` gives no normal
# line. An image that could not be read still needs an answer: it gets the mean probability and no
# boxes.

# %%
answers = run.read_csv(schema.CLASSIFIER_TEST_CSV).set_index("image_id")
answers = answers.reindex(image_ids).fillna(answers.mean()).fillna(0.5).reset_index()
p_abnormal, p_findings = answers[["image_id", "p_abnormal"]], answers.drop(columns="p_abnormal")
evaluation = json.loads(run.input(schema.EVALUATION_JSON).read_text())
chosen = submission.gate_by_name(gate_mode, evaluation)
gated = submission.apply_gate(chosen, found, p_abnormal, p_findings=p_findings, classes=classes)
graded = gated[(gated.class_id == classes.normal_id) & gated.score.between(0, 1, inclusive="neither")]
Markdown(
    f"Gate: **{chosen.describe()}**{', chosen in notebook 07' if gate_mode == 'auto' else ''}. "
    f"{graded.image_id.nunique():,} of {len(image_ids):,} images have a graded normal line."
)

# %% [markdown]
# The gate was chosen on validation images by mAP. Choosing it by the score of the test images
# would make that score too high.
#
# ## Both files
#
# Look at the second table: one row a box, in pixels of the original image, the normal class with its
# one-pixel box.

# %%
path = run.output(schema.SUBMISSION_CSV)
submission.write(gated, image_ids, path, classes=classes)
table = submission.reformat(gated, image_ids, classes=classes)
submission.write_table(table, run.output(schema.SUBMISSION_TABLE_CSV))
table.sort_values("score", ascending=False).head(8)

# %% [markdown]
# Every image has a row, normal ones too. Now the competition's file is read back.

# %%
if sample.is_file():
    parsed = submission.check(path, sample, classes=classes)
else:
    parsed = submission.parse(path, classes=classes)
against = (
    "the images of the sample submission" if sample.is_file() else "no sample submission to compare with"
)
Markdown(f"Read back: {parsed.image_id.nunique():,} images, {len(parsed):,} predictions; {against}.")

# %% [markdown]
# `cxr score` uses the same parser. The check compares with the competition's sample: the same
# images, each once. A submission that fails here would fail on Kaggle.
#
# ## What it looks like
#
# Boxes above the threshold for people (notebook 07), the images most likely abnormal first. Look for
# boxes where nobody could put one.

# %%
threshold = evaluation["display_threshold"]
visible = found[found.score >= threshold]
order = p_abnormal[p_abnormal.image_id.isin(test_ids)].sort_values("p_abnormal", ascending=False)
panels = []
for row in order.head(gallery_images).itertuples():
    pixels, size = store[row.image_id], store.original_size(row.image_id)
    boxes = visible[visible.image_id == row.image_id].nlargest(8, "score")
    marks = plots.class_marks(boxes, size, pixels.shape, classes=classes)
    panels.append(plots.Panel(pixels, f"{row.image_id[:16]}\np(abnormal) = {row.p_abnormal:.2f}", marks))
run.figure(
    plots.gallery(panels, empty="No test image."),
    "01_predictions",
    "Test images most likely abnormal, with the boxes above the threshold for people.",
)

# %% [markdown]
# Several boxes with different names on one place mean that the detector sees something and is not
# sure what it is. The metric allows this. A person should be shown the best of these boxes.
#
# ## For Kaggle
#
# A folder that can be pushed as it is: one notebook that carries the package and the parameters of
# this run, and its metadata, with the internet off. A headless run leaves its parameters in the run's
# folder; without them there is nothing to pack.

# %%
parameters, left_out = run.root / chain.PARAMETERS, "no parameter file"
try:
    if parameters.is_file():
        kaggle.write_kernel(chain.load_parameters(parameters), run.output(schema.KERNEL_DIR))
except errors.ParameterError as error:  # files of this machine, which no kernel could open
    left_out = str(error)
packed = sorted(path.name for path in (run.root / schema.KERNEL_DIR).glob("*"))
Markdown(f"In `{schema.KERNEL_DIR}/`: {', '.join(packed)}." if packed else f"Left out: {left_out}.")

# %% [markdown]
# `cxr kaggle` writes the same folder from any parameter file, with your own name and title. With `--infer`
# and this run it writes a kernel that only predicts, and the data set with the detectors.
#
# ## The score
#
# Only where `test_truth.csv` is there. Precision, recall and F1 are taken at the thresholds that
# notebook 07 chose on validation images; choosing them here would look up the answers.

# %%
truth = ann.read_test_truth(data, classes=classes)
scored = truth is not None
if scored:
    common = {"classes": classes, "iou_threshold": iou_threshold, "image_ids": image_ids}
    # A threshold of null stands for a finding that nothing hit: all of its boxes are shown.
    cuts = {row["class_id"]: row["score_threshold"] for row in evaluation["per_class"]}
    cuts = {class_id: cut for class_id, cut in cuts.items() if cut is not None}
    card = metrics.scorecard(parsed, truth, **common, thresholds=cuts, resamples=resamples, seed=seed)
print(card.text() if scored else "No test_truth.csv: nothing to score here.")

# %% [markdown]
# Read the table as in notebook 07. F1 has one flaw: the thresholds were chosen for the detector
# of each fold alone, and where several detectors are fused their scores have another scale.
#
# Next, four numbers to compare: with the gate, with the normal line only, without either, and without
# any model at all.

# %%
if scored:
    gates = submission.compare_gates(
        {"this submission": parsed} | submission.baselines(found, p_abnormal, classes=classes),
        truth, image_ids, classes=classes, iou_threshold=iou_threshold, resamples=resamples, seed=seed,
    )  # fmt: skip
    names = ("map_normal_line_only", "map_without_gate", "map_all_normal")
    others = dict(zip(names, gates["map"][1:], strict=True))
    gain = {f"gate_{name}": gates.loc[0, name] for name in ("gain", "gain_low", "gain_high")}
    run.write_json(card.as_dict() | others | gain, schema.SCORE_JSON)
gates.round(4) if scored else "Nothing to compare."

# %% [markdown]
# `gain` is the difference to the normal line only, on the same resampled images, so its interval is
# narrower than those of the scores. The first row's is the gate's own worth: look whether it holds zero.
# The step from the third row to the second is the normal line, which needs a classifier but no gate.

# %%
columns = {"map": "value", "map_low": "low", "map_high": "high"}
comparison = gates.rename(columns=columns) if scored else pd.DataFrame(columns=["name", "value"])
run.figure(
    plots.scores_with_intervals(comparison, title="Score on the test images", label="mAP over all classes"),
    "02_score",
    "Score of the submission with its 95 % interval, and what less than it would score.",
)

# %% [markdown]
# The mean over all classes counts the normal class as one of them, so the normal line moves it most. The
# mean over the findings (`map_findings`) says how good the boxes are: a gate that lifts the first and
# lowers the second helps the normal class at the boxes' cost.
#
# Which test images went worst, or, without a truth, where the surest boxes are: arrow keys page.

# %%
viewer.notebook_page(
    store, readable, classes=classes, truth=truth if scored else None, detections=found,
    score_threshold=threshold, iou_threshold=iou_threshold, images=gallery_images,
) if readable else "No test image."  # fmt: skip

# %% [markdown]
# ## Summary
#
# The submission, its readable twin, the kernel folder, and, with a truth, the score. `cxr score`
# gives the same numbers for any submission file. This is the number that counts:

# %%
if scored:
    total = card.totals
    print(f"mAP@{iou_threshold:g} on the test images, over all classes: {total['map']:.4f}")
    print(f"95 % interval: {total['map_low']:.4f} to {total['map_high']:.4f}")
    print(f"over the findings: {total['map_findings']:.4f}")

# %% [markdown]
# **Next:** look at the report (`report.html` in the run's folder), change a parameter, and run again
# under another `run_dir`.

# %%
# NBVAL_CHECK_OUTPUT
print("images answered for", parsed.image_id.nunique())
print("files", ", ".join(sorted(p.name for p in run.folder.glob("*.csv"))))
