"""The evaluation networks. Together with nn/ the only code that imports flax: others see dicts and functions."""

from cdm.evals.networks import efficientnet, resnet

NETWORKS = {"lite0": efficientnet.lite0, "rn50": resnet.rn50}


def build(name):
    """The Network (see layers.py) of a name in NETWORKS."""
    return NETWORKS[name]()
