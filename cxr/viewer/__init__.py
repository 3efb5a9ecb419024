"""One HTML page to look through images with: readers' boxes, fused truth and detections."""

from cxr.viewer.gather import Material, gather
from cxr.viewer.page import NOTEBOOK_IMAGES, Page, make_page, notebook_page

__all__ = ["NOTEBOOK_IMAGES", "Material", "Page", "gather", "make_page", "notebook_page"]
