"""Step through images by hand in a notebook."""

from __future__ import annotations

import io
from collections.abc import Sequence

import ipywidgets as widgets
import pandas as pd

from cxr.plots.images import OUTCOME_LEGEND, ImageSource, gallery, outcome_panel
from cxr.schema import ClassTable


def browse_outcomes(
    source: ImageSource,
    image_ids: Sequence[str],
    detections: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    classes: ClassTable,
    width_px: int = 640,
) -> widgets.Widget:
    """A slider over images, each drawn with its detections and its truth.

    Args:
        source: Where the images are.
        image_ids: Images to step through, at least one.
        detections: All detections with a `kind`, as `metrics.error_breakdown` returns them.
        truth: All truth boxes with a `kind`, likewise.
        classes: The data set's classes.
        width_px: Width of the picture on the screen.

    Returns:
        The slider above the picture; nothing moves without a running kernel.
    """
    slider = widgets.IntSlider(
        min=0,
        max=len(image_ids) - 1,
        description="image",
        continuous_update=False,
        layout=widgets.Layout(width=f"{width_px}px"),
    )
    picture = widgets.Image(format="png", width=width_px)

    def draw(change: object = None) -> None:
        panel = outcome_panel(source, image_ids[slider.value], detections, truth, classes=classes)
        buffer = io.BytesIO()
        gallery([panel], columns=1, cell=6.4, legend=OUTCOME_LEGEND).savefig(buffer, format="png", dpi=100)
        picture.value = buffer.getvalue()

    slider.observe(draw, names="value")
    draw()
    return widgets.VBox([slider, picture])
