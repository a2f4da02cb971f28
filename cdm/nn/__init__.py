"""The networks. Together with evals/networks/ the only code that imports flax: others see a dict and a function."""

from cdm.nn.unet import build, cast

__all__ = ["build", "cast"]
