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
# # Explore the annotations and the headers
#
# Before anything is trained we look at what we have: which findings there are and how rare, who drew
# the boxes and how far the readers agree, how large the boxes are and where they sit, and what the
# DICOM headers say about the files. Every row of the table is checked on the way.
#
# - **Reads** `train.csv`, and where they are there `classes.csv`, `train_meta.csv` and the images of
#   `train/`
# - **Writes** `01_eda/train_full_dataset.csv`: the rows that passed every check;
#   `01_eda/left_out_rows.csv`: the others, with what is wrong
# - **Time** demo (CPU) under 1 minute; full data set about 5 minutes, most of it opening headers; no
#   GPU
#
# A lone `train.csv` is enough. What needs images is then left out, and the notebook says so.

# %%
from IPython.display import Markdown

from cxr import annotations as ann
from cxr import plots, schema, viewer
from cxr.preprocess import find_images, image_id_of
from cxr.rundir import RunDir, as_markdown, locate
from cxr.survey import load_examples, read_sizes, survey_files

# %% [markdown]
# ## Parameters
#
# Papermill replaces these values when the notebook runs headless; change them here when you step
# through.

# %% tags=["parameters"]
run_dir: str = "outputs/demo"  # machine: folder of the run
data_dir: str = "data/demo"  # machine: folder with train.csv; also classes.csv, train_meta.csv, train/
seed: int = 0  # for the choice of example images
jobs: int = -1  # machine: processes, -1 for one a core
example_images: int = 6  # images shown as examples

# %% [markdown]
# What follows from the parameters: the folders, the classes, and the image files there are.

# %%
run = RunDir(run_dir, "01_eda")
data = locate(data_dir)
classes = ann.read_classes(data)
paths = {image_id_of(path): path for path in find_images(data / "train")} if (data / "train").is_dir() else {}
named = ", ".join(as_markdown(name) for name in classes.finding_names)
Markdown(f"{len(classes.finding_names)} findings: {named}.")

# %% [markdown]
# ## The headers, first
#
# The headers come first because they tell the size of each image. A box can only be checked
# against the border of its image when that size is known. Look at how long the reading takes:
# only the headers are read.

# %%
survey = survey_files(list(paths.values()), jobs=jobs, progress=run.progress("headers"))
sizes = read_sizes(data, "train")
sizes = survey.sizes if sizes is None else sizes
headers = survey.headers[survey.headers["Transfer Syntax UID"] != ""]
left_out = "" if len(sizes) else " **No sizes: borders and positions of boxes are left out below.**"
Markdown(
    f"{len(paths):,} image files, {len(headers):,} DICOM headers read, {len(survey.failed):,} files "
    f"unreadable, the size of {len(sizes):,} images known.{left_out}"
)

# %% [markdown]
# Notebook 02 lists each unreadable file with its reason, so they stop nothing here.
#
# ## The table, checked row by row
#
# Look for problems: a box with a side of no length, a box outside its image, an unknown class, a
# reader who calls an image normal and draws a box in it. Third-party copies do contain such rows.

# %%
text = ann.read_table(data / schema.TRAIN_TABLE)
problems = ann.problems(text, image_sizes=sizes if len(sizes) else None, classes=classes)
run.write_csv(problems, schema.LEFT_OUT_CSV)
problems.groupby("kind").size().rename("rows").to_frame() if len(problems) else Markdown("No problem found.")

# %% [markdown]
# Each kind of problem is counted once for every row that has it. Rows with a problem are left out and
# listed in `left_out_rows.csv`; the rest goes on, and into the file that the next notebooks read. Look
# at the columns: these are the words used everywhere.

# %%
annotations = ann.read_annotations(
    data / schema.TRAIN_TABLE, image_sizes=sizes if len(sizes) else None, classes=classes, on_problem="drop"
)
run.write_csv(annotations, schema.TRAIN_FULL_CSV)
annotations.head()

# %% [markdown]
# A row is one box of one reader. A reader who saw nothing has one row of the normal class without a
# box. Do the table and the folder name the same images?

# %%
drawn, stored = set(annotations.image_id), set(paths)
Markdown(
    f"{len(drawn):,} annotated images, {len(drawn & stored):,} of them with a file; "
    f"{len(stored - drawn):,} files without an annotation."
)

# %% [markdown]
# An image without a file counts in the tables below and is left out from notebook 04 on. No model
# learns from a file without an annotation.
#
# ## Classes
#
# Look at the lengths of the bars: how many images does the rarest finding have?

# %%
counts = ann.class_counts(annotations, classes=classes)
run.figure(
    plots.class_counts(counts, classes=classes),
    "01_classes",
    "Images and rows of each class. A finding with few images cannot be learnt well, nor scored precisely.",
)

# %% [markdown]
# The score is a mean over classes, so a class with few images weighs as much as the commonest
# one. A model that finds only the common findings scores badly. The score of a rare class depends
# mostly on chance. Therefore notebook 07 prints an interval beside every number.
#
# ## How many boxes, and which findings come together
#
# Look at the left end: how often does a reader draw a single box?

# %%
run.figure(
    plots.boxes_per_image(annotations, classes=classes),
    "02_boxes_per_reading",
    "Boxes one reader draws on one image, where that reader found anything.",
)

# %% [markdown]
# A few images carry many boxes, most carry few. The detector has to handle both.
#
# Next, look for dark cells.

# %%
run.figure(
    plots.cooccurrence(annotations, classes=classes),
    "03_cooccurrence",
    "Of the images with the row's finding, the share that also shows the column's. Dark columns are findings "
    "that accompany many others.",
)

# %% [markdown]
# Read a row from left to right: given the finding on the left, how often is the one on top there as
# well? The table is not symmetric, because a rare finding may nearly always come with a common one
# and not the other way round. Pairs that share most of their images are also pairs that readers name
# differently.
#
# ## Readers
#
# Look for readers whose bars have one colour only.

# %%
readers = ann.reader_counts(annotations, classes=classes)
run.figure(
    plots.reader_counts(readers),
    "04_readers",
    "Images read by each reader, split by whether that reader found anything.",
)

# %% [markdown]
# If some readers never report a finding while others report findings all the time, the images
# were not dealt out by chance: a few readers got the abnormal ones. A detector then learns the
# habits of these few readers. Its score on their images is higher than its score on anybody
# else's. Notebook 07 reports the two apart.
#
# ## Agreement
#
# Each pair of readers who saw the same images is compared in three ways. Do they agree that an
# image is normal (kappa: 1 is perfect, 0 is chance)? Which findings do both name (the share of
# the findings that either named)? Do their boxes agree in place (F1 of their boxes, paired at the
# overlap that the metric asks for)?

# %%
pairs = ann.reader_agreement(annotations, classes=classes)
measures = {"kappa": "Normal or not (kappa)", "class_jaccard": "Same findings", "box_f1": "Same boxes (F1)"}
run.figure(
    plots.reader_agreement(pairs, measures=measures),
    "05_agreement",
    "Agreement of each pair of readers; grey where they share no image or the measure is undefined.",
)

# %% [markdown]
# Each square asks for more than the one to its left, and agreement falls. The right-hand square
# matters most: where trained readers do not draw the same boxes, no detector can be expected to
# draw them. Grey cells are pairs of readers without a common image, or with nothing to compare.

# %%
positives = ann.positives_by_reader_count(annotations, classes=classes)
run.figure(
    plots.agreement_by_class(positives),
    "06_readers_per_finding",
    "For each finding, the share of its images that one, two or three readers marked.",
)

# %% [markdown]
# Readers agree most on the findings at the top. At the bottom most findings were marked by a
# single reader. Keep this order in mind: the detector's scores by class usually follow it.
#
# ## Size and shape of the boxes
#
# Look for the range: the thick bar spans the middle half of the boxes, the thin one nine tenths, the
# white tick is the median. Both axes are logarithmic.

# %%
geometry = ann.box_geometry(annotations, sizes if len(sizes) else None, classes=classes)
run.figure(
    plots.box_geometry(geometry, classes=classes),
    "07_box_geometry",
    "Size and shape of the boxes: median, middle half and nine tenths of each finding.",
)

# %% [markdown]
# A detector looks for boxes of certain sizes and shapes (its anchors). Where the sizes span more than
# a factor of ten, a pyramid of image scales is needed, and the smallest boxes decide how large the
# network's input must be.
#
# ## Where findings sit
#
# Bright is where many boxes of the finding overlap, with all images laid over each other. The
# patient's right is on the left, as on every chest radiograph.

# %%
known = geometry.dropna(subset=["area"])[schema.CLASS_ID].value_counts()
maps = ann.heat_maps(annotations, sizes, classes=classes)
run.figure(
    plots.heat_maps(maps, [int(known.get(i, 0)) for i in classes.finding_ids], classes=classes),
    "08_heat_maps",
    "Where the boxes of each finding lie, all images laid over each other. Bright: covered by many boxes.",
)

# %% [markdown]
# Heart and aorta have a fixed place. Fluid gathers at the bottom of the chest. Diffuse findings
# cover both lungs. A map without structure belongs to a rare or ill-defined class.
#
# ## What the headers say
#
# Look for what differs between files: compression, inverted greys, missing windows, implausible ages.

# %%
run.figure(
    plots.header_facts(headers),
    "09_headers",
    "How often each value of a header field occurs; grey where the field is empty or missing.",
)

# %% [markdown]
# MONOCHROME1 files are stored as negatives and have to be inverted. A missing or absurd window must
# not blank the image. Ages and spacings are often missing or nonsense, so they are no reliable
# features. And the software version or the transfer syntax betrays which machine, so which hospital,
# sent the file: notebook 05 measures how much of "normal or not" can be guessed from that alone.
#
# Last, the sizes: how unequal are the images, and are there any in landscape?

# %%
run.figure(
    plots.image_sizes(sizes),
    "10_image_sizes",
    "Rows against columns of the original images; a larger dot stands for more images.",
)

# %% [markdown]
# Boxes are in pixels of these originals, whatever size the network works at. All later notebooks
# convert to and fro with each image's own size.
#
# ## Images with every reader's boxes
#
# One colour a reader, the same place in the alphabet the same colour. Look for boxes that only one
# reader drew, and for two names on one box.

# %%
found = annotations[annotations.class_id != classes.normal_id].image_id.drop_duplicates()
images = load_examples(paths, found.sample(frac=1, random_state=seed), most=example_images, longest_side=640)
original = sizes.set_index("image_id")
panels = []
for image_id, image in images.items():
    rows = annotations[annotations.image_id == image_id]
    size = tuple(original.loc[image_id]) if image_id in original.index else image.original_size
    marks = plots.reader_marks(rows, size, image.pixels.shape, classes=classes)
    panels.append(plots.Panel(image.pixels, image_id[:18], marks))
run.figure(
    plots.gallery(panels, columns=3, cell=4.2, empty="No images here: examples are left out."),
    "11_examples",
    "Example images with the boxes of every reader, one colour a reader.",
)

# %% [markdown]
# The images were drawn by lot from those with findings. Two readers' boxes on one finding rarely
# agree to the pixel, which is why the metric asks for an overlap and no more, and why the readers are
# fused before a detector learns from them.
#
# The same images to page through, to zoom and to window. Take one reader's boxes away and look whether
# you would have drawn them. `cxr view` in a terminal makes such a page of a whole run.

# %%
edges = {row.image_id: (row.rows, row.columns) for row in sizes.itertuples()}
source = viewer.FileSource(paths, sizes=edges, longest_side=640)
viewer.notebook_page(source, [*images], classes=classes, readers=annotations) if images else "No images here."

# %% [markdown]
# ## Summary
#
# Findings are rare and unequal, readers disagree, and headers tell more than they should. Four
# decisions follow. Notebook 04 fuses the readers. It also keeps the folds balanced over the
# findings. Notebook 05 uses header features only where a parameter asks for them. Notebook 07
# reports every score with an interval and beside the readers' own agreement.
#
# **Next:** notebook 02 turns the DICOM files into images a network can read.

# %%
# NBVAL_CHECK_OUTPUT
print("rows", len(annotations), "of", len(text))
print("images", annotations.image_id.nunique())
print("boxes", len(geometry))
print("readers", annotations.rad_id.nunique())
