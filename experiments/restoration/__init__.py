"""Bicubic and Lanczos on the super-resolution benchmarks: do the metrics agree with the literature?"""
