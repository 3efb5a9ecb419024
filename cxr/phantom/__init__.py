"""A synthetic data set in the layout of the competition: radiographs, readers, truth, mess included.

No pixel and no row of it comes from a patient.
"""

from cxr.phantom.dataset import make_phantom

__all__ = ["make_phantom"]
