"""Experiments: data set builds and training runs that use `cdm`, but are no part of it."""
