"""From file to stored pixels: our reader against the script everyone copies, interleaved.

    python tests/bench/bench_preprocess.py [--repeats 5] [--target 1024] [--copies 400]

    (one thread each: OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 in front)

CPU seconds, so that other work on the machine counts little; ratios are medians
of interleaved pairs. Sizes are VinBigData's commonest, and each read starts with an empty cache of
resize weights, as if no two files had the same size. The images are synthetic, 12 bits in 16, with
the noise of a real detector (about 2.5:1 as lossless JPEG 2000). One more has what no detector
records: letters with steps of one pixel, to show what the reduced decode does to them.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import psutil
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from cxr.dicom import (
    IsolatedReader,
    codecs,
    container,
    header,
    jpeg2000,
    layout,
    load_radiograph,
    load_reference,
    resample,
    tone,
)
from cxr.dicom.radiograph import target_size
from cxr.preprocess import preprocess

SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "jpeg 2000": JPEG2000Lossless,
    "rle": RLELossless,
    "jpeg-ls": JPEGLSLossless,
}
MIX = {"implicit": 0.60, "jpeg 2000": 0.35, "explicit": 0.05}
"""VinBigData's shares of transfer syntaxes."""

AIMS = {"implicit": 9.0, "explicit": 9.0, "jpeg 2000": 4.5}
SIZES = ((3072, 2560), (3072, 3072), (2880, 2304), (2500, 2048), (2430, 1994))
MEGABYTES = 192e3 / 18_000
"""Of a file, on average over VinBigData."""


def picture(rows: int, columns: int, *, letters: bool) -> np.ndarray:
    """A chest with ribs, texture, quantum noise and a detector's blur, `uint16` of 12 bits."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:rows:8, 0:columns:8].astype(np.float32)
    y, x = y / rows, x / columns
    body = np.exp(-(((x - 0.5) / 0.42) ** 6 + ((y - 0.6) / 0.62) ** 8))
    image = 2600 * body
    for centre in (0.3, 0.7):
        image -= 1500 * body * np.exp(-(((x - centre) / 0.14) ** 4 + ((y - 0.45) / 0.28) ** 4))
    for rib in range(9):
        image += 220 * body * np.exp(-(((y - 0.15 - 0.075 * rib - 0.25 * (x - 0.5) ** 2) / 0.011) ** 2))
    image = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_CUBIC)
    for scale, strength in ((40, 80), (12, 45), (4, 30)):
        coarse = rng.standard_normal((rows // scale + 2, columns // scale + 2)).astype(np.float32)
        image += strength * cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)
    noise = cv2.GaussianBlur(rng.standard_normal((rows, columns)).astype(np.float32), (0, 0), 0.6)
    image += 22 * noise / noise.std() * np.sqrt(np.clip(image, 100, None) / 1500) + 250
    if letters:
        mask = np.zeros(image.shape, np.uint8)
        place = (columns * 85 // 100, rows // 10)
        cv2.putText(mask, "L", place, cv2.FONT_HERSHEY_SIMPLEX, rows / 512, 255, rows // 220)
        image[mask > 0] = 3900
        image[:, : columns // 64] = 60
    return np.clip(image, 0, 4095).astype(np.uint16)


def write(path: Path, pixels: np.ndarray, syntax: str, *, tables: bool = False) -> Path:
    """Write one DICOM file with a plain window, and with a modality and a VOI LUT if wanted."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.WindowCenter, ds.WindowWidth, ds.RescaleSlope, ds.RescaleIntercept = "2048", "4096", "1", "0"
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW"
    if tables:
        curve = Dataset()
        curve.LUTDescriptor = [4096, 0, 16]
        curve.LUTData = np.linspace(0, 65535, 4096).astype("<u2").tobytes()
        curve["LUTDescriptor"].VR, curve["LUTData"].VR = "US", "OW"
        ds.VOILUTSequence = ds.ModalityLUTSequence = Sequence([curve])
    native = syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian)
    ds.file_meta.TransferSyntaxUID = UID(syntax) if native else ExplicitVRLittleEndian
    if not native:
        ds.compress(UID(syntax), generate_instance_uid=False)
    ds.save_as(path, enforce_file_format=True)
    return path


def naive(path: Path, target: int) -> np.ndarray:
    """The script everyone copies."""
    ds = pydicom.dcmread(path)
    data = apply_voi_lut(ds.pixel_array, ds)
    if ds.PhotometricInterpretation == "MONOCHROME1":
        data = np.amax(data) - data
    data = data - np.min(data)
    data = data / np.max(data)
    data = (data * 255).astype(np.uint8)
    height, width = target_size(data.shape, target)
    return cv2.resize(data, (width, height), interpolation=cv2.INTER_AREA)


def cpu_ms(work: Callable[[], object]) -> float:
    """CPU milliseconds of one call."""
    started = time.process_time()
    work()
    return 1e3 * (time.process_time() - started)


def decode_only(path: Path, target: int) -> Callable[[], object]:
    """The codec alone, on bytes already in memory: what no reader can be faster than."""
    with container.open_dataset(path) as (ds, _):
        shape = layout.read_layout(ds, path.name)
        if shape.transfer_syntax == JPEG2000Lossless:
            content = path.read_bytes()
            data = content[content.index(b"\xff\x4f\xff\x51") :]
            facts = jpeg2000.read_codestream(data, path.name)
            level = jpeg2000.level_for(facts, target)

            def reduced() -> object:
                with Image.open(io.BytesIO(data), formats=["JPEG2000"]) as image:
                    image.reduce = level
                    return image.load()

            return reduced
        if shape.transfer_syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian):
            return lambda: np.fromfile(path, dtype=np.uint16)

    def whole() -> object:
        with container.open_dataset(path) as (ds, stream):
            return codecs.decode(ds, stream, path, shape, longest_side=target)

    return whole


def shares(path: Path, target: int, repeats: int) -> dict[str, float]:
    """Median milliseconds of each step of our reader."""
    steps: dict[str, list[float]] = {}
    for _ in range(repeats):
        resample._blocks.cache_clear()
        marks = [time.process_time()]
        with container.open_dataset(path) as (ds, stream):
            header.header_row(ds, path)
            shape = layout.read_layout(ds, path.name)
            tones = tone.read_tone(ds, shape)
            marks.append(time.process_time())
            samples = codecs.decode(ds, stream, path, shape, longest_side=target, by_rows=True)
            marks.append(time.process_time())
            small = resample.area_average(
                samples.values,
                (shape.rows, shape.columns),
                target_size((shape.rows, shape.columns), target),
                level=samples.level,
                reversible=samples.reversible,
            )
        marks.append(time.process_time())
        window = tone.choose_window(tone.sample(small).ravel(), tones.windows)
        tone.to_uint8(small, tones, window)
        marks.append(time.process_time())
        for name, start, end in zip(
            ("header", "decode", "read and resize" if "2000" not in path.name else "resize", "window"),
            marks,
            marks[1:],
            strict=False,
        ):
            steps.setdefault(name, []).append(1e3 * (end - start))
    return {name: float(np.median(times)) for name, times in steps.items()}


def quality(path: Path, target: int) -> str:
    """PSNR and largest difference against full decode, area resize and the same window."""
    ours = load_radiograph(path, longest_side=target).pixels.astype(float)
    reference = load_reference(path, longest_side=target).pixels
    error = np.abs(ours - reference)
    psnr = 10 * np.log10(255**2 / max(np.mean(error**2), 1e-9))
    return (
        f"PSNR {min(psnr, 99):4.1f} dB, max {error.max():3.0f}, off by more than 4: {np.mean(error > 4):.5%}"
    )


def ours(path: Path, target: int) -> None:
    """Our reader on a file of a size it has not met."""
    resample._blocks.cache_clear()
    load_radiograph(path, longest_side=target)


def speed(folder: Path, size: tuple[int, int], target: int, repeats: int) -> dict[str, np.ndarray]:
    """Print a line for each syntax; median milliseconds of the naive script, ours, and the codec."""
    pixels = picture(*size, letters=False)
    chosen = SYNTAXES if size == SIZES[0] else {name: SYNTAXES[name] for name in MIX}
    raw, medians = pixels.nbytes, {}
    for syntax, uid in chosen.items():
        path = write(folder / f"{syntax}.dcm", pixels, uid)
        floor = decode_only(path, target)
        ours(path, target)
        times = [
            (cpu_ms(lambda p=path: naive(p, target)), cpu_ms(lambda p=path: ours(p, target)), cpu_ms(floor))
            for _ in range(repeats)
        ]
        medians[syntax] = np.median(times, axis=0)
        ratio = np.median([a / b for a, b, _ in times])
        aim = f" (aim {AIMS[syntax]:g}x)" if syntax in AIMS and size == SIZES[0] else ""
        text = "{:6.0f}ms {:5.1f}ms {:5.1f}ms".format(*medians[syntax])
        packed = raw / path.stat().st_size
        print(
            f"{size[0]}x{size[1]} {syntax:10} {text} {ratio:5.1f}x  {packed:3.1f}:1  "
            f"{quality(path, target)}{aim}",
            flush=True,
        )
    return medians


def memory(folder: Path, target: int) -> None:
    """Peak memory of a reader process on files of the largest size."""
    pixels = picture(*SIZES[0], letters=False)
    print("peak memory of a reader process (VmHWM; aim 600 MiB)")
    for syntax in ("explicit", "jpeg 2000", "rle", "jpeg-ls"):
        for tables in (False, True):
            path = write(folder / "memory.dcm", pixels, SYNTAXES[syntax], tables=tables)
            before = set(psutil.Process().children())
            with IsolatedReader(seconds_per_file=120.0) as reader:
                reader.load(path, longest_side=target)
                (child,) = set(psutil.Process().children()) - before
                status = Path(f"/proc/{child.pid}/status").read_text(encoding="ascii")
            peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024
            print(f"  {syntax:10}{' with look-up tables' if tables else '':20} {peak:4.0f} MiB")


def scaling(folder: Path, target: int, copies: int) -> None:
    """One process against two, wall clock, through the whole of `preprocess`.

    There are enough files that the second it takes to start a reader counts little, and they are in
    random order, as files named by a hash are. Where other work has the second core, the wall clock
    says nothing; what two processes cost more in CPU time than one bounds from above what they can gain
    where each has a core.
    """
    source = folder / "many"
    source.mkdir()
    names = [name for name, share in MIX.items() for _ in range(round(share * copies))]
    for number, name in enumerate(np.random.default_rng(0).permutation(names)):
        os.link(folder / f"{name}.dcm", source / f"{number:04d}.dcm")
    ratios, bounds = [], []
    for turn in range(3):
        wall, cpu = {}, {}
        for jobs in (1, 2):
            before = sum(os.times()[:4])
            result = preprocess({"a": source}, folder / f"out{turn}{jobs}", image_size=target, jobs=jobs)
            wall[jobs], cpu[jobs] = result.seconds, sum(os.times()[:4]) - before
        ratios.append(wall[1] / wall[2])
        bounds.append(2 * cpu[1] / cpu[2])
        print(
            f"  {len(names)} files: one {wall[1]:.1f} s (CPU {cpu[1]:.1f}), two {wall[2]:.1f} s "
            f"(CPU {cpu[2]:.1f}), ratio {ratios[-1]:.2f}"
        )
    print(
        f"two processes against one: {np.median(ratios):.2f}x (aim 1.8x; load now {os.getloadavg()[0]:.1f}), "
        f"by CPU time at most {np.median(bounds):.2f}x"
    )


def estimate(mixed: np.ndarray, disk: float) -> None:
    """Print hours for whole data sets: computing on one core, and reading at a stated rate."""
    for count in (18_000, 400_000):
        naive_hours, our_hours = count * mixed[:2] / 3.6e6
        reading = count * MEGABYTES / disk / 3600
        print(
            f"  {count:,} images: {our_hours:.1f} core hours (naive {naive_hours:.1f}); "
            f"reading {count * MEGABYTES / 1e6:.1f} TB at {disk:g} MB/s takes {reading:.1f} hours"
        )


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--target", type=int, default=1024)
    parser.add_argument("--copies", type=int, default=400, help="files of the scaling run, 0 to skip it")
    parser.add_argument("--disk", type=float, default=150.0, help="MB/s that the estimate reads at")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    target = arguments.target
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{'':20} {'naive':>8} {'ours':>7} {'codec':>7} {'ratio':>6}  file    against the reference")
        # The sizes from the smallest, so that the files of the largest stay for what follows.
        every = [speed(folder, size, target, arguments.repeats) for size in reversed(SIZES)]
        mixed = np.mean([sum(share * ms[n] for n, share in MIX.items()) for ms in every], axis=0)
        ratio = mixed[0] / mixed[1]
        print(f"VinBigData's mix (60/35/5): {mixed[0]:.0f} ms -> {mixed[1]:.0f} ms, {ratio:.1f}x (aim 5x)")
        estimate(mixed, arguments.disk)
        print("where our time goes")
        for syntax in ("explicit", "jpeg 2000"):
            parts = shares(folder / f"{syntax}.dcm", target, arguments.repeats)
            total = sum(parts.values())
            print(f"  {syntax:10}", ", ".join(f"{k} {v:.1f} ms ({v / total:.0%})" for k, v in parts.items()))
        lettered = write(folder / "letters.dcm", picture(*SIZES[0], letters=True), JPEG2000Lossless)
        print(f"with digital letters and a digital edge burnt in: {quality(lettered, target)}")
        memory(folder, target)
        if arguments.copies:
            scaling(folder, target, arguments.copies)


if __name__ == "__main__":
    main()
