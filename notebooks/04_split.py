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
# # Fuse the readers and make the folds
#
# Several readers drew boxes on each image. A detector learns better from one set of boxes, so boxes
# of the same finding are fused into one that remembers how many readers drew it. Then the images are
# dealt out to folds, so that no image is ever both learnt from and judged on.
#
# - **Reads** `01_eda/train_full_dataset.csv`; where they are there `02_preprocess/images/` (to keep
#   images with identical pixels together, and for pictures)
# - **Writes** `04_split/consensus.csv`, `04_split/folds.csv`, `04_split/train.csv`,
#   `04_split/val.csv`
# - **Time** demo (CPU) under 1 minute; full data set about 1 minute; no GPU

# %%
from IPython.display import Markdown

from cxr import annotations as ann
from cxr import plots, schema, viewer
from cxr.rundir import RunDir, locate
from cxr.splits import fold_counts, make_folds, split_fold
from cxr.store import ImageStore

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
run_dir: str = "outputs/demo"  # machine: folder of the run
data_dir: str = "data/demo"  # machine: folder with classes.csv, if you have one
seed: int = 0  # for the lots of the folds
reader_fusion: str = "wbf"  # of readers' boxes: wbf, nms, soft-nms, union or agreement (at least two readers)
reader_fusion_iou: float = 0.4  # readers' boxes that overlap more than this are one finding
folds: int = 5  # number of folds
example_images: int = 6  # images shown as examples

# %% [markdown]
# What follows from the parameters. Images that could not be read are left out from here on: nobody
# can learn from them.

# %%
run = RunDir(run_dir, "04_split")
classes = ann.read_classes(locate(data_dir))
annotations = ann.read_annotations(run.input(schema.TRAIN_FULL_CSV), classes=classes)
store = ImageStore(run.input(schema.IMAGES_DIR)) if run.has(schema.IMAGES_DIR) else None
if store is not None:
    annotations = annotations[annotations.image_id.isin(store.ids_of("train"))]
Markdown(
    f"{annotations.image_id.nunique():,} images."
    + ("" if store else " **No image store: pictures and the check for identical images are left out.**")
)

# %% [markdown]
# ## Fusing
#
# Look at how many boxes are left. Boxes of one class that overlap enough become their mean. A box
# that no other reader drew stays as it is.

# %%
consensus = ann.fuse_readers(
    annotations, iou_threshold=reader_fusion_iou, method=reader_fusion, classes=classes
)
run.write_csv(consensus, schema.CONSENSUS_CSV)
fused = consensus[consensus.class_id != classes.normal_id]
Markdown(f"{int(annotations.x_min.notna().sum()):,} boxes of the readers became {len(fused):,}.")

# %% [markdown]
# How many readers stand behind a fused box? Look at the share of boxes that only one reader drew.

# %%
by_readers = fused.groupby("n_readers").size().rename("fused boxes").to_frame()
by_readers["share"] = (by_readers["fused boxes"] / max(len(fused), 1)).round(3)
by_readers

# %% [markdown]
# A box with one reader is not wrong, only less certain. The detector weighs each box by
# `agreement`, the share of the image's readers who drew it. If nearly all boxes have one reader,
# the threshold is too strict for these readers.
#
# ## Before and after
#
# Each pair shows one image: the readers' boxes on the left, the fused boxes on the right with the
# number of readers. Look for two boxes on the right on one finding: there the readers used
# different names.

# %%
shared = fused.groupby("image_id").n_readers.max().sort_values(ascending=False, kind="stable").index
step = max(1, len(shared) // max(example_images, 1))
panels = []
for image_id in shared[::step][:example_images] if store is not None else []:
    pixels, size = store[image_id], store.original_size(image_id)
    rows, boxes = (table[table.image_id == image_id] for table in (annotations, fused))
    before = plots.reader_marks(rows, size, pixels.shape, classes=classes)
    after = plots.class_marks(boxes, size, pixels.shape, classes=classes, note="n_readers")
    panels += [plots.Panel(pixels, f"{image_id[:12]}: readers", before), plots.Panel(pixels, "fused", after)]
run.figure(
    plots.gallery(panels, columns=4, cell=3.3, empty="No image store: nothing to draw the boxes on."),
    "01_fusion",
    "Readers' boxes (left of each pair) and fused boxes with their number of readers (right).",
)

# %% [markdown]
# Where do readers differ most? The page starts with the images of which most fused boxes lack a reader.
# Arrow keys page, `r` and `t` show readers and fused boxes.

# %%
viewer.notebook_page(
    store, annotations.image_id.unique(), classes=classes, readers=annotations, truth=consensus
) if store is not None else "No image store: nothing to page through."

# %% [markdown]
# A box that one of three drew counts less in training, and a detector that misses it is not always wrong.
#
# ## Folds
#
# The images are dealt out, not the rows. Images with the same pixels go into the same fold:
# otherwise a model could learn from a copy of an image that it is judged on. Rare classes are
# dealt first, so that every fold gets its share. Look for strong colours: they mark a class that
# is uneven over the folds.

# %%
same = store.index.set_index("image_id")["sha256"] if store is not None else None
table = make_folds(annotations, folds=folds, seed=seed, groups=same, classes=classes)
run.write_csv(table, schema.FOLDS_CSV)
run.figure(
    plots.fold_balance(annotations, table, classes=classes),
    "02_folds",
    "Images of each class in each fold; colours mark the distance from an even share.",
)

# %% [markdown]
# Only a class with few images can be far from an even share. If a fold has no image of a class,
# the score of that class is undefined there, and the mean leaves the class out. The same counts
# as a table:

# %%
fold_counts(annotations, table, classes=classes)

# %% [markdown]
# ## Training and validation tables
#
# `train.csv` and `val.csv` are the fused boxes of the images outside and inside fold 0, for other
# tools and for a first look. The notebooks use the folds themselves.

# %%
train, val = split_fold(consensus, table, fold=0)
run.write_csv(train, schema.TRAIN_CSV)
run.write_csv(val, schema.VAL_CSV)
Markdown(f"{train.image_id.nunique():,} images to learn from, {val.image_id.nunique():,} to judge on.")

# %% [markdown]
# ## Summary
#
# One set of boxes, each with its number of readers; folds by image, balanced over the findings. From
# here on an image is judged only by a model that has learnt from the other folds.
#
# **Next:** notebook 05 trains normal against abnormal, notebook 06 the detector.

# %%
# NBVAL_CHECK_OUTPUT
print("fused boxes", len(fused))
print("images in folds", table.fold.value_counts().sort_index().tolist())
print("in both tables", len(set(train.image_id) & set(val.image_id)))
