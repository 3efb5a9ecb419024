"""What a training sees: pixels, targets, sampling, augmentation, batches."""
