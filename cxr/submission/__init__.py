"""From detections and probabilities to a submission: gate, sweep, format, parse, check."""

from __future__ import annotations

from cxr.submission.files import check, parse, read_detections, reformat, sample_ids, write, write_table
from cxr.submission.gates import (
    GATE_MODES,
    GRADED_MODES,
    NAMED_GATES,
    NORMAL_LINE_ONLY,
    Gate,
    all_normal,
    apply_gate,
    gate,
    gate_by_name,
    rerank,
)
from cxr.submission.sweep import (
    ALL_NORMAL,
    LINE_ONLY,
    baselines,
    choose_gate,
    compare_gates,
    cross_fitted,
    default_grid,
    gate_sweep,
)

__all__ = [
    "ALL_NORMAL",
    "GATE_MODES",
    "GRADED_MODES",
    "LINE_ONLY",
    "NAMED_GATES",
    "NORMAL_LINE_ONLY",
    "Gate",
    "all_normal",
    "apply_gate",
    "baselines",
    "check",
    "choose_gate",
    "compare_gates",
    "cross_fitted",
    "default_grid",
    "gate",
    "gate_by_name",
    "gate_sweep",
    "parse",
    "read_detections",
    "reformat",
    "rerank",
    "sample_ids",
    "write",
    "write_table",
]
