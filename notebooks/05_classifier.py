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
# # Train the classifier: normal or not?
#
# Most chest radiographs are normal. A detector that puts boxes on normal images pays for each of
# them, so a second opinion on the whole image is worth having: the probability that anything is
# abnormal. It is used as a gate in notebooks 07 and 08. This is also where people have fooled
# themselves, so every number here is out of fold, has an interval, and is split by where the
# knowledge comes from.
#
# - **Reads** `03_features/dicom_pixels_features.csv`, `02_preprocess/dicom_metadata.csv`,
#   `02_preprocess/images/`, `01_eda/train_full_dataset.csv`, `04_split/folds.csv`
# - **Writes** `05_classifier/binary_classifier.ubj`, `05_classifier/oof_probabilities.csv`,
#   `05_classifier/classifier_post_pred.csv` (test images)
# - **Time** demo (CPU) about 1 minute; full data set about 10 minutes; no GPU

# %%
import pandas as pd
from IPython.display import Markdown

from cxr import annotations as ann
from cxr import classifier as clf
from cxr import features as feat
from cxr import plots, schema
from cxr.rundir import RunDir, locate
from cxr.store import ImageStore

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
run_dir: str = "outputs/demo"  # folder of the run
data_dir: str = "data/demo"  # folder with train.csv, for the names of the classes
seed: int = 0  # for subsampling and resampling
feature_groups: list[str] = ["pixel"]  # what the gate may know: pixel, header, detector
calibration: str = "sigmoid"  # sigmoid, isotonic or none
max_rounds: int = 400  # most boosting rounds
trials: int = 1  # settings to try in the search, the first is the default
search_seconds: float = 60.0  # s, no new trial after this
per_finding: bool = True  # also one probability a finding, for re-ranking boxes
oof_detections: str = ""  # val_predictions.csv of an earlier run, for the feature group "detector"
test_detections: str = ""  # CSV of detections on the test images, likewise
resamples: int = 500  # bootstrap resamples for intervals

# %% [markdown]
# What follows from the parameters: labels, folds, and which image is for training and which for the
# test.

# %%
run = RunDir(run_dir, "05_classifier")
classes = ann.read_classes(locate(data_dir))
annotations = ann.read_annotations(run.input(schema.TRAIN_FULL_CSV), classes=classes)
folds = pd.read_csv(run.input(schema.FOLDS_CSV), dtype={"image_id": str})
store = ImageStore(run.input(schema.IMAGES_DIR))
train_ids, test_ids = store.ids_of("train"), store.ids_of("test")

# %% [markdown]
# ## Features, by group
#
# Pixel features come from notebook 03. Header features get their yes-or-no columns from the training
# images alone. Detector features need detections made by a model that did not see the image: they
# join when `oof_detections` names notebook 07's file of an earlier run with the same folds.

# %%
columns = ["image_id", *schema.PIXEL_FEATURES]
pixel = pd.read_csv(run.input(schema.FEATURES_CSV), usecols=columns, dtype={"image_id": str})
headers = pd.read_csv(run.input(schema.HEADERS_CSV), dtype=str, keep_default_na=False)
in_train = headers.image_id.isin(train_ids)
header_train = feat.header_features(headers[in_train])
versions = feat.header_versions(header_train.columns)
header_test = feat.header_features(headers[~in_train], versions=versions)

# %% [markdown]
# Without the two files the detector group is empty; the other two are always there, so that they can
# be compared. Look at how many features each group brings.

# %%
tables, test_tables = [pixel, header_train], [pixel[pixel.image_id.isin(test_ids)], header_test]
sizes = store.index[schema.SIZE_COLUMNS]
if oof_detections:
    found = pd.read_csv(locate(oof_detections), dtype={"image_id": str})
    held_out = folds.fold.isin(folds.fold[folds.image_id.isin(found.image_id)])
    ids = folds.image_id[held_out].tolist()
    tables.append(feat.detector_features(found, ids, oof_image_ids=ids, sizes=sizes, classes=classes))
if test_detections:
    found = pd.read_csv(locate(test_detections), dtype={"image_id": str})
    test_tables.append(
        feat.detector_features(found, test_ids, oof_image_ids=test_ids, sizes=sizes, classes=classes)
    )
features = feat.join_features(*tables)
features = features[features.image_id.isin(folds.image_id)]
pd.Series([feat.feature_group(name) for name in features.columns[1:]], name="group").value_counts().to_frame()

# %% [markdown]
# An image is abnormal when any reader found anything. Look at the share: it is what a coin that knows
# only this number would get right.

# %%
labels = clf.image_labels(annotations[annotations.image_id.isin(features.image_id)], classes=classes)
settings = {"calibration": calibration, "max_rounds": max_rounds, "trials": trials,
            "search_seconds": search_seconds, "seed": seed}  # fmt: skip
Markdown(f"{len(labels):,} images, {labels.mean():.0%} of them abnormal.")

# %% [markdown]
# ## Out of fold
#
# For each fold a model is trained on the others, stopped early inside them, and calibrated inside
# them. Each image's probability comes from the model that never saw it. Look for a message: with one
# kind of image only there is nothing to learn.

# %%
cv = clf.cross_validate(features, labels, folds, groups=tuple(feature_groups), **settings)
truth, p = cv.oof["abnormal"].to_numpy(), cv.oof["p_abnormal"].to_numpy()
Markdown(cv.message or f"Trained on {', '.join(feature_groups)} features, {len(cv.models)} folds.")

# %% [markdown]
# The message says what was trained, or why nothing could be. Then the scores of these out-of-fold
# probabilities; look at the distance between `low` and `high`.

# %%
scores = clf.scores(truth, p, resamples=resamples, seed=seed)
scores.round(3)

# %% [markdown]
# AUC: how often an abnormal image gets the higher probability of two. Average precision: the same
# question asked from the top of the list. Accuracy needs a threshold and flatters when one kind is
# common. Brier: squared error of the probability, lower is better. `low` and `high` enclose the value
# in 95 of 100 resamplings of the images.
#
# ## What each group of features is worth
#
# Look at the first row: what the header knows without the image.

# %%
ablation = clf.ablation(
    features, labels, folds, **settings, resamples=resamples, progress=run.progress("settings")
)
run.figure(
    plots.ablation(ablation),
    "01_ablation",
    "Each group of features alone and together, out of fold, with 95 % intervals.",
)

# %% [markdown]
# Dots are values, lines are intervals; two settings whose lines overlap have not been told apart. The
# same as numbers:

# %%
columns = ["setting", "n_features", "images", "auc", "auc_low", "auc_high", "ap", "accuracy", "brier"]
ablation[columns].round(3)

# %% [markdown]
# And in words, if the headers alone know too much:

# %%
warning = clf.leak_warning(ablation)
Markdown(f"> **{warning}**" if warning else "The header alone says no more than it should.")

# %% [markdown]
# If the header row stands high, the data set leaks: the file says which department sent it. A score
# that rests on this will not survive a change of hospital. That is why `feature_groups` leaves
# headers out unless asked, and why this table is always printed.
#
# ## ROC and precision-recall
#
# Look at the width of the bands as much as at the lines: two models whose bands overlap have not been
# told apart.

# %%
curves = {"used by the gate": p}
if "header" not in feature_groups:
    with_header = clf.cross_validate(features, labels, folds, groups=("pixel", "header"), **settings)
    curves["with header features"] = with_header.oof["p_abnormal"].to_numpy()
run.figure(
    plots.roc_and_pr(truth, curves, seed=seed),
    "02_roc_pr",
    "ROC and precision-recall, out of fold, with 95 % bands from resampled images.",
)

# %% [markdown]
# On the left the dotted diagonal is guessing; on the right the dotted line is the share of abnormal
# images, which is what guessing gets.
#
# ## Is a probability of one half really one half?
#
# The gate uses the number itself, so it must mean what it says. Points on the diagonal do.

# %%
tables = {"as trained": clf.reliability(truth, cv.oof["p_raw"]), "calibrated": clf.reliability(truth, p)}
run.figure(
    plots.calibration(tables),
    "03_calibration",
    "Share of abnormal images against the probability given, before and after calibration.",
)

# %% [markdown]
# Above the diagonal the model is too cautious, below it too sure. Class weights alone make raw
# probabilities too high, which calibration takes back. Bins with few images (short bars) have long
# intervals; do not read them.
#
# How far apart do the two kinds of image land? Look at the middle, where they mix.

# %%
run.figure(
    plots.probability_histogram(truth, p),
    "04_probabilities",
    "Where normal and abnormal images land on the scale of probabilities.",
)

# %% [markdown]
# Images in the middle are those the gate can do little for: it changes their boxes' scores a little,
# and nothing is lost if it is wrong.
#
# ## What the model looks at
#
# Two answers to one question. Shuffle a feature and see how much AUC is lost; or add up, for each
# image, what each feature contributed. Look for features that the first picture finds useless and the
# second finds busy: they come in families.

# %%
run.figure(
    plots.permutation_importance(clf.permutation_importance(cv, seed=seed)),
    "05_permutation",
    "AUC lost when a feature is shuffled, out of fold.",
)

# %% [markdown]
# A bar near zero means that the other features can stand in for this one. Now the same model image by
# image; look for features whose red and blue dots lie on different sides.

# %%
run.figure(
    plots.shap_summary(clf.shap_values(cv), cv.features, seed=seed),
    "06_shap",
    "What each feature added to each image's log-odds; a dot is an image, its colour the feature's value.",
)

# %% [markdown]
# Dots to the right pushed an image towards abnormal. When red dots (high values) lie on one side
# only, the feature works in one direction.
#
# ## The most confident mistakes
#
# Normal images that the model was sure about, and abnormal ones that it let pass. Look whether they
# look like mistakes.

# %%
missed = cv.oof[cv.oof.abnormal == 1].nsmallest(4, "p_abnormal")
alarms = cv.oof[cv.oof.abnormal == 0].nlargest(4, "p_abnormal")
panels = []
for row in pd.concat([alarms, missed]).itertuples():
    pixels, size = store[row.image_id], store.original_size(row.image_id)
    boxes = annotations[annotations.image_id == row.image_id]
    title = f"{'abnormal' if row.abnormal else 'normal'}, p = {row.p_abnormal:.2f}\n{row.image_id[:16]}"
    panels.append(plots.Panel(pixels, title, plots.reader_marks(boxes, size, pixels.shape, classes=classes)))
run.figure(
    plots.gallery(panels, columns=4),
    "07_mistakes",
    "Normal images most confidently called abnormal, then abnormal ones called normal, with readers' boxes.",
)

# %% [markdown]
# What a model of whole-image texture misses are small things, which is the detector's job. A false
# alarm often shows another exposure, a device or a rotated patient.
#
# ## The final model
#
# Trained once more on all training images, saved as data (UBJ) with the names and the order of its
# features, and applied to the test images.

# %%
model = clf.fit(features, labels, folds=folds, groups=tuple(feature_groups), **settings)
digest = clf.save(model, run.output(schema.CLASSIFIER_UBJ))
on_test = feat.join_features(*test_tables)
test_p = model.predict(on_test) if len(on_test) else pd.DataFrame(columns=["image_id", "p_abnormal"])
Markdown(f"{len(model.feature_names)} features, {model.rounds} rounds, sha256 `{digest[:12]}…`")

# %% [markdown]
# The hash is written beside the file and checked when it is loaded: a flipped bit would otherwise
# load without a word.
#
# ## One probability a finding
#
# The same trees with one output for each finding. Notebooks 07 and 08 may use them to move boxes up
# or down within the image. Look at the names of the columns.

# %%
oof = cv.oof
if per_finding:
    findings = clf.finding_labels(annotations[annotations.image_id.isin(features.image_id)], classes=classes)
    multi = clf.cross_validate(features, findings, folds, groups=tuple(feature_groups), **settings)
    oof = oof.merge(multi.oof.drop(columns="fold"), on="image_id")
    if len(on_test):
        multi_model = clf.fit(features, findings, folds=folds, groups=tuple(feature_groups), **settings)
        test_p = test_p.merge(multi_model.predict(on_test), on="image_id")
run.write_csv(oof, schema.OOF_CSV)
run.write_csv(test_p, schema.CLASSIFIER_TEST_CSV)
oof.head()

# %% [markdown]
# `p_abnormal` is the calibrated probability, `p_raw` the one before calibration, `p_0` and so on are
# the findings by class id. Every row comes from models that did not see the image.
#
# ## Summary
#
# An out-of-fold probability for each training image, one for each test image, and a table that says
# how much of it is medicine.
#
# **Next:** notebook 06 trains the detector; notebook 07 tries the gate.

# %%
# NBVAL_CHECK_OUTPUT
print("images", len(oof), "abnormal", int(oof.abnormal.sum()))
print("test images", len(test_p))
print("features", len(model.feature_names), "of groups", ", ".join(model.groups))
print("settings compared", ", ".join(ablation.setting))
