"""Detectors at work: looks, calibration, fusion, files."""
