"""One shard: an HDF5 file of images that is written once, completely or not at all.

Layout of the file: a user block of 512 bytes (PS: HDF5 leaves it to its user) with the length
and the SHA-256 of all that follows, so that a flipped bit or a lost tail shows without HDF5;
then an HDF5 file with a group `images` of one 2-D `uint8` data set an image, and a data set
`records` of JSON that says everything else about them.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np

from cxr.errors import StoreError
from cxr.files import write_bytes

COMPRESSIONS = ("none", "gzip")
"""`none` reads at the speed of the disk; `gzip` needs about 0.6 of the space and far more time."""

_FORMAT = "cxr image shard 1"
_USER_BLOCK = 512
_GZIP_LEVEL = 4


@dataclass(frozen=True)
class ShardImage:
    """An image on its way into a shard.

    Attributes:
        image_id: Unique in the store.
        split: Name of the folder it came from, for example `train`.
        pixels: `uint8 (H, W)`.
        original_size: `(rows, columns)` of the picture that annotated boxes refer to.
        header: Header row, see `schema.HEADER_COLUMNS`.
        source: Name, bytes and modification time (ns) of the file it was read from.
    """

    image_id: str
    split: str
    pixels: np.ndarray
    original_size: tuple[int, int]
    header: dict[str, str]
    source: tuple[str, int, int]


@dataclass(frozen=True)
class ShardRecord:
    """What a shard says about one of its images.

    Attributes:
        image_id: Unique in the store.
        split: Name of the folder it came from.
        offset: Byte of the file where the stored pixels start.
        nbytes: Number of stored bytes.
        rows: Rows of the original.
        columns: Columns of the original.
        height: Rows of the stored image.
        width: Columns of the stored image.
        sha256: Of shape and pixels, see `pixel_hash`.
        header: Header row.
        source: Name, bytes and modification time (ns) of the file it was read from.
    """

    image_id: str
    split: str
    offset: int
    nbytes: int
    rows: int
    columns: int
    height: int
    width: int
    sha256: str
    header: dict[str, str]
    source: tuple[str, int, int]


def pixel_hash(pixels: np.ndarray) -> str:
    """SHA-256 of an image: its shape as text, then its pixels."""
    digest = hashlib.sha256(f"{pixels.shape[0]}x{pixels.shape[1]}\n".encode())
    digest.update(np.ascontiguousarray(pixels))
    return digest.hexdigest()


def write_shard(path: Path, images: Sequence[ShardImage], *, compression: str) -> list[ShardRecord]:
    """Write a shard; the file appears under its name complete and on the disk, or not at all.

    Args:
        path: Final name.
        images: Images of any shapes.
        compression: One of `COMPRESSIONS`.

    Returns:
        The record of each image, in the order given.

    Raises:
        StoreError: Unknown compression.
        DiskError: The file cannot be written, for example because the disk is full.
    """
    if compression not in COMPRESSIONS:
        raise StoreError(f"compression must be one of {', '.join(COMPRESSIONS)}, got {compression!r}")
    records: list[ShardRecord] = []
    # Built in memory: a full disk is then one plain OSError from one plain write, and not an HDF5
    # library that can neither finish nor close its file.
    with h5py.File(
        uuid.uuid4().hex,
        "w",
        driver="core",
        backing_store=False,
        block_size=1 << 22,
        userblock_size=_USER_BLOCK,
    ) as file:
        group = file.create_group("images")
        for image in images:
            offset, nbytes = _add_image(group, image, compression)
            height, width = image.pixels.shape
            records.append(
                ShardRecord(
                    image_id=image.image_id,
                    split=image.split,
                    offset=offset,
                    nbytes=nbytes,
                    rows=image.original_size[0],
                    columns=image.original_size[1],
                    height=height,
                    width=width,
                    sha256=pixel_hash(image.pixels),
                    header=image.header,
                    source=image.source,
                )
            )
        text = json.dumps([asdict(record) for record in records], separators=(",", ":")).encode()
        file.create_dataset("records", data=np.frombuffer(text, dtype=np.uint8))
        file.attrs["compression"] = compression
        file.attrs["complete"] = True
        file.flush()
        body = file.id.get_file_image()
    head = f"{_FORMAT}\nbytes {len(body)}\nsha256 {hashlib.sha256(body).hexdigest()}\n".encode()
    write_bytes(path, head.ljust(_USER_BLOCK, b"\0"), body)
    return records


def _add_image(group: h5py.Group, image: ShardImage, compression: str) -> tuple[int, int]:
    """Store one image as one unbroken run of bytes; return where it lies in the file."""
    pixels = np.ascontiguousarray(image.pixels)
    packed = zlib.compress(pixels, _GZIP_LEVEL) if compression == "gzip" else b""
    # What does not shrink is stored plainly; fewer stored bytes than pixels then always means deflated.
    if not packed or len(packed) >= pixels.nbytes:
        data = group.create_dataset(image.image_id, data=pixels)
        return data.id.get_offset(), pixels.nbytes
    data = group.create_dataset(
        image.image_id,
        shape=pixels.shape,
        dtype=np.uint8,
        chunks=pixels.shape,
        compression="gzip",
        compression_opts=_GZIP_LEVEL,
    )
    data.id.write_direct_chunk((0, 0), packed)
    group.file.flush()
    chunk = data.id.get_chunk_info(0)
    return chunk.byte_offset, chunk.size


def read_shard_records(path: Path) -> list[ShardRecord]:
    """Read the records of a shard after a cheap check that it is all there.

    Args:
        path: A shard.

    Returns:
        One record an image.

    Raises:
        StoreError: Missing, cut off, incomplete, or not a shard.
    """
    _read_head(path)
    try:
        with h5py.File(path, "r") as file:
            if not bool(file.attrs.get("complete", False)):
                raise StoreError(f"{path.name}: not marked complete")
            text = file["records"][()].tobytes()
        return [ShardRecord(**{**record, "source": tuple(record["source"])}) for record in json.loads(text)]
    except StoreError:
        raise
    except Exception as error:
        raise StoreError(f"{path.name}: damaged ({' '.join(str(error).split())[:160]})") from error


def check_shard(path: Path) -> str | None:
    """Compare every byte of a shard with the checksum in its user block.

    Args:
        path: A shard.

    Returns:
        What is wrong with it, `None` if nothing is.
    """
    try:
        _, expected = _read_head(path)
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            head = file.read(_USER_BLOCK)
            if head.rstrip(b"\0").count(b"\n") != 3 or head.strip(b"\0")[-1:] != b"\n":
                return f"{path.name}: damaged (user block)"
            while block := file.read(1 << 22):
                digest.update(block)
    except StoreError as error:
        return str(error)
    except OSError as error:
        return f"{path.name}: cannot be read ({error.strerror})"
    return None if digest.hexdigest() == expected else f"{path.name}: damaged (checksum differs)"


def damaged_images(path: Path) -> list[str]:
    """Ids of the images of a damaged shard whose own checksum is wrong; for messages.

    Args:
        path: A shard that `check_shard` calls damaged.

    Returns:
        Ids; none where the shard cannot be read at all, or where the damage lies elsewhere.
    """
    wrong = []
    try:
        for record in read_shard_records(path):
            shape = (record.height, record.width)
            try:
                pixels = read_pixels(path, record.offset, record.nbytes, shape, name=record.image_id)
                if pixel_hash(pixels) != record.sha256:
                    wrong.append(record.image_id)
            except (StoreError, ValueError, MemoryError):
                wrong.append(record.image_id)
    except (StoreError, OSError, TypeError):
        return []
    return wrong


def _read_head(path: Path) -> tuple[int, str]:
    """Length and SHA-256 from the user block, the length compared with the file's."""
    try:
        with open(path, "rb") as file:
            head = file.read(_USER_BLOCK)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError as error:
        raise StoreError(f"{path.name}: missing") from error
    except OSError as error:
        raise StoreError(f"{path.name}: cannot be read ({error.strerror})") from error
    lines = head.rstrip(b"\0").decode("ascii", errors="replace").splitlines()
    try:
        name, length, digest = (
            lines[0],
            int(lines[1].removeprefix("bytes ")),
            lines[2].removeprefix("sha256 "),
        )
    except (IndexError, ValueError):
        name = ""
    if name != _FORMAT:
        raise StoreError(f"{path.name}: damaged or not an image shard")
    if size != length + _USER_BLOCK:
        raise StoreError(
            f"{path.name}: {size} bytes, expected {length + _USER_BLOCK}: truncated or overwritten"
        )
    return length, digest


def read_pixels(path: Path, offset: int, nbytes: int, shape: tuple[int, int], *, name: str) -> np.ndarray:
    """Read one image with one positioned read.

    Args:
        path: The shard.
        offset: First byte.
        nbytes: Stored bytes; fewer than `H * W` means deflated.
        shape: `(H, W)`.
        name: Image id, for messages.

    Returns:
        `uint8 (H, W)`, writable, the caller's own.

    Raises:
        StoreError: The shard is missing, too short, or the stored bytes do not inflate.
    """
    count = shape[0] * shape[1]
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError as error:
        raise StoreError(f"image {name}: shard {path} is missing") from error
    try:
        stored = np.empty(nbytes, dtype=np.uint8)
        got = _read_into(file, stored, offset)
    finally:
        os.close(file)
    if got < nbytes:
        raise StoreError(f"image {name}: shard {path} ends after {got} of {nbytes} bytes: truncated")
    if nbytes == count:
        return stored.reshape(shape)
    try:
        plain = zlib.decompress(stored, bufsize=count)
        return np.frombuffer(bytearray(plain), dtype=np.uint8).reshape(shape)
    except (zlib.error, ValueError) as error:
        raise StoreError(f"image {name}: shard {path} is damaged ({error})") from error


def _read_into(file: int, target: np.ndarray, offset: int) -> int:
    done = 0
    view = memoryview(target)
    while done < target.nbytes:
        step = os.preadv(file, [view[done:]], offset + done)
        if step == 0:
            break
        done += step
    return done
