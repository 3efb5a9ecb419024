"""A folder of radiographs in, an image store, a header table and a failure list out.

`sources` finds the files, `plan` cuts them into batches that never change between runs, `batch`
turns one batch into one shard, `tables` writes the tables at the end, and `run` drives it all: in
parallel here or on a Dask cluster, resumable, with one run at a time in a folder.
"""

from __future__ import annotations

from cxr.preprocess.run import PreprocessResult, preprocess
from cxr.preprocess.sources import find_images, image_id_of
from cxr.preprocess.tables import FAILURE_COLUMNS

__all__ = ["FAILURE_COLUMNS", "PreprocessResult", "find_images", "image_id_of", "preprocess"]
