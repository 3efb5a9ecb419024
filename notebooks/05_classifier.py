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
# # Train the classifier: normal or not?
#
# Most chest radiographs are normal. Every box that a detector puts on a normal image lowers its
# score. The classifier of this notebook gives a second opinion on the whole image: the
# probability that anything is abnormal. Notebooks 07 and 08 use this probability as a gate. Such
# probabilities are easily too good, so every number here is out of fold, has an interval, and is
# split by the kind of feature it comes from.
#
# - **Reads** `03_features/dicom_pixels_features.csv`, `02_preprocess/dicom_metadata.csv`,
#   `02_preprocess/images/`, `01_eda/train_full_dataset.csv`, `04_split/folds.csv`
# - **Writes** `05_classifier/binary_classifier.ubj`, `05_classifier/finding_classifier.ubj`,
#   `05_classifier/ablation.csv`, `05_classifier/oof_probabilities.csv`,
#   `05_classifier/classifier_post_pred.csv` (test images)
# - **Time** demo (CPU) about 1 minute; full data set about 10 minutes; no GPU

# %%
import pandas as pd
from IPython.display import Markdown

from cxr import annotations as ann
from cxr import classifier as clf
from cxr import errors, plots, recipes, schema
from cxr import features as feat
from cxr.rundir import RunDir, locate
from cxr.splits import read_folds
from cxr.store import ImageStore

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
run_dir: str = "outputs/demo"  # machine: folder of the run
data_dir: str = "data/demo"  # machine: folder with classes.csv, if you have one
seed: int = 0  # for subsampling, the search and resampling
feature_groups: list[str] = ["pixel"]  # what the classifier may know, one or more: pixel, header or detector
calibration: str = "sigmoid"  # how margins become probabilities: sigmoid, isotonic or none
max_rounds: int = 400  # most boosting rounds
trials: int = 1  # settings of the trees to try; the first is the default
search_seconds: float = 3600.0  # s, safety net: no new trial is begun after this, and a warning is given
threads: int = 1  # machine: threads of XGBoost; the trees do not depend on it
oof_detections: str = ""  # 07_evaluation/val_predictions.csv of an earlier run, for the group "detector"
test_detections: str = ""  # 08_submission/test_detections.csv of the same run
resamples: int = 500  # bootstrap resamples for intervals

# %% [markdown]
# What follows from the parameters: labels, folds, and which image is for training and which for the
# test.

# %%
run = RunDir(run_dir, "05_classifier")
classes = ann.read_classes(locate(data_dir))
annotations = ann.read_annotations(run.input(schema.TRAIN_FULL_CSV), classes=classes)
folds = read_folds(run.input(schema.FOLDS_CSV))
store = ImageStore(run.input(schema.IMAGES_DIR))
train_ids, test_ids = store.ids_of("train"), store.ids_of("test")

# %% [markdown]
# ## Features, by group
#
# Pixel features come from notebook 03. Header features get their yes-or-no columns from the training
# images alone.

# %%
columns = ["image_id", *schema.PIXEL_FEATURES]
pixel = run.read_csv(schema.FEATURES_CSV)[columns]
headers = pd.read_csv(run.input(schema.HEADERS_CSV), dtype=str, keep_default_na=False)
header_train = feat.header_features(headers[headers.image_id.isin(train_ids)])
versions = feat.header_versions(header_train.columns)
header_test = feat.header_features(headers[headers.image_id.isin(test_ids)], versions=versions)
tables = [pixel[pixel.image_id.isin(train_ids)], header_train]
test_tables = [pixel[pixel.image_id.isin(test_ids)], header_test]

# %% [markdown]
# Detector features must come from a detector that did not see the image. This needs a detector
# for every fold, and notebook 06 trains those later. Hence two runs. The first run names all
# folds in `train_folds`; its notebooks 07 and 08 write boxes. The second run gets the paths of
# these boxes as `oof_detections` and `test_detections`. Both files carry the fold that each
# detector left out, and a hash of the table of folds. This notebook refuses boxes of a detector
# that was trained on the image. Look whether the group is there.

# %%
files = (oof_detections, test_detections)
by_fold, test_by_fold = [feat.read_fold_detections(locate(f), folds) if f else {} for f in files]
uncovered = sorted(set(folds.fold) - set(by_fold))
if not uncovered or "detector" in feature_groups:  # asked for and not there: an error that says why
    sizes = store.index[schema.SIZE_COLUMNS]
    tables.append(feat.oof_detector_features(by_fold, folds, sizes=sizes, classes=classes))
if "detector" in feature_groups and set(test_by_fold) != set(by_fold):
    raise errors.DataError("test_detections: expected boxes of the same detectors as in oof_detections")
absent = f"no out-of-fold detections of fold {', '.join(map(str, uncovered))}" if uncovered else ""
Markdown(f"Detector features are left out: {absent}." if absent else "Detector features of every fold.")

# %% [markdown]
# Without detector features, the rows of the comparison below that need them stay empty. Look at
# how many features each group brings.

# %%
features = feat.join_features(*tables)
features = features[features.image_id.isin(folds.image_id)]
pd.Series([feat.feature_group(name) for name in features.columns[1:]], name="group").value_counts().to_frame()

# %% [markdown]
# An image is abnormal when any reader found anything. Look at the share of abnormal images: the
# accuracies below have to be read beside it.

# %%
labels = clf.image_labels(annotations[annotations.image_id.isin(features.image_id)], classes=classes)
recipe = recipes.from_values(clf.Recipe, globals())
Markdown(f"{len(labels):,} images, {labels.mean():.0%} of them abnormal.")

# %% [markdown]
# ## Out of fold
#
# For each fold one model is trained on the other folds. Early stopping and calibration use images
# of those other folds only. Each image's probability comes from the model that never saw the
# image. Every group of features is tried. The settings of the trees are searched once, for the
# groups that the gate uses. Look for a message: with one kind of image only there is nothing to
# learn.

# %%
results = clf.compare_groups(features, labels, folds, recipe, progress=run.progress("settings"))
used = clf.setting_name(feature_groups)
cv = results[used]
truth, p = cv.oof["abnormal"].to_numpy(), cv.oof["p_abnormal"].to_numpy()
rounds = ", ".join(str(model.rounds) for model in cv.models.values())
Markdown(cv.message or f"Trained on {used} features, {len(cv.models)} folds, {rounds} rounds.")

# %% [markdown]
# The message says what was trained, or why nothing could be. Then the scores of these out-of-fold
# probabilities; look at the distance between `low` and `high`.

# %%
scores = clf.scores(truth, p, resamples=resamples, seed=seed)
scores.round(3)

# %% [markdown]
# AUC is the chance that, of one abnormal and one normal image, the abnormal image gets the higher
# probability. Average precision is the mean precision along the list of images, sorted by
# probability. Accuracy needs a threshold, and it is high by itself when one kind of image is
# common. The Brier score is the mean squared error of the probability; lower is better. `low` and
# `high` enclose the value in 95 of 100 resamplings of the images.
#
# ## What each group of features is worth
#
# Look at the first row: what the header knows without the image.

# %%
ablation = clf.ablation(results, resamples=resamples, seed=seed)
run.write_csv(ablation, schema.ABLATION_CSV)
verdict = clf.leak_verdict(ablation)
run.figure(
    plots.ablation(ablation),
    "01_ablation",
    f"Each group of features alone and together, out of fold; last panel: the gain over pixels. {verdict}",
)

# %% [markdown]
# Dots are values, lines are 95 % intervals of each score by itself. These lines do not tell
# whether two rows differ, because both were scored on the same images and the same images are
# hard for both. The last panel resamples the *difference* to the pixel features. A line that does
# not touch zero shows a difference beyond chance. The same as numbers, each with its interval:

# %%
clf.readable(ablation)

# %% [markdown]
# Which rows are empty, and why:

# %%
empty = ablation.setting[ablation.images == 0].tolist()
Markdown(f"Not tried: {', '.join(empty)}; {absent}." if empty else "Every group was tried.")

# %% [markdown]
# And in words, what the headers alone know:

# %%
Markdown(f"> **{verdict}**")

# %% [markdown]
# If the AUC of the header row is high, the data set leaks: the file tells which department sent
# it. A score that rests on the headers will not hold in another hospital. Therefore
# `feature_groups` leaves headers out unless a parameter asks for them, and this table is always
# printed.
#
# ## ROC and precision-recall
#
# The bands say how far each curve might move with other images. They do not say whether two models
# differ: the table below does.

# %%
other = "pixel" if "header" in feature_groups else "pixel+header"
curves = {f"used by the gate ({used})": p}
if other in results:
    curves[other] = results[other].oof["p_abnormal"].to_numpy()
run.figure(
    plots.roc_and_pr(truth, curves, seed=seed),
    "02_roc_pr",
    "ROC and precision-recall, out of fold, with 95 % bands from resampled images.",
)

# %% [markdown]
# On the left the dotted diagonal is guessing. On the right the dotted line is the share of
# abnormal images, which is the precision of guessing. The next table subtracts the first curve's
# scores from the second's, on the same resampled images.

# %%
difference = clf.paired_differences(truth, list(curves.values())[-1], p, resamples=resamples, seed=seed)
difference.round(3)

# %% [markdown]
# Where `low` and `high` have the same sign, the two models differ beyond chance, however much
# their bands overlap.
#
# ## Is a probability of one half really one half?
#
# The gate uses the probability itself, so 0.5 must mean that half of such images are abnormal.
# Points on the diagonal are right in this sense.

# %%
tables = {"as trained": clf.reliability(truth, cv.oof["p_raw"]), "calibrated": clf.reliability(truth, p)}
run.figure(
    plots.calibration(tables),
    "03_calibration",
    "Share of abnormal images against the probability given, before and after calibration.",
)

# %% [markdown]
# At points above the diagonal more images are abnormal than the probability says; below the
# diagonal fewer are. Class weights make raw probabilities too high, and calibration corrects
# this. Each point stands for about as many images. Where a point's interval holds the diagonal,
# these images show no error.
#
# How far apart do normal and abnormal images lie? Look at the middle, where both kinds occur.

# %%
run.figure(
    plots.probability_histogram(truth, p),
    "04_probabilities",
    "Where normal and abnormal images land on the scale of probabilities.",
)

# %% [markdown]
# The gate can do little for images in the middle. It changes the scores of their boxes a little,
# and costs little if it is wrong.
#
# ## What the model looks at
#
# Which features does the model use? The first picture shuffles one feature and shows how much AUC
# is lost. The second shows what each feature contributed to each image. Some features do not
# matter in the first picture and contribute much in the second: other features of the same family
# can replace them.

# %%
run.figure(
    plots.permutation_importance(clf.permutation_importance(cv, seed=seed)),
    "05_permutation",
    "AUC lost when a feature is shuffled, out of fold.",
)

# %% [markdown]
# A bar near zero means that the other features can replace this one. The next picture shows the
# same model image by image. Look for features whose red and blue dots lie on different sides.

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
# A model of whole-image texture misses small findings; the detector has to find those. A false
# alarm often shows another exposure, a device or a rotated patient.
#
# ## The final model
#
# The final model is trained on all training images and saved as data (UBJ) with the names and the
# order of its features. The features of the test images come in the same order. Where detector
# features are used, the test images get them once from each detector.

# %%
model = clf.fit(features, labels, recipe, folds=folds)
digest = clf.save(model, run.output(schema.CLASSIFIER_UBJ))
on_test = [feat.join_features(*test_tables)]
if "detector" in feature_groups:
    unseen = sorted(set(test_ids) - set(folds.image_id))
    on_test = [
        feat.join_features(*test_tables, feat.detector_features(
            found, test_ids, oof_image_ids=unseen, sizes=sizes, classes=classes))
        for found in test_by_fold.values()
    ]  # fmt: skip
Markdown(
    f"{len(model.feature_names)} features, {model.rounds} rounds, sha256 `{digest[:12]}…` {model.message}"
)

# %% [markdown]
# The notebook then reads the model back from its file and compares the names and the order of the
# features with those of the test images. Where there are several detectors, the model answers
# once for the features of each detector, and the probability is the mean of the answers. Features
# of averaged boxes would look like nothing that the model was trained on.

# %%
names = feat.feature_names(on_test[0], feature_groups)
reloaded = clf.load(run.output(schema.CLASSIFIER_UBJ), feature_names=names)
answers = pd.concat([reloaded.predict(table) for table in on_test])
test_p = answers.groupby("image_id", sort=False).mean().reset_index()
Markdown(f"{len(test_p):,} test images, mean p(abnormal) {test_p.p_abnormal.mean():.2f}.")

# %% [markdown]
# The program writes the hash beside the file and checks it whenever it loads the file. Without
# the hash nobody would notice a flipped bit.
#
# ## One probability a finding
#
# A second model has the same settings of the trees and one output for each finding. Notebooks 07
# and 08 may use its probabilities to raise or lower the scores of boxes within an image.

# %%
findings = clf.finding_labels(annotations[annotations.image_id.isin(features.image_id)], classes=classes)
searched = {fold: fitted.parameters for fold, fitted in cv.models.items()}
multi = clf.cross_validate(features, findings, folds, recipe, tree_settings=searched)
oof = cv.oof.merge(multi.oof.drop(columns="fold"), on="image_id")
one_a_finding = clf.fit(features, findings, recipe, folds=folds, tree_settings=model.parameters)
clf.save(one_a_finding, run.output(schema.FINDINGS_UBJ))
reloaded = clf.load(run.output(schema.FINDINGS_UBJ), feature_names=names)
answers = pd.concat([reloaded.predict(table) for table in on_test])
test_p = test_p.merge(answers.groupby("image_id", sort=False).mean().reset_index(), on="image_id")

# %% [markdown]
# Both tables are written, one row an image. Look at the names of the columns.

# %%
run.write_csv(oof, schema.OOF_CSV)
run.write_csv(test_p, schema.CLASSIFIER_TEST_CSV)
oof.head()

# %% [markdown]
# `p_abnormal` is the calibrated probability, `p_raw` the one before calibration, `p_0` and so on are
# the findings by class id. Every row comes from models that did not see the image.
#
# ## Summary
#
# There is now an out-of-fold probability for each training image, a probability for each test
# image, and a table that says how much of the classifier's score comes from the image and how
# much from the header.
#
# **Next:** notebook 06 trains the detector; notebook 07 tries the gate.

# %%
# NBVAL_CHECK_OUTPUT
print("images", len(oof), "abnormal", int(oof.abnormal.sum()))
print("test images", len(test_p))
print("features", len(model.feature_names), "of groups", ", ".join(model.groups))
print("settings compared", ", ".join(results))
