"""The networks. Together with evals/networks/ the only code that imports flax: others see a dict and a function."""

from cdm.nn.unet import build

__all__ = ["build"]
