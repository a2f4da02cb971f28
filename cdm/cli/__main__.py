"""`python -m cdm.cli` is `cdm`."""

from cdm.cli import command

command()
