"""Folds by image: stratified over the findings, images with the same pixels together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxr.errors import DataError, ParameterError, printable
from cxr.schema import CLASS_ID, FOLD, IMAGE_ID, VINBIGDATA, ClassTable
from cxr.tables import read_text_table


def make_folds(
    annotations: pd.DataFrame,
    *,
    folds: int = 5,
    seed: int = 0,
    groups: pd.Series | None = None,
    classes: ClassTable = VINBIGDATA,
) -> pd.DataFrame:
    """Share the images out to folds so that every class is spread as evenly as it can be.

    Iterative stratification: the class with the fewest images left goes first, each of its images to
    the fold that still lacks most of that class, then to the one that lacks most images, then by lot.

    Args:
        annotations: A table with `image_id` and `class_id`: readers' rows or fused ones.
        folds: Number of folds.
        seed: Seed of the lots. The result depends on it and on which image has which classes, not on
            the order of the rows.
        groups: Something that images with the same pixels have in common (a hash, a patient), indexed by
            `image_id`. Images of a group share a fold; an image that is not in it stands alone.
        classes: Classes of the data set; "normal" is stratified like a finding.

    Returns:
        `image_id, fold` with folds from 0, images in the order of their first row.

    Raises:
        ParameterError: Fewer than two folds, or more folds than images (or groups of images).

    References:
        Sechidis, Tsoumakas, Vlahavas 2011, On the stratification of multi-label data.
    """
    if folds < 2:
        raise ParameterError(f"folds: expected at least 2, got {folds}")
    in_order = annotations[IMAGE_ID].drop_duplicates().to_numpy()
    image_ids, images = np.unique(annotations[IMAGE_ID].to_numpy(dtype=str), return_inverse=True)
    units = _units(image_ids, groups)
    n_units = int(units.max()) + 1 if len(units) else 0
    if folds > n_units:
        unit = "images" if groups is None else "images with different pixels"
        raise ParameterError(f"folds: expected at most {n_units}, the number of {unit}, got {folds}")

    present = np.zeros((len(image_ids), len(classes.names)), dtype=np.int64)
    present[images, annotations[CLASS_ID].to_numpy(np.int64)] = 1
    counts = np.zeros((n_units, len(classes.names)), dtype=np.int64)
    np.add.at(counts, units, present)
    sizes = np.bincount(units, minlength=n_units)
    fold_of_unit = _stratify(counts, sizes, folds, np.random.default_rng(seed))
    fold_of_image = pd.Series(fold_of_unit[units], index=image_ids)
    return pd.DataFrame({IMAGE_ID: in_order, FOLD: fold_of_image.loc[in_order.astype(str)].to_numpy()})


def read_folds(path: Path) -> pd.DataFrame:
    """Read the table of folds, as notebook 04 wrote it or as somebody made it.

    Args:
        path: A CSV with `image_id` and `fold`.

    Returns:
        `image_id` (text) and `fold` (int), in the order of the file.

    Raises:
        DataError: A column is missing or there twice, a row is not as wide as the header, an image comes
            twice, or a fold is no whole number from 0 up; the message names the row.
    """
    table = read_text_table(path, [IMAGE_ID, FOLD])
    if missing := [name for name in (IMAGE_ID, FOLD) if name not in table]:
        raise DataError(f"{path}: expected columns image_id, fold, missing {', '.join(missing)}")
    table = table[[IMAGE_ID, FOLD]]
    for bad, text in (
        (~table[FOLD].str.fullmatch(r"[0-9]+"), "expected a fold from 0 up"),
        (table[IMAGE_ID].duplicated(), "expected each image once"),
    ):
        if bad.any():
            row = table[bad].iloc[0]
            got = f"got {printable(row[FOLD])} for image {printable(row[IMAGE_ID])}"
            raise DataError(f"{path.name} row {row.name}: {text}, {got}")
    return table.astype({FOLD: "int64"}).reset_index(drop=True)


def check_held_out(held_out: Sequence[int], there: Iterable[int]) -> None:
    """Refuse folds to hold out that are not there.

    Raises:
        ParameterError: No fold to hold out, or one that the data does not have.
    """
    if not held_out:
        raise ParameterError("train_folds: expected at least one fold to hold out, got none")
    if missing := sorted(set(held_out) - set(there)):
        raise ParameterError(f"train_folds: expected some of {sorted(there)}, got {missing}")


def split_fold(table: pd.DataFrame, folds: pd.DataFrame, fold: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split the rows of a table into training and validation by the fold of their image.

    Args:
        table: Any table with `image_id`.
        folds: What `make_folds` returned.
        fold: The fold to validate on.

    Returns:
        Training rows and validation rows, both in order with their index kept.

    Raises:
        ParameterError: There is no such fold, or an image of the table is in none.
    """
    if fold not in set(folds[FOLD]):
        raise ParameterError(f"fold: expected one of {sorted(folds[FOLD].unique().tolist())}, got {fold}")
    of_row = table[IMAGE_ID].map(folds.set_index(IMAGE_ID)[FOLD])
    if of_row.isna().any():
        raise ParameterError(
            f"folds: expected every image in a fold, got none for {table[IMAGE_ID][of_row.isna()].iloc[0]}"
        )
    return table[of_row != fold], table[of_row == fold]


def fold_counts(
    annotations: pd.DataFrame, folds: pd.DataFrame, *, classes: ClassTable = VINBIGDATA
) -> pd.DataFrame:
    """Count the images of every class in every fold.

    Args:
        annotations: A table with `image_id` and `class_id`.
        folds: What `make_folds` returned.
        classes: Classes of the data set.

    Returns:
        A row per class (index: class name), a column per fold, and a last row "Images".
    """
    pairs = annotations[[IMAGE_ID, CLASS_ID]].drop_duplicates().merge(folds, on=IMAGE_ID)
    counts = pd.crosstab(pairs[CLASS_ID], pairs[FOLD])
    counts = counts.reindex(
        index=range(len(classes.names)), columns=sorted(folds[FOLD].unique()), fill_value=0
    )
    counts.index = pd.Index(classes.names, name="class_name")
    counts.loc["Images"] = folds[FOLD].value_counts().reindex(counts.columns, fill_value=0)
    return counts


def _units(image_ids: np.ndarray, groups: pd.Series | None) -> np.ndarray:
    """Number the groups of images that must stay together."""
    if groups is None:
        return np.arange(len(image_ids))
    known = groups[~groups.index.duplicated()].reindex(image_ids)
    keys = [
        f"image {image_id}" if alone else f"group {group}"
        for image_id, group, alone in zip(image_ids, known, known.isna(), strict=True)
    ]
    return pd.factorize(np.array(keys, dtype=object), sort=True)[0]


def _stratify(counts: np.ndarray, sizes: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    n_units = len(counts)
    fold_of = np.full(n_units, -1)
    wanted = np.tile(counts.sum(axis=0) / folds, (folds, 1))
    room = np.full(folds, sizes.sum() / folds)
    shuffled = rng.permutation(n_units)
    lots = rng.random((n_units, folds))
    while (fold_of < 0).any():
        free = fold_of < 0
        left = counts[free].sum(axis=0)
        if left.any():
            label = int(np.where(left > 0, left, left.max() + 1).argmin())
            members = shuffled[free[shuffled] & (counts[shuffled, label] > 0)]
        else:
            label, members = -1, shuffled[free[shuffled]]
        # Big groups first: what comes late can still even out the rest.
        for unit in members[np.argsort(-sizes[members], kind="stable")]:
            lack = wanted[:, label] if label >= 0 else room
            fold = int(np.lexsort((lots[unit], -room, -lack))[0])
            fold_of[unit] = fold
            wanted[fold] -= counts[unit]
            room[fold] -= sizes[unit]
    return fold_of
