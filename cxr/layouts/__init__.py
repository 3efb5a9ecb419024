"""Other people's data: read it in the form it comes in, and lay it out as this project reads it.

A form is one module with `recognise` and `read`, which gives boxes, truth, classes and images as a
`layout.Layout`; `forms` lists them. What a form says is checked and mended in one place, `settle`, for all
forms alike, and written by `adopt`. `docs/data-formats.md` describes every form.
"""

from __future__ import annotations

from cxr.layouts.adopt import Adopted, adopt
from cxr.layouts.forms import FORMS, Form
from cxr.layouts.layout import Layout, Notes, Part

__all__ = ["FORMS", "Adopted", "Form", "Layout", "Notes", "Part", "adopt"]
