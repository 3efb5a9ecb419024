"""Faster R-CNN for radiographs: data, network, training and prediction."""
