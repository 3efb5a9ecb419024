"""The image store: what goes in comes out, from any process, and every damaged byte is found."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from cxr import schema, store
from cxr.errors import StoreError
from cxr.store import ImageStore, ShardImage

HEADER = dict.fromkeys(schema.HEADER_COLUMNS, "")


def pictures(count: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    ramp = np.arange(48 * 40, dtype=np.uint8).reshape(48, 40)
    images = {
        f"id{k}": (ramp[: 20 + k, : 30 - k] + rng.integers(0, 4, (20 + k, 30 - k))).astype(np.uint8)
        for k in range(count)
    }
    return images | {"NA": np.zeros((1, 1), np.uint8), "007": rng.integers(0, 256, (9, 9), np.uint8)}


def make_store(folder: Path, compression: str = "none") -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    images = pictures()
    shards = []
    for number, part in enumerate((list(images)[:4], list(images)[4:])):
        content = [
            ShardImage(
                i,
                "train" if number == 0 else "test",
                images[i],
                (2 * images[i].shape[0], 61),
                HEADER,
                (i, 1, 2),
            )
            for i in part
        ]
        name = f"shard-{number:05d}.h5"
        shards.append((name, store.write_shard(folder / name, content, compression=compression)))
    store.write_index(folder, shards)
    return images


@pytest.fixture(params=store.COMPRESSIONS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    return tmp_path / "images", make_store(tmp_path / "images", request.param)


def test_round_trip(made: tuple[Path, dict[str, np.ndarray]]):
    folder, images = made
    opened = ImageStore(folder)
    assert len(opened) == len(images) == 9
    assert set(opened.ids) == set(images)
    for image_id, pixels in images.items():
        got = opened[image_id]
        assert got.dtype == np.uint8 and (got == pixels).all()
        assert opened.original_size(image_id) == (2 * pixels.shape[0], 61)
        assert image_id in opened
    assert opened.verify() == []


def test_index(made: tuple[Path, dict[str, np.ndarray]]):
    folder, images = made
    index = ImageStore(folder).index
    assert list(index.columns) == store.INDEX_COLUMNS
    assert index[["split", "image_id"]].apply(tuple, axis=1).is_monotonic_increasing
    row = index.set_index("image_id").loc["007"]
    digest = hashlib.sha256(b"9x9\n" + images["007"].tobytes()).hexdigest()
    assert (row["height"], row["width"], row["rows"], row["sha256"]) == (9, 9, 18, digest)


def test_splits(made: tuple[Path, dict[str, np.ndarray]]):
    opened = ImageStore(made[0])
    assert opened.ids_of("train") == ["id0", "id1", "id2", "id3"]
    assert opened.ids_of("test") == ["007", "NA", "id4", "id5", "id6"]
    assert opened.ids_of("nothing") == []


def test_images_are_the_callers_own(made: tuple[Path, dict[str, np.ndarray]]):
    folder, images = made
    opened = ImageStore(folder)
    opened["id0"][:] = 0
    assert (opened["id0"] == images["id0"]).all()


def test_shards_are_plain_hdf5(made: tuple[Path, dict[str, np.ndarray]]):
    folder, images = made
    with h5py.File(folder / "shard-00000.h5") as file:
        assert file.attrs["complete"]
        for image_id in list(images)[:4]:
            assert (file["images"][image_id][()] == images[image_id]).all()


def test_same_images_same_bytes(tmp_path: Path):
    make_store(tmp_path / "a"), make_store(tmp_path / "b")
    for name in ("shard-00000.h5", "shard-00001.h5", "index.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_folder_above_is_accepted(made: tuple[Path, dict[str, np.ndarray]]):
    assert len(ImageStore(made[0].parent)) == 9


def _hash(opened: ImageStore, image_id: str) -> str:
    return hashlib.sha256(opened[image_id]).hexdigest()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_it(made: tuple[Path, dict[str, np.ndarray]], method: str):
    opened = ImageStore(made[0])
    opened["id0"]
    with multiprocessing.get_context(method).Pool(2) as pool:
        got = pool.starmap(_hash, [(opened, i) for i in opened.ids])
    assert got == [_hash(opened, i) for i in opened.ids]


def test_threads_read_it(made: tuple[Path, dict[str, np.ndarray]]):
    opened = ImageStore(made[0])
    wanted = [opened.ids[k % 9] for k in range(400)]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda i: _hash(opened, i), wanted))
    assert got == [_hash(opened, i) for i in wanted]
    assert threading.active_count() < 20


def test_pickle_holds_no_pixels(made: tuple[Path, dict[str, np.ndarray]]):
    text = pickle.dumps(ImageStore(made[0]))
    assert len(text) < 1000
    assert len(pickle.loads(text)) == 9


def test_empty_store(tmp_path: Path):
    store.write_index(tmp_path, [])
    opened = ImageStore(tmp_path)
    assert len(opened) == 0 and opened.ids == [] and opened.verify() == []
    with pytest.raises(StoreError, match="no image 'a' among 0"):
        opened["a"]


def test_wrong_id_gets_a_hint(made: tuple[Path, dict[str, np.ndarray]]):
    with pytest.raises(StoreError, match="no image 'id33' among 9; the nearest is id3"):
        ImageStore(made[0])["id33"]
    with pytest.raises(StoreError, match="no image 'x'"):
        ImageStore(made[0]).original_size("x")


def test_no_store(tmp_path: Path):
    with pytest.raises(StoreError, match=r"no image store here \(index.csv is missing\)"):
        ImageStore(tmp_path)
    (tmp_path / "index.csv").write_text("image_id,split\na,train\n")
    with pytest.raises(StoreError, match="column shard is missing"):
        ImageStore(tmp_path)


def test_index_with_a_wrong_value(made: tuple[Path, dict[str, np.ndarray]]):
    path = made[0] / "index.csv"
    text = path.read_text()
    path.write_text(text.replace(",9,9,", ",9,x,"))
    with pytest.raises(StoreError, match="column width must hold whole numbers"):
        ImageStore(made[0])
    path.write_text(text + text.splitlines()[1] + "\n")
    with pytest.raises(StoreError, match="image 007 is listed twice"):
        ImageStore(made[0])


def test_unknown_compression(tmp_path: Path):
    with pytest.raises(StoreError, match="compression must be one of none, gzip, got 'zip'"):
        store.write_shard(tmp_path / "a.h5", [], compression="zip")


# -- damage ------------------------------------------------------------------------------------------


def test_every_flipped_bit_is_found(made: tuple[Path, dict[str, np.ndarray]]):
    folder, _ = made
    path = folder / "shard-00001.h5"
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    places = [*rng.integers(0, len(whole), 40).tolist(), 0, 511, 512, len(whole) - 1]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        problems = ImageStore(folder).verify()
        assert problems and "shard-00001.h5" in problems[0], f"byte {place}"
    path.write_bytes(whole)
    assert ImageStore(folder).verify() == []


def test_a_flipped_pixel_names_the_image(made: tuple[Path, dict[str, np.ndarray]]):
    folder, _ = made
    row = ImageStore(folder).index.set_index("image_id").loc["id5"]
    path = folder / row["shard"]
    content = bytearray(path.read_bytes())
    content[row["offset"] + row["nbytes"] // 2] ^= 4
    path.write_bytes(content)
    problems = ImageStore(folder).verify()
    assert any("image id5" in line for line in problems)
    assert not any("image id6" in line for line in problems)
    with pytest.raises(StoreError, match=r"not as it was written: .*image id5.*Preprocessing again"):
        ImageStore(folder).require_whole()


@pytest.mark.parametrize("length", [0, 100, 600, -1])
def test_truncated_shard(made: tuple[Path, dict[str, np.ndarray]], length: int):
    folder, _ = made
    path = folder / "shard-00000.h5"
    path.write_bytes(path.read_bytes()[:length])
    problems = ImageStore(folder).verify()
    assert problems and problems[0].startswith("shard-00000.h5:")
    with pytest.raises(StoreError):
        store.read_shard_records(path)


def test_reading_from_a_short_shard(made: tuple[Path, dict[str, np.ndarray]]):
    path = made[0] / "shard-00000.h5"
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(StoreError, match=r"image id3: shard .* truncated"):
        ImageStore(made[0])["id3"]


def test_missing_shard(made: tuple[Path, dict[str, np.ndarray]]):
    (made[0] / "shard-00001.h5").unlink()
    opened = ImageStore(made[0])
    assert opened.verify() == ["shard-00001.h5: missing (5 images)"]
    with pytest.raises(StoreError, match=r"image NA: shard .* is missing"):
        opened["NA"]


def test_index_that_lies(made: tuple[Path, dict[str, np.ndarray]]):
    path = made[0] / "index.csv"
    path.write_text(path.read_text().replace(",18,61,", ",19,61,"))
    assert ImageStore(made[0]).verify() == [
        "index.csv: differs from its checksum; preprocessing again writes it anew",
        "index.csv: image 007: rows differ from the shard",
    ]


def test_index_that_lost_rows(made: tuple[Path, dict[str, np.ndarray]]):
    path = made[0] / "index.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("id1,")))
    differs = "index.csv: differs from its checksum; preprocessing again writes it anew"
    assert ImageStore(made[0]).verify() == [
        differs,
        "index.csv: image id1 of shard-00000.h5 is not listed",
    ]
    path.write_text("".join(line for line in lines if "shard-00001" not in line))
    assert ImageStore(made[0]).verify() == [differs, "shard-00001.h5: none of its images is in index.csv"]
    (made[0] / "shard-00001.h5").unlink()
    assert ImageStore(made[0]).verify() == [differs]


def test_index_without_its_checksum(made: tuple[Path, dict[str, np.ndarray]]):
    (made[0] / "index.sha256").unlink()
    assert ImageStore(made[0]).verify() == ["index.sha256: cannot be read (No such file or directory)"]


def test_verify_tells_progress(made: tuple[Path, dict[str, np.ndarray]]):
    seen: list[tuple[int, int]] = []
    ImageStore(made[0]).verify(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
