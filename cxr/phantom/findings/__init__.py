"""The fourteen findings, each drawn by what it looks like and where it sits."""

from __future__ import annotations

from cxr.phantom.findings import organs, parenchyma, pleura
from cxr.phantom.findings.common import Box, Draw, Prepare

PREPARE: dict[int, Prepare] = {0: organs.widen_aorta, 1: parenchyma.lose_volume, 3: organs.enlarge_heart}
"""By class id: what changes the body itself, before anything is drawn."""

DRAW: dict[int, Draw] = {
    0: organs.box_aorta,
    1: parenchyma.plates,
    2: parenchyma.calcification,
    3: organs.box_heart,
    4: parenchyma.consolidation,
    5: parenchyma.interstitial,
    6: parenchyma.infiltration,
    7: parenchyma.opacity,
    8: parenchyma.nodule,
    9: organs.other_lesion,
    10: pleura.effusion,
    11: pleura.thickening,
    12: pleura.pneumothorax,
    13: parenchyma.fibrosis,
}
"""By class id of `schema.VINBIGDATA`: what draws the finding and gives its boxes."""

__all__ = ["DRAW", "PREPARE", "Box"]
