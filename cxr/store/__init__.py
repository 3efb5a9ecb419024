"""The image store: write-once HDF5 shards and an index that says where each image lies.

A store is a folder. Each shard is a valid HDF5 file with one data set an image, so that any
HDF5 viewer opens it; it appears under its name only when it is complete, and is never changed
afterwards. `index.csv` holds for each image its shard, the place of its bytes and their
checksum, so reading needs no HDF5 library: one positioned read, nothing to share between
processes, nothing to keep open. `shard` writes and checks shards, `images` reads the store.
"""

from __future__ import annotations

from cxr.store.images import INDEX_COLUMNS, ImageStore, write_index
from cxr.store.shard import (
    COMPRESSIONS,
    ShardImage,
    ShardRecord,
    check_shard,
    damaged_images,
    read_pixels,
    read_shard_records,
    write_shard,
)

__all__ = [
    "COMPRESSIONS",
    "INDEX_COLUMNS",
    "ImageStore",
    "ShardImage",
    "ShardRecord",
    "check_shard",
    "damaged_images",
    "read_pixels",
    "read_shard_records",
    "write_index",
    "write_shard",
]
