"""One HTML page to look through images with: readers' boxes, fused truth and detections."""

from cxr.viewer.gather import Material, gather
from cxr.viewer.page import Page, make_page, notebook_page
from cxr.viewer.pictures import FileSource

__all__ = ["FileSource", "Material", "Page", "gather", "make_page", "notebook_page"]
