"""Folds: by image, even over the classes, the same for a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr import annotations, schema, splits
from cxr.errors import DataError, ParameterError
from cxr.splits import read_folds

TWO = schema.ClassTable(("Mass", "Fluid", "Normal"))


def study(n: int, seed: int = 0, classes: schema.ClassTable = TWO) -> pd.DataFrame:
    """Images with the classes they have, several rows each, rare and common classes."""
    rng = np.random.default_rng(seed)
    shares = np.geomspace(0.5, 0.03, classes.normal_id)
    rows = []
    for image in range(n):
        found = [c for c in classes.finding_ids if rng.random() < shares[c]] or [classes.normal_id]
        rows += [(f"i{image}", c) for c in found for _ in range(rng.integers(1, 4))]
    return pd.DataFrame(rows, columns=["image_id", "class_id"])


def test_every_image_is_in_one_fold_and_rows_go_with_their_image():
    made = study(97)
    folds = splits.make_folds(made, classes=TWO)
    assert folds.columns.tolist() == ["image_id", "fold"]
    assert folds["image_id"].tolist() == made["image_id"].drop_duplicates().tolist()
    assert set(folds["fold"]) == {0, 1, 2, 3, 4}
    for fold in range(5):
        train, val = splits.split_fold(made, folds, fold)
        assert not set(train["image_id"]) & set(val["image_id"])
        assert len(train) + len(val) == len(made)


def test_classes_and_sizes_are_spread_evenly():
    made = study(600, classes=schema.VINBIGDATA)
    counts = splits.fold_counts(made, splits.make_folds(made))
    images = counts.loc["Images"]
    assert images.sum() == 600 and images.max() - images.min() <= 12
    by_class = counts.drop("Images")
    spread = by_class.max(axis=1) - by_class.min(axis=1)
    assert (spread <= np.maximum(2, 0.25 * by_class.mean(axis=1))).all()
    # Chance alone does worse: the sum of squares of a blind split is far larger.
    rng = np.random.default_rng(1)
    blind = splits.make_folds(made)
    blind["fold"] = rng.permutation(blind["fold"].to_numpy())
    by_chance = splits.fold_counts(made, blind).drop("Images")
    assert by_class.var(axis=1).sum() < 0.3 * by_chance.var(axis=1).sum()


def test_a_rare_class_is_in_as_many_folds_as_it_has_images():
    made = study(60)
    rare = pd.DataFrame({"image_id": ["i1", "i2", "i3"], "class_id": 1})
    made = pd.concat([made[made["class_id"] != 1], rare], ignore_index=True)
    counts = splits.fold_counts(made, splits.make_folds(made, classes=TWO), classes=TWO)
    assert sorted(counts.loc["Fluid"]) == [0, 0, 1, 1, 1]


def test_the_seed_decides_and_the_order_of_rows_does_not():
    made = study(80)
    folds = splits.make_folds(made, seed=3, classes=TWO)
    pd.testing.assert_frame_equal(folds, splits.make_folds(made, seed=3, classes=TWO))
    shuffled = splits.make_folds(made.sample(frac=1, random_state=1), seed=3, classes=TWO)
    one, other = (table.set_index("image_id")["fold"] for table in (folds, shuffled))
    assert (one == other.loc[one.index]).all()
    assert (folds["fold"] != splits.make_folds(made, seed=4, classes=TWO)["fold"]).any()


def test_groups_stay_together():
    made = study(100)
    images = made["image_id"].unique()
    groups = pd.Series([f"hash{number // 3}" for number in range(60)], index=images[:60])
    folds = splits.make_folds(made, groups=groups, classes=TWO).set_index("image_id")["fold"]
    assert (folds.loc[images[:60]].groupby(groups).nunique() == 1).all()
    sizes = folds.value_counts()
    assert sizes.max() - sizes.min() <= 6


def test_more_folds_than_images_or_fewer_than_two_are_refused():
    made = study(4)
    assert sorted(splits.make_folds(made, folds=4, classes=TWO)["fold"]) == [0, 1, 2, 3]
    with pytest.raises(ParameterError, match="at most 4, the number of images, got 5"):
        splits.make_folds(made, folds=5, classes=TWO)
    with pytest.raises(ParameterError, match="at least 2, got 1"):
        splits.make_folds(made, folds=1, classes=TWO)
    together = pd.Series("same", index=made["image_id"].unique())
    with pytest.raises(ParameterError, match="at most 1, the number of images with different pixels"):
        splits.make_folds(made, folds=2, groups=together, classes=TWO)
    with pytest.raises(ParameterError, match="at most 0"):
        splits.make_folds(made.iloc[:0], classes=TWO)


def test_every_fold_has_an_image_even_in_tiny_sets():
    for n in range(5, 12):
        assert set(splits.make_folds(study(n, seed=n), classes=TWO)["fold"]) == {0, 1, 2, 3, 4}


def test_a_fold_that_is_not_there_is_refused():
    made = study(20)
    folds = splits.make_folds(made, classes=TWO)
    with pytest.raises(ParameterError, match=r"expected one of \[0, 1, 2, 3, 4\], got 5"):
        splits.split_fold(made, folds, 5)
    with pytest.raises(ParameterError, match="expected every image in a fold, got none for i3"):
        splits.split_fold(made, folds[folds["image_id"] != "i3"], 0)


def test_more_than_one_seed_keeps_the_balance():
    made = study(300, seed=5)
    for seed in range(5):
        counts = splits.fold_counts(made, splits.make_folds(made, seed=seed, classes=TWO), classes=TWO)
        assert (counts.drop("Images").max(axis=1) - counts.drop("Images").min(axis=1)).max() <= 3


@pytest.mark.real
def test_the_real_table_splits_evenly(real_dir):
    read = annotations.read_annotations(real_dir / "vinbigdata" / "train.csv.gz")
    counts = splits.fold_counts(read, splits.make_folds(read))
    assert (counts.max(axis=1) - counts.min(axis=1)).drop("Images").max() <= 3
    assert counts.loc["Images"].sum() == 15_000
    assert counts.loc["Images"].max() - counts.loc["Images"].min() <= 60


def test_folds_are_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "folds.csv"
    path.write_text("image_id,fold\n007,1\nNA,0\n")
    assert read_folds(path).values.tolist() == [["007", 1], ["NA", 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_id\na\n", "missing fold"),
        ("image_id,fold,fold\na,0,1\n", "expected the column 'fold' once, got it twice"),
        ("image_id,fold\na,0,1\n", r"folds\.csv row 1 \(image a\): expected 2 fields, got 3"),
        ("image_id,fold\na,0\nb,1.5\n", r"row 2: expected a fold from 0 up, got 1\.5 for image b"),
        ("image_id,fold\na,0\na,1\n", "row 2: expected each image once, got 1 for image a"),
    ],
)
def test_folds_that_cannot_be_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "folds.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_folds(path)
