"""Random reads from the image store against the usual ways to keep 8-bit images, interleaved.

    python tests/bench/bench_store.py [--images 120] [--reads 60]

One process, warm cache, 1024 x 1024 pixels with the texture of a radiograph. Prints images a second
and KiB an image of each compression offered, of PNG files and of gzip HDF5 as h5py cuts it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np

from cxr import schema, store
from cxr.store import ImageStore, ShardImage

AIMS = {"PNG files": 40.0, "HDF5 gzip, automatic chunks": 30.0}


def picture(seed: int) -> np.ndarray:
    """Smooth anatomy and fine noise: about 420 KiB as PNG, as stored radiographs have."""
    rng = np.random.default_rng(seed)
    image = np.full((1024, 1024), 120.0, np.float32)
    for scale, strength in ((128, 60), (32, 14), (8, 5)):
        coarse = rng.standard_normal((1024 // scale + 2,) * 2).astype(np.float32)
        image += strength * cv2.resize(coarse, (1024, 1024), interpolation=cv2.INTER_CUBIC)
    image += 1.2 * rng.standard_normal(image.shape).astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--reads", type=int, default=60, help="reads of each round; five rounds, interleaved")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    ids = [f"image{k:04d}" for k in range(arguments.images)]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        images = {i: picture(k) for k, i in enumerate(ids)}
        readers: dict[str, Callable[[str], np.ndarray]] = {}
        size: dict[str, float] = {}
        header = dict.fromkeys(schema.HEADER_COLUMNS, "")
        for compression in store.COMPRESSIONS:
            folder = root / compression
            folder.mkdir()
            parts = [ids[k : k + 30] for k in range(0, len(ids), 30)]
            shards = []
            for number, part in enumerate(parts):
                content = [ShardImage(i, "train", images[i], (1024, 1024), header, (i, 0, 0)) for i in part]
                shard = folder / f"shard-{number:05d}.h5"
                shards.append((shard.name, store.write_shard(shard, content, compression=compression)))
            store.write_index(folder, shards)
            readers[f"store, {compression}"] = ImageStore(folder).__getitem__
            size[f"store, {compression}"] = sum(p.stat().st_size for p in folder.glob("*.h5"))
        for i in ids:
            cv2.imwrite(str(root / f"{i}.png"), images[i])
        readers["PNG files"] = lambda i: cv2.imread(str(root / f"{i}.png"), cv2.IMREAD_GRAYSCALE)
        size["PNG files"] = sum(p.stat().st_size for p in root.glob("*.png"))
        with h5py.File(root / "auto.h5", "w") as file:
            file.create_dataset("images", data=np.stack(list(images.values())), compression="gzip")
        auto = h5py.File(root / "auto.h5")["images"]
        place = {i: k for k, i in enumerate(ids)}
        readers["HDF5 gzip, automatic chunks"] = lambda i: auto[place[i]]
        size["HDF5 gzip, automatic chunks"] = (root / "auto.h5").stat().st_size

        rng = np.random.default_rng(0)
        for key, read in readers.items():
            assert all((read(i) == images[i]).all() for i in ids[:3]), key
        speed: dict[str, list[float]] = {key: [] for key in readers}
        for _ in range(5):
            wanted = [ids[k] for k in rng.integers(len(ids), size=arguments.reads)]
            for key, read in readers.items():
                # Slow ways get fewer reads, fast ways more, so that each round measures something.
                chosen = (
                    wanted * 20 if key == "store, none" else wanted[:10] if "automatic" in key else wanted
                )
                started = time.process_time()
                for image_id in chosen:
                    read(image_id)
                speed[key].append(len(chosen) / (time.process_time() - started))
        print(f"{'':30} images/s  KiB/image  store, none is faster by")
        for key, values in speed.items():
            ratio = np.median([a / b for a, b in zip(speed["store, none"], values, strict=True)])
            aim = f" (aim {AIMS[key]:g}x)" if key in AIMS else ""
            print(f"{key:30} {np.median(values):8.0f} {size[key] / 1024 / len(ids):10.0f}  {ratio:.1f}x{aim}")


if __name__ == "__main__":
    main()
