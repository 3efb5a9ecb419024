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
# # Train the detector
#
# A Faster R-CNN learns to draw the fused boxes. It first proposes places that might hold something,
# then says for each place which finding it is and moves the edges to fit. The same code trains the
# light network of the demo on a CPU and a ResNet-50 on several GPUs; only parameters differ.
#
# For each fold of `train_folds` one detector learns from the images of all other folds. What it finds
# in its own fold is out of fold: it has never seen those images.
#
# - **Reads** `02_preprocess/images/`, `04_split/consensus.csv`, `04_split/folds.csv`; where readers
#   are learnt from one by one also `01_eda/train_full_dataset.csv`
# - **Writes** `06_detector/checkpoints/` (one folder a fold with `best.ckpt` and `last.ckpt`),
#   `06_detector/metrics.csv`
# - **Time** demo (CPU) about 5 minutes; full data set several hours a fold on one GPU
#
# After an interruption the next call goes on from `last.ckpt`. A fold that is finished with the
# same data and the same parameters is kept. With other data or parameters the fold is trained
# anew, and its earlier files move to `06_detector/checkpoints/replaced/`.
#
# A notebook trains on one device. `cxr train` does the same work with all that the machine has, and
# under `torchrun` with several machines; this notebook then finds the folds trained and shows them.

# %%
from IPython.display import Markdown

from cxr import annotations as ann
from cxr import plots, recipes, schema
from cxr.detector.checkpoints.run import best_checkpoints
from cxr.detector.data.preview import augmented_views, box_shapes
from cxr.detector.prediction.detector import load_detector
from cxr.detector.recipe import Recipe
from cxr.detector.training import folds as by_fold
from cxr.rundir import RunDir, locate
from cxr.splits import read_folds
from cxr.store import ImageStore

# %% [markdown]
# ## Parameters
#
# A zero, an empty text or an empty list lets the code choose.

# %% tags=["parameters"]
run_dir: str = "outputs/demo"  # machine: folder of the run
data_dir: str = "data/demo"  # machine: folder with classes.csv, if you have one
train_folds: list[int] = [0]  # folds to hold out, one detector each
architecture_name: str = "light"  # a network of the registry, such as resnet50_fpn_v2, or timm/NAME
weights: str = "auto"  # file ({fold}: the fold), phantom, torchvision, timm, "" random; auto: phantom or ""
weights_sha256: str = ""  # expected hash of that file, "" to not check
detector_image_size: int = 384  # px, longer side of the image that the network sees
anchor_sizes: list[float] = []  # network px, small to large, as many for each level; [] to fit them
aspect_ratios: list[float] = []  # height / width of the anchors; [] to fit them
batch_norm: str = "auto"  # trained, frozen, or auto: frozen with given weights and fewer than 8 images a step
label_mode: str = "agreement"  # agreement weighs fused boxes by who drew them; or fused, every_reader
readers: list[str] = []  # learn only from these readers; [] for all
skip_readers: list[str] = []  # leave out images that one of these readers read
images_per_epoch: int = 480  # images shown in an epoch, 0 for about all that have boxes
negative_fraction: float = 0.15  # share of images without boxes in an epoch, below 0 as in the data
class_balance: float = 0.5  # 0 shows images alike, 0.5 shows those with rare findings more often
batch_size: int = 4  # images a step and device
accumulate: int = 1  # batches an optimiser step
hflip: float = 0.5  # probability of a mirror image; right and left classes swap
flip_bound: list[str] = []  # findings bound to a side: images with one are not mirrored
scale: list[float] = [0.85, 1.2]  # smallest and largest zoom
shift: float = 0.06  # largest shift, share of the side
rotate_deg: float = 0.0  # degrees, largest rotation
brightness: float = 0.1  # largest change, share of full white
contrast: float = 0.2  # largest relative change
gamma: float = 0.2  # exponents from 1 / (1 + gamma) to 1 + gamma
noise: float = 0.02  # largest standard deviation, share of full white
multi_scale: list[float] = [1.0]  # factors of the image size, one drawn for each batch
optimizer: str = "adamw"  # optimiser: adamw or sgd
learning_rate: float = 0.0  # largest of the schedule, 0 for a rule by network and batch size
weight_decay: float = 0.01  # of weights, not of biases and normalisation
momentum: float = 0.9  # of sgd
clip_norm: float = 5.0  # largest norm of the gradient, 0 for no clipping
ema_decay: float = 0.998  # of the averaged weights that are validated and kept, 0 for none
epochs: int = 8  # each shows images_per_epoch images
max_minutes: float = 0.0  # min, training ends after this, its schedule brought down in time; 0 for no limit
schedule: str = "onecycle"  # course of the learning rate: onecycle, cosine or constant
warmup_steps: int = 500  # optimiser steps, rise of cosine and constant, at most a twentieth of all
validate_every: int = 1  # epochs between validations; the last is always validated
patience: int = 0  # stop after so many validations without a better one, 0 for never
accelerator: str = "auto"  # machine: device: auto, cpu or gpu
devices: int = 0  # machine: devices on each machine, 0 for all; a notebook trains on one
num_nodes: int = 1  # machine: machines, when torchrun starts the training
pause_minutes: float = 0.0  # machine: min, pause before an epoch that would end later than this; 0 for never
num_workers: int = 0  # machine: loading processes of each device
cache_mib: int = 512  # machine: MiB, memory for resized images
precision: str = "auto"  # 16 bits where that is faster, else float32: auto, 32-true, 16-mixed or bf16-mixed
compile_backbone: bool = False  # machine: torch.compile, pays on CUDA in long trainings
tensorboard: bool = False  # machine: also log for TensorBoard, needs that package
seed: int = 0  # for weights, order and augmentation

# %% [markdown]
# What follows from the parameters: the recipe, the boxes to learn, and the images of the first detector.
# `Recipe` says what each parameter is and refuses values that make no sense. Every number below is about
# images that the detector may learn from.

# %%
recipe = recipes.from_values(Recipe, globals())
run = RunDir(run_dir, "06_detector")
classes = ann.read_classes(locate(data_dir))
store = ImageStore(run.input(schema.IMAGES_DIR))
folds = read_folds(run.input(schema.FOLDS_CSV))
targets = by_fold.read_targets(run, recipe.labels, classes=classes)
train_ids, _ = by_fold.split_ids(folds[folds.image_id.isin(store.ids)], train_folds[0])
Markdown(f"{len(train_folds)} detector(s) to train; {len(train_ids):,} images for the first to learn from.")

# %% [markdown]
# ## What the network will see
#
# The first image of each row is as it is stored. The others are what augmentation makes of it in the
# next epochs. Look whether the boxes moved along with the image, and whether each picture is still a
# plausible chest.

# %%
with_boxes = targets[targets.image_id.isin(train_ids) & targets.x_min.notna()].image_id.drop_duplicates()
panels = []
for image_id in with_boxes.sample(min(2, len(with_boxes)), random_state=seed):
    views = augmented_views(store, targets, image_id, recipe=recipe, views=4, classes=classes)
    for number, (pixels, boxes) in enumerate(views):
        marks = plots.class_marks(boxes, pixels.shape, pixels.shape, classes=classes)
        title = f"{image_id[:12]}, epoch {number}" if number else image_id[:12]
        panels.append(plots.Panel(pixels, title, marks))

# %% [markdown]
# The epoch and the place of an image decide what augmentation it gets, so a run can be repeated
# exactly.

# %%
run.figure(
    plots.gallery(panels, columns=4, empty="No training image has a box."),
    "01_augmentation",
    "Training images as stored (first of each row) and as augmentation shows them, with the boxes to find.",
)

# %% [markdown]
# A mirrored chest has its heart on the wrong side, yet flipping helps: most findings occur on both
# sides, and classes whose names differ by left and right swap their labels. Rotation and cropping are
# mild, because patients stand in front of the detector the same way.
#
# ## Training
#
# Look at the validation score in the lines that come by, and at the time left. `best.ckpt` is replaced
# whenever the validation score has risen, `last.ckpt` after each epoch.

# %%
metrics = by_fold.train_run(
    run, recipe, held_out=train_folds, classes=classes, progress=run.progress("steps")
)
best = metrics.loc[metrics.groupby("fold").val_map.idxmax().dropna()]
best[["fold", "epoch", "val_map", "seconds"]].round(4)

# %% [markdown]
# One row a fold: its best epoch, the score there, and the seconds from the start of training to it.
#
# ## How it went
#
# Left, the parts of the loss. Faster R-CNN has four: is there anything in this place (objectness), where
# are its edges (proposal boxes), which finding is it (class), and the edges once more (boxes). Other
# families have fewer. Right, the score on the validation fold. With several folds both are means. Look
# whether the right curve still rises at its end.

# %%
words = {
    "objectness": "objectness",
    "rpn_box_reg": "proposal boxes",
    "classifier": "class",
    "box_reg": "boxes",
}
parts = [name.removeprefix("loss_") for name in metrics if name.startswith("loss_")]
losses = {f"loss_{part}": words.get(part, part.replace("_", " ")) for part in parts}
scores = {"val_map": "mAP over the findings"}
run.figure(
    plots.training_curves(metrics, losses=losses, scores=scores, best="val_map"),
    "02_curves",
    "Parts of the training loss, and the validation score of each epoch; the star is the best one.",
)

# %% [markdown]
# If the right curve still rises, train longer. If it falls while the loss falls, the network
# memorises the training images: use more augmentation or fewer epochs. `best.ckpt` is a fold's
# best epoch, with averaged weights; the next notebooks use it. Its score is a little too high,
# because the epoch was chosen by this score.
#
# The last rows in numbers; look at `seconds`, from the start of training, for what one more epoch
# costs.

# %%
metrics.tail(4).round(4)

# %% [markdown]
# ## Anchors
#
# The search starts from boxes of fixed sizes and shapes, the anchors, fitted to the training boxes.
# Look for boxes far from any cross. (FCOS has no anchors: the picture then shows the boxes alone.)

# %%
trained = best_checkpoints(run.output(schema.CHECKPOINTS_DIR))
spec = load_detector(trained[train_folds[0]], device="cpu").spec
shapes = box_shapes(store, targets, train_ids, image_size=detector_image_size, classes=classes)
sizes = [size for level in spec.anchor_sizes for size in level]
run.figure(
    plots.anchor_fit(shapes.side_px, shapes.ratio, sizes=sizes, aspects=spec.aspect_ratios),
    "03_anchors",
    "Size and shape of the training boxes in network pixels, and the anchors the search starts from.",
)

# %% [markdown]
# Very small boxes have no anchor of their size, because the finest grid is too coarse for them. A
# larger `detector_image_size` helps and costs time.
#
# ## Summary
#
# For each fold `best.ckpt` and `last.ckpt` with their hashes, and a row of measurements for each
# epoch.
#
# **Next:** notebook 07 looks at what the detector finds in the validation fold.

# %%
# NBVAL_CHECK_OUTPUT
print("detectors", ", ".join(f"fold{fold}" for fold in trained))
print("images to learn from", len(train_ids))
print("classes", len(spec.class_names))
