"""Chest X-ray abnormality detection, from DICOM folder to scored submission."""
