"""The weights that ship: what they are, who takes them, and that no score counts images they have seen."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from squares import train

from cxr import files
from cxr.detector.checkpoints import shipped, weights
from cxr.detector.network import anchors, registry
from cxr.detector.network.base import DetectionNetwork
from cxr.detector.network.spec import DetectorSpec
from cxr.detector.recipe import Recipe
from cxr.detector.training import pretrain
from cxr.detector.training.pretrain import Pretraining, make_weights
from cxr.errors import CheckpointError
from cxr.schema import VINBIGDATA

ROOT = Path(__file__).resolve().parents[1]
LIGHT = shipped.FOLDER / registry.architecture("light").phantom


def network(name: str, classes: tuple[str, ...] = tuple(VINBIGDATA.names)) -> DetectionNetwork:
    entry = registry.architecture(name)
    sizes, ratios = anchors.fit_anchors(
        torch.empty(0, 4).numpy(), strides=entry.strides, sizes_per_level=entry.sizes_per_level
    )
    if not entry.sizes_per_level:
        sizes, ratios = (), ()
    return registry.build_network(DetectorSpec(name, classes, 64, sizes, ratios))


def load(net: DetectionNetwork, name: str) -> weights.WeightsReport:
    return weights.load_weights(net, shipped.start_of("auto", name), architecture_name=name)


def test_the_light_network_takes_all_of_them():
    report = load(network("light"), "light")
    assert not report.missing
    assert not report.unused


@pytest.mark.parametrize("name", ["light_retinanet", "light_fcos"])
def test_other_light_families_take_the_backbone(name):
    net = network(name)
    report = load(net, name)
    own = {key for key in net.state_dict() if key.startswith("backbone.body.")}
    assert own <= set(report.loaded)
    key = "backbone.body.stage0.0.0.weight"
    torch.testing.assert_close(net.state_dict()[key], weights.read_state(LIGHT)[key].float())


def test_other_classes_take_all_but_the_last_layer():
    report = load(network("light", ("Right Lung", "Left Lung", "No finding")), "light")
    assert {key.rsplit(".", 2)[0] for key in report.missing} == {"roi_heads.box_predictor"}


def test_a_training_starts_from_them_unless_told_otherwise(tmp_path):
    result = train(tmp_path, weights=Recipe().network.weights, epochs=1, val_ids=[])
    assert LIGHT.name in result.weights


def test_a_copy_of_the_code_alone_starts_from_random_weights_and_says_so(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    assert shipped.start_of("auto", "light") == ""
    assert "starts from random ones" in caplog.text


def test_networks_without_shipped_weights_start_from_random_ones_unless_asked():
    assert shipped.start_of("auto", "resnet18_fpn") == ""
    assert shipped.start_of("some/file.pth", "light") == "some/file.pth"
    assert shipped.start_of("", "light") == ""
    with pytest.raises(CheckpointError, match="none from phantoms ship for 'resnet18_fpn'"):
        shipped.start_of("phantom", "resnet18_fpn")


def test_they_are_small_halved_and_what_their_card_says():
    assert LIGHT.stat().st_size <= 6e6
    state = weights.read_state(LIGHT)
    assert all(value.dtype == torch.float16 for value in state.values() if value.dim() > 1)
    card = (shipped.FOLDER / "README.md").read_text()
    assert files.recorded_sha256(LIGHT) == files.sha256(LIGHT)
    assert LIGHT.stem.endswith(files.sha256(LIGHT)[:8])
    assert files.sha256(LIGHT) in card
    for name, value in asdict(Pretraining()).items():
        assert f"| {name.replace('_', ' ')} | {value:g} |" in card


def test_nothing_else_draws_phantoms_of_their_seed():
    """Where a demo, a test, a bench or a command names a seed, it is another one."""
    sources = [ROOT / "Makefile", ROOT / "README.md"]
    for folder in ("params", "tests", "docs", "notebooks", "examples"):
        sources += [p for p in (ROOT / folder).rglob("*") if p.suffix in {".py", ".yaml", ".md"}]
    seeds = {
        int(found)
        for path in sources
        for found in re.findall(r"seed[\"']?\s*[=: ]\s*(\d+)", path.read_text(encoding="utf-8"))
    }
    assert len(seeds) > 3
    assert shipped.SEED not in seeds


def test_they_can_be_made_again(tmp_path):
    plan = Pretraining(images=16, seed=5, pixels=256, image_size=64, epoch_images=8, epochs=1, held_out=4)
    path, _ = make_weights(plan, tmp_path / "work", tmp_path / "out")
    assert path.stem == f"light-{files.sha256(path)[:8]}"
    assert not weights.load_weights(network("light"), str(path), architecture_name="light").missing
    assert "16 synthetic radiographs of `cxr phantom --hard`" in (tmp_path / "out" / "README.md").read_text()


def test_weights_of_another_plan_never_take_the_place_of_the_shipped_ones(monkeypatch, capsys):
    before = sorted(shipped.FOLDER.iterdir())
    for options, told in (
        (["--images", "500"], "another folder than the shipped"),
        (["--no-hard"], "another folder than the shipped"),
        (["--images", "300", "--out", "elsewhere"], "more than the 400 held out, got 300"),
    ):
        monkeypatch.setattr("sys.argv", ["pretrain", *options])
        with pytest.raises(SystemExit):
            pretrain.main()
        assert told in capsys.readouterr().err
    assert sorted(shipped.FOLDER.iterdir()) == before
