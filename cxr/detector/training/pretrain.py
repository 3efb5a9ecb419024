"""Make the weights that ship with the package: the light network, trained on drawn radiographs.

    python -m cxr.detector.training.pretrain [WORKING_FOLDER]
    python -m cxr.detector.training.pretrain --images 1400 --no-hard --out OTHER_WEIGHTS

Writes `light-HASH.pth`, its hash and its card into `cxr/detector/checkpoints/phantom/`. The phantom is the
hard one, of a seed that no demo, test or bench uses: no score on a phantom counts images learnt from.
The second line makes weights to compare with, from fewer or plainer phantoms and as long a training.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import logging
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from cxr import annotations as ann
from cxr.detector.checkpoints import shipped
from cxr.detector.checkpoints.files import read_detector
from cxr.detector.checkpoints.weights import check_finite
from cxr.detector.network.base import trainable
from cxr.detector.recipe import Recipe
from cxr.detector.training.train import train_detector
from cxr.files import recorded_sha256, replacing, write_text
from cxr.phantom import make_phantom
from cxr.preprocess import preprocess
from cxr.recipes import changed
from cxr.store import ImageStore

log = logging.getLogger("cxr")


@dataclass(frozen=True)
class Pretraining:
    """What the shipped weights learnt from, and for how long.

    Attributes:
        images: Phantoms made; the first `held_out` of them are only scored on.
        hard: Whether they are the hard ones, as `cxr phantom --hard` draws them.
        seed: Of the phantom and the training.
        abnormal_fraction: Share of phantoms with findings.
        pixels: Longer side of the largest phantoms.
        image_size: Longer side of the network's image.
        epoch_images: Images an epoch.
        epochs: Epochs.
        held_out: Phantoms that are not learnt from.
    """

    images: int = 8_000
    hard: bool = True
    seed: int = shipped.SEED
    abnormal_fraction: float = 0.9
    pixels: int = 512
    image_size: int = 384
    epoch_images: int = 2_000
    epochs: int = 11
    held_out: int = 400


def make_weights(plan: Pretraining, folder: Path, out: Path) -> tuple[Path, float]:
    """Draw phantoms, train on them and write weights and card.

    Args:
        plan: How many, how large, how long.
        folder: Working folder; phantoms and store that are there already are used again.
        out: Folder for the weights, their hash and their card.

    Returns:
        The file of weights, and its mAP@0.4 over the findings on the phantoms held out.
    """
    data = make_phantom(
        folder / "phantom",
        images=plan.images,
        test_images=0,
        size=plan.pixels,
        seed=plan.seed,
        abnormal_fraction=plan.abnormal_fraction,
        hard=plan.hard,
    )
    preprocess({"train": data / "train"}, folder / "images", image_size=plan.pixels)
    store = ImageStore(folder / "images")
    ids = sorted(store.ids_of("train"))
    recipe = changed(
        Recipe(),
        weights="",
        detector_image_size=plan.image_size,
        images_per_epoch=plan.epoch_images,
        epochs=plan.epochs,
        validate_every=plan.epochs,
        negative_fraction=1 - plan.abnormal_fraction,
        seed=plan.seed,
    )
    result = train_detector(
        store,
        ann.read_annotations(data / "train.csv"),
        ids[plan.held_out :],
        ids[: plan.held_out],
        recipe,
        folder / "training",
        resume=True,
    )
    net, spec, _ = read_detector(result.best)
    # Halves where there are many numbers; normalisation keeps its own.
    state = {name: value.half() if value.dim() > 1 else value for name, value in net.state_dict().items()}
    check_finite(state, result.best)
    out.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    # The name holds the hash, as torch's hub has it: the registry's line, and so the code, changes with them.
    path = out / f"{spec.architecture}-{hashlib.sha256(buffer.getvalue()).hexdigest()[:8]}.pth"
    with replacing(path, hashed=True) as temporary:
        temporary.write_bytes(buffer.getvalue())
    size = path.stat().st_size / 1e6
    command = "cxr phantom --hard" if plan.hard else "cxr phantom"
    rows = "\n".join(f"| {name.replace('_', ' ')} | {value:g} |" for name, value in asdict(plan).items())
    write_text(
        out / "README.md",
        f"""# Weights of the {spec.architecture} network from drawn radiographs

A start for trainings on real radiographs (`weights: phantom`, this network's default). They are no
detector for patients, and no medical device.

- **Data:** {plan.images:,} synthetic radiographs of `{command}`. No pixel and no row comes from
  a patient.
- **Made by:** `make weights`, which writes this page too.
- **File:** `{path.name}`, {size:.1f} MB, {trainable(net) / 1e6:.1f} M parameters, matrices in half
  precision, SHA-256 `{recorded_sha256(path)}`.
- **Score:** mAP@0.4 of {result.best_map:.3f} over the findings on the {plan.held_out} phantoms held out.
  What the start is worth on real radiographs stands in [Recipe and ablations](../../../../docs/recipes.md).
- **Limits:** the findings are drawn and simpler than a patient's. The demo, the tests and the benches use
  phantoms of other seeds, so a score there counts no image that these weights have seen.
- **Licence:** MIT, as the project.

| | |
|---|---|
{rows}
""",
    )
    return path, result.best_map


def main() -> None:
    """Make the weights, by default those in the package's own folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", help="working folder, kept; default: a temporary one")
    parser.add_argument("--images", type=int, default=Pretraining.images, help="phantoms made")
    parser.add_argument("--hard", action=argparse.BooleanOptionalAction, default=Pretraining.hard)
    parser.add_argument("--out", type=Path, default=shipped.FOLDER, help="folder of weights and card")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    plan = Pretraining(images=arguments.images, hard=arguments.hard)
    if plan.images <= plan.held_out:
        parser.error(f"--images: expected more than the {plan.held_out} held out, got {plan.images}")
    if plan != Pretraining() and arguments.out == shipped.FOLDER:
        parser.error("--out: expected another folder than the shipped weights' for another plan")
    with tempfile.TemporaryDirectory() as temporary:
        path, score = make_weights(plan, arguments.folder or Path(temporary), arguments.out)
    log.info("%s: mAP@0.4 %.3f on phantoms held out", path, score)
    if arguments.out == shipped.FOLDER:
        log.info("name it as `phantom` of the light networks in cxr/detector/network/registry.py")


if __name__ == "__main__":
    main()
