"""Fluent Emoji: the build of the data set archive that ships with `cdm`."""
