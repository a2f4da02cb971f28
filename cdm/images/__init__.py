"""Pixels: the one resize, conditioning augmentation, and picture files."""
