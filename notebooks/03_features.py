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
# # Describe each image by numbers
#
# A classifier of normal against abnormal wants a row of numbers for each image. There are two
# kinds. Pixel features say what the image looks like: brightness, texture, edges. Header features
# say how the file was made. Header features predict surprisingly well, for reasons that have
# nothing to do with medicine. This notebook shows those reasons.
#
# - **Reads** `02_preprocess/images/`, `02_preprocess/dicom_metadata.csv`,
#   `01_eda/train_full_dataset.csv` (for the pictures only)
# - **Writes** `03_features/dicom_pixels_features.csv`
# - **Time** demo (CPU) under 1 minute; full data set about 20 minutes on one core; no GPU

# %%
import pandas as pd
from IPython.display import Markdown

from cxr import annotations as ann
from cxr import plots, schema
from cxr.classifier import image_labels
from cxr.features import header_features, join_features, pixel_feature_table
from cxr.rundir import RunDir, locate
from cxr.store import ImageStore

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
run_dir: str = "outputs/demo"  # machine: folder of the run
data_dir: str = "data/demo"  # machine: folder with classes.csv, if you have one
jobs: int = -1  # machine: processes, -1 for one a core

# %% [markdown]
# What follows from the parameters: the store, the headers, and whether each training image is
# abnormal (used for the pictures only; no label goes into the features).

# %%
run = RunDir(run_dir, "03_features")
classes = ann.read_classes(locate(data_dir))
store = ImageStore(run.input(schema.IMAGES_DIR))
headers = pd.read_csv(run.input(schema.HEADERS_CSV), dtype=str, keep_default_na=False)
annotations = ann.read_annotations(run.input(schema.TRAIN_FULL_CSV), classes=classes)
abnormal = image_labels(annotations, classes=classes)

# %% [markdown]
# ## Pixel features
#
# Look at what a row holds: intensity, texture from grey-level co-occurrence (`glcm_`, `haralick_`),
# local binary patterns (`lbp_`), Gabor filters, edges, and the shape of the histogram.

# %%
pixels = pixel_feature_table(store, store.ids, jobs=jobs, progress=run.progress("images"))
pixels.set_index("image_id").describe().T[["mean", "std", "min", "max"]].round(3)

# %% [markdown]
# A standard deviation of zero means that the feature has the same value on every image. Such a
# feature cannot separate anything, and the trees ignore it.
#
# ## Header features
#
# Ages become years or missing, never a category; spacings become numbers; the software version and
# the like become yes-or-no columns. Look for columns with few values.

# %%
train_ids = store.ids_of("train")
from_header = header_features(headers[headers.image_id.isin(train_ids)])
from_header.notna().mean().rename("share known").to_frame().round(3).T if len(from_header) else from_header

# %% [markdown]
# Both kinds go into one table, a row an image; the header's names are the raw fields, so that the
# classifier can be given one kind, or both.

# %%
run.write_csv(join_features(pixels, headers), schema.FEATURES_CSV)
Markdown(
    f"{len(pixels):,} images, {pixels.shape[1] - 1} pixel features and {headers.shape[1] - 1} header fields."
)

# %% [markdown]
# ## Which feature separates normal from abnormal?
#
# A bar that reaches far from the middle belongs to a feature that, alone, ranks abnormal images above
# normal ones (to the right) or below (to the left). Look at the colours of the longest bars.

# %%
separation = plots.single_feature_auc(join_features(pixels, from_header), abnormal)
run.figure(
    plots.feature_separation(separation),
    "01_separation",
    "AUC of each feature alone, the strongest first. Bars of the header's colour on top are a warning.",
)

# %% [markdown]
# Header bars on top mean that the file tells the answer before anybody looks at the image: normal
# and abnormal patients came from different machines or departments. A model that uses header
# features wins points here and fails in the next hospital.
#
# ## Distributions
#
# A feature separates the two kinds of image where their distributions lie apart. It does not
# where they overlap.

# %%
strongest = separation[separation["group"] == "pixel"].dropna(subset=["auc"])
strongest = strongest.assign(gap=(strongest["auc"] - 0.5).abs()).nlargest(12, "gap")["feature"]
run.figure(
    plots.feature_distributions(pixels, abnormal, strongest.tolist()),
    "02_distributions",
    "Distributions of the pixel features that separate best, normal against abnormal images.",
)

# %% [markdown]
# Single pixel features overlap widely. This is expected: a small nodule hardly changes the
# texture of a whole image. Pixel features can show a diffuse change or a different exposure.

# %%
run.figure(
    plots.feature_correlation(pixels, schema.PIXEL_FEATURES),
    "03_correlation",
    "Rank correlation of the pixel features; blocks of one colour say the same thing.",
)

# %% [markdown]
# A strong block is a family of features that measure the same property. Trees share importance
# among such features at random. Read importances (notebook 05) family by family.
#
# ## The leak, in one picture
#
# Which software wrote the file, and the share of abnormal images among its files. Look for bars at
# nought and at one.

# %%
version = headers.set_index("image_id")["Version"]
run.figure(
    plots.group_shares(version, abnormal, title="Software version in the header"),
    "04_leak",
    "Share of abnormal images by the software that wrote the file; the line is the share of all images.",
)

# %% [markdown]
# If the bars are unequal, the header leaks the label. The version tells the hospital, and
# hospitals differ in their mix of patients. The classifier therefore gets header features only
# where a parameter asks for them, and notebook 05 always reports what they add.
#
# ## Summary
#
# One row an image: pixel features that describe the picture, header fields that describe the file,
# and a picture of how far each alone can tell normal from abnormal.
#
# **Next:** notebook 04 fuses the readers and makes the folds; notebook 05 trains the classifier.

# %%
# NBVAL_CHECK_OUTPUT
print("images", len(pixels))
print("pixel features", pixels.shape[1] - 1)
print("missing values", int(pixels.isna().sum().sum()))
