"""A good file of each kind that is read, and ways to damage it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from dicom_files import chest, dataset, write_dicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)


def curve(bits: int) -> Sequence:
    """A look-up table of 4,096 entries."""
    item = Dataset()
    item.LUTDescriptor = [4096, 0, bits]
    item.LUTData = np.linspace(0, (1 << bits) - 1, 4096).astype("<u2").tobytes()
    item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "OW"
    return Sequence([item])


def encapsulated(path: Path, frame: bytes, syntax: str, pixels: np.ndarray, bits: int) -> Path:
    """A DICOM file around a frame that another encoder made."""
    ds = dataset(pixels, bits=bits, PixelData=encapsulate([frame]))
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.save_as(path, enforce_file_format=True)
    return path


def seeds(folder: Path) -> list[Path]:
    """A good file of each kind."""
    syntaxes = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless]
    syntaxes += [DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian]
    if importlib.util.find_spec("jpeg_ls"):
        syntaxes.append(JPEGLSLossless)
    pixels, coarse = chest(96, 80), chest(96, 80, bits=8)
    made = [write_dicom(folder / f"{n}.dcm", pixels, syntax=syntax) for n, syntax in enumerate(syntaxes)]
    made.append(write_dicom(folder / "v.dcm", pixels, VOILUTSequence=curve(8)))
    made.append(write_dicom(folder / "m.dcm", pixels, ModalityLUTSequence=curve(16), PixelPaddingValue=4095))
    for name in ("p.png", "q.jpg"):
        Image.fromarray(coarse).save(folder / name)
        made.append(folder / name)
    frame = (folder / "q.jpg").read_bytes()
    return [*made, encapsulated(folder / "b.dcm", frame, JPEGBaseline8Bit, coarse, 8)]


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip, overwrite, cut, double or insert bytes, most often where the header is."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        reach = len(data) if rng.random() < 0.4 else min(len(data), 1200)
        place = int(rng.integers(reach)) if reach else 0
        kind = int(rng.integers(7))
        if kind == 0 and data:
            data[place] ^= 1 << int(rng.integers(8))
        elif kind == 1 and data:
            data[place] = int(rng.choice([0, 1, 127, 128, 255]))
        elif kind == 2:
            data[place : place + 4] = int(rng.integers(1 << 32)).to_bytes(4, "little")
        elif kind == 3:
            data[place : place + 2] = b"\xff\xff"
        elif kind == 4:
            del data[place : place + int(rng.integers(1, 40))]
        elif kind == 5:
            data[place:place] = data[place : place + int(rng.integers(1, 200))]
        elif rng.random() < 0.3:
            del data[place:]
    return bytes(data)


def write_mutants(folder: Path, number: int, seed: int) -> list[Path]:
    """Damaged files, each kind in turn, the same for the same seed."""
    rng = np.random.default_rng(seed)
    good = folder.with_name(folder.name + "-good")
    for made in (folder, good):
        made.mkdir(parents=True)
    contents = [path.read_bytes() for path in seeds(good)]
    paths = [folder / f"mutant{index:05d}.dicom" for index in range(number)]
    for index, path in enumerate(paths):
        path.write_bytes(mutate(contents[index % len(contents)], rng))
    return paths
