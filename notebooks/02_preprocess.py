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
# # Turn DICOM files into images a network can read
#
# A DICOM file is large, comes in one of several compressions, may be stored as a negative, and says
# in its header how its numbers are meant to be shown. Here each file is decoded once, windowed,
# resized and put into a store that later notebooks read at speed. Boxes stay in original pixels: the
# store remembers every image's own size.
#
# - **Reads** the images of `train/` and `test/`; where they are there `train_meta.csv`, `test_meta.csv`
# - **Writes** `02_preprocess/images/` (the store and its `index.csv`),
#   `02_preprocess/dicom_metadata.csv`, `02_preprocess/failures.csv`
# - **Time** demo (CPU) under 1 minute; full data set about 1 hour on one core, minutes on a large
#   machine; no GPU
#
# You may stop this notebook at any moment and start it again. It keeps what is in the store and
# does the rest.

# %%
import pandas as pd
from IPython.display import Markdown

from cxr import plots, schema
from cxr.preprocess import find_images, preprocess
from cxr.rundir import RunDir, locate
from cxr.store import ImageStore
from cxr.survey import odd_files, read_sizes, stored_pixels

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
run_dir: str = "outputs/demo"  # machine: folder of the run
data_dir: str = "data/demo"  # machine: folder with train/, test/; also train_meta.csv, test_meta.csv
jobs: int = -1  # machine: processes, -1 for one a core
image_size: int = 512  # px, longer side of a stored image
compression: str = "none"  # of the store: none reads fastest, gzip is smaller
scheduler: str = ""  # machine: address of a Dask cluster, empty for this one
max_failed_fraction: float = 0.1  # more unreadable files than this stop the run
seconds_per_file: float = 10.0  # s, a file that takes longer, twice, has failed

# %% [markdown]
# What follows from the parameters: where the images are, and their original sizes where a table has
# them.

# %%
run = RunDir(run_dir, "02_preprocess")
data = locate(data_dir)
sources = {name: data / name for name in ("train", "test") if name == "train" or (data / name).is_dir()}
tables = [read_sizes(data, split) for split in sources]
sizes = pd.concat(tables) if any(t is not None for t in tables) else None
Markdown(
    "Images to read: " + ", ".join(f"{len(find_images(f)):,} in {split}/" for split, f in sources.items())
)

# %% [markdown]
# ## The work
#
# Look at the rate and the time left. The order of the steps is what makes it fast: a JPEG 2000 file
# is decoded only as finely as `image_size` asks for, and the window is applied after the resize, on
# few pixels.

# %%
result = preprocess(
    sources,
    run.folder,
    image_size=image_size,
    jobs=jobs,
    compression=compression,
    scheduler=scheduler,
    max_failed_fraction=max_failed_fraction,
    seconds_per_file=seconds_per_file,
    restart="changed",
    sizes=sizes,
    progress=run.progress("images"),
)
Markdown(f"**{result.summary}**")

# %% [markdown]
# Skipped images were stored by an earlier call; with another `image_size` or `compression` all are
# made anew. A failed file stops nothing, but it is never silently left out: it is in `failures.csv`
# with a reason. Ignored are subfolders and files whose names are not an image's.
#
# ## Why files failed
#
# Look for a reason that many files share: that is a missing decoder or a broken copy, not bad luck.

# %%
store = ImageStore(run.input(schema.IMAGES_DIR))
failures = pd.read_csv(run.input(schema.FAILURES_CSV), dtype=str)
run.figure(
    plots.failures(failures, stored=len(store)),
    "01_failures",
    "Files that could not be read, by reason.",
)

# %% [markdown]
# The picture counts, the table names: each file that failed with its reason and what was wrong with
# it.

# %%
failures[["file", "reason", "message"]].head(20) if len(failures) else Markdown("No file failed.")

# %% [markdown]
# Every message says what was expected and what came. A reason code is stable across versions, so it
# can be counted.
#
# ## Before and after
#
# Above, what the file holds, stretched from its smallest to its largest number. Below, what the store
# has. Look at the titles: one plain file first, then one of every odd kind this data set has.

# %%
headers = pd.read_csv(run.input(schema.HEADERS_CSV), dtype=str, keep_default_na=False)
folder_of = headers.set_index("image_id")["split"].map(sources)
file_of = headers.set_index("image_id")["File Name"]
pairs = []
for kind, image_id in list(odd_files(headers).items())[:6]:
    before = stored_pixels(folder_of[image_id] / file_of[image_id], longest_side=image_size)
    pairs.append((before, store[image_id], f"{kind}\nin the file", "in the store"))
run.figure(
    plots.before_after(pairs),
    "02_before_after",
    "Numbers of the file stretched from lowest to highest (top) and the stored image (bottom).",
)

# %% [markdown]
# Negatives are inverted, so white means dense tissue everywhere. The program replaces a missing
# or absurd window by one from the image's own percentiles. Check that the lungs show texture, and
# that neither border nor label sets the contrast. If a picture in the lower row is empty or
# washed out, the network cannot learn from such images.
#
# ## A page of the store
#
# Look for images unlike the rest: sideways, cropped, not a chest.

# %%
ids = store.ids[:: max(1, len(store) // 12)][:12]
panels = [
    plots.Panel(store[i], f"{i[:12]}\n{store.original_size(i)[1]} x {store.original_size(i)[0]} px")
    for i in ids
]
run.figure(
    plots.gallery(panels, columns=6, cell=2.2),
    "03_store",
    "Images of the store at regular distances, with the size of the original.",
)

# %% [markdown]
# All images look alike in brightness although they came from different machines. The windowing
# does this.
#
# ## Is the store whole?
#
# Each image has a checksum. Preprocessing has compared them all before it kept an image of an earlier
# call, and has read the files of a damaged shard again: the count is in the line above. This reads
# every byte once more, now that all is written.

# %%
store.require_whole()
Markdown("Every image is as it was written.")

# %% [markdown]
# An image that differs from its checksum stops the notebook here and is named. A damaged disk or a
# broken copy does that. Run the notebook again: the images of a damaged shard are made anew.
#
# The index says for each image where its bytes lie and how large the original was.

# %%
index = store.index
index.groupby("split").size().rename("images").to_frame()

# %% [markdown]
# ## Summary
#
# The store holds every readable image at one size in eight bits, with its original size; the header
# table holds the listed header fields and nothing else of the patient; the failure list holds the
# rest.
#
# **Next:** notebook 03 describes each image by a handful of numbers, notebook 04 makes the folds.

# %%
# NBVAL_CHECK_OUTPUT
print("stored", {split: int(n) for split, n in index.groupby("split").size().items()})
print("failed", failures.reason.value_counts().sort_index().to_dict())
print("longest side", int(index[["height", "width"]].max().max()), "px")
