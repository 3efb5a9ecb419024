"""The gate: score against its strength and its thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr.plots._style import INK, SECOND, SERIES, message, new_figure, styled

GATE_SCORES = ("map", "map_findings")
STAR: dict[str, Any] = {"marker": "*", "markersize": 17, "color": SECOND, "linestyle": "none", "zorder": 5}


@styled
def gate_sweep(table: pd.DataFrame, *, chosen: Mapping[str, object] | None = None) -> Figure:
    """Score as a function of the gate's strength, over all classes and over the findings, and of cuts.

    Args:
        table: `mode, power, low, rerank`, and `map` and `map_findings` with `_low` and `_high`,
            as `submission.gate_sweep` returns it; a row `all-normal` is the baseline.
        chosen: Mode and settings of the gate in use, marked by a star.
    """
    if table["mode"].eq("all-normal").all():
        return message("No gate was tried.")
    figure = new_figure(13.0, 4.8)
    axes = figure.subplots(1, 3, width_ratios=(1.15, 1.15, 1))
    for place, score, title in zip(axes, GATE_SCORES, ("All classes", "Findings only"), strict=False):
        _soft_curves(place, table, score)
        place.set_title(f"{title}, 95 % bands")
        place.set(xlabel="power of p(abnormal) that scales the boxes", ylabel="mAP")
    _cut_curves(axes[2], table, chosen or {})
    if chosen and chosen["mode"] == "soft":
        used = table[(table["mode"] == "soft") & (table["power"] == chosen["power"])]
        used = used[used["rerank"] == chosen["rerank"]]
        for place, score in zip(axes, GATE_SCORES, strict=False):
            place.plot(used["power"], used[score], label="chosen", **STAR)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _soft_curves(axes: Axes, table: pd.DataFrame, score: str) -> None:
    soft = table[table["mode"] == "soft"].sort_values("power")
    for strength, color in zip(sorted(soft["rerank"].unique()), SERIES, strict=False):
        rows = soft[soft["rerank"] == strength]
        name = "soft gate" if strength == 0 else f"and re-ranked by finding, power {strength:g}"
        axes.fill_between(rows["power"], rows[f"{score}_low"], rows[f"{score}_high"], color=color, alpha=0.12)
        axes.plot(rows["power"], rows[score], marker="o", color=color, label=name)
    plain = table[(table["mode"] == "soft") & (table["power"] == 0) & (table["rerank"] == 0)]
    lines = (
        (plain, "normal line only", "-."),
        (table[table["mode"] == "none"], "no gate, no normal line", "--"),
        (table[table["mode"] == "all-normal"], "every image called normal", ":"),
    )
    for rows, name, style in lines:
        if len(rows):
            axes.axhline(rows[score].max(), color=INK, linestyle=style, linewidth=1.2, label=name)
    axes.set_ylim(bottom=0)


def _cut_curves(axes: Axes, table: pd.DataFrame, chosen: Mapping[str, object]) -> None:
    axes.set_title("Cuts, 95 % bands")
    cuts = table[table["mode"] == "cut"].sort_values("low")
    if cuts.empty:
        axes.set_axis_off()
        return
    for score, name, color in zip(GATE_SCORES, ("all classes", "findings only"), SERIES, strict=False):
        axes.fill_between(cuts["low"], cuts[f"{score}_low"], cuts[f"{score}_high"], color=color, alpha=0.12)
        axes.plot(cuts["low"], cuts[score], marker="o", color=color, label=name)
    if chosen.get("mode") == "cut":
        used = cuts[cuts["low"] == chosen["low"]]
        axes.plot(used["low"], used["map"], **STAR)
    axes.set(xlabel="no box below this p(abnormal)", ylabel="mAP")
    axes.set_ylim(bottom=0)
    axes.legend()
