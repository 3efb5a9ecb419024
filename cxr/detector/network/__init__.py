"""Families of networks, their registry, anchors and devices."""
