"""Folds, steps, validation, and how a training goes on."""
