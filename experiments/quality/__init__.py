"""Samplers, targets, augmentations and few-step students of the demo stages, in one table."""
