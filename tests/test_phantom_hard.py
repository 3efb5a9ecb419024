"""The hard phantom: what makes it hard is drawn, nobody marks it, and the plain phantom stays what it was."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pytest

from cxr.errors import DataError
from cxr.phantom import make_phantom, picture
from cxr.phantom.hardships import PLAIN, THINGS, Hardship, draw_hardship

SIZE = (300, 260)
SEED = (3, 0, 1)


def draw(hardship: Hardship = PLAIN, findings: tuple[tuple[int, float], ...] = ()) -> picture.Picture:
    return picture.draw(SIZE, list(findings), female=False, seed=SEED, hardship=hardship)


@pytest.mark.parametrize("name", THINGS)
def test_each_thing_is_denser_than_what_it_covers(name):
    with_it, without = draw(Hardship(things=(name,))).density, draw().density
    changed = np.abs(with_it - without) > 0.1
    assert 20 < changed.sum() < 0.2 * changed.size
    assert (with_it - without)[changed].mean() > 0.1


def test_things_get_no_box():
    plain, worn = draw(findings=((3, 0.9),)), draw(Hardship(things=tuple(THINGS)), ((3, 0.9),))
    assert plain.boxes == worn.boxes


def test_position_moves_picture_and_boxes_together():
    plain, large = draw(findings=((3, 0.9),)), draw(Hardship(zoom=1.3), ((3, 0.9),))
    (before,), (after,) = plain.boxes[0], large.boxes[0]
    assert (after[2] - after[0]) / (before[2] - before[0]) == pytest.approx(1.3, abs=0.1)


def test_inversion_fog_dose_and_contrast_do_what_they_say():
    plain = draw().density
    np.testing.assert_array_equal(draw(Hardship(inverted=True)).density, 1 - plain)
    middle = np.s_[60:240, 60:200]
    assert draw(Hardship(fog=0.5)).density[middle].std() < plain[middle].std()
    assert draw(Hardship(contrast=2.0)).density[middle].std() > plain[middle].std()

    def grain(density):
        return np.diff(density[middle], axis=1).std()

    assert grain(draw(Hardship(dose=0.05)).density) > 1.2 * grain(plain)


def test_every_hardship_turns_up_and_none_always():
    drawn = [draw_hardship(np.random.default_rng(i)) for i in range(300)]
    assert {name for h in drawn for name in h.things} == set(THINGS)
    assert 0 < sum(h.inverted for h in drawn) < 40
    assert 0.3 < np.mean([h.crowded for h in drawn]) < 0.7
    assert 0.2 < np.mean([not h.things for h in drawn]) < 0.8


def test_a_hard_data_set_is_another_one_and_says_so(tmp_path):
    make = {"images": 12, "test_images": 0, "size": 256, "seed": 3, "abnormal_fraction": 1.0, "jobs": 1}
    hard = make_phantom(tmp_path / "hard", hard=True, **make)
    again = make_phantom(tmp_path / "again", hard=True, **make)
    plain = make_phantom(tmp_path / "plain", **make)

    def digests(folder):
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (folder / "train").iterdir()}

    assert digests(hard) == digests(again)
    assert not set(digests(hard).values()) & set(digests(plain).values())
    # Faint findings are marked by fewer readers.
    marks = {name: len(pd.read_csv(tmp_path / name / "train.csv")) for name in ("hard", "plain")}
    assert marks["hard"] < marks["plain"]
    with pytest.raises(DataError, match="hard True instead of False"):
        make_phantom(hard, **make)
