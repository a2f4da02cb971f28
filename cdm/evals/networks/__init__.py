"""The evaluation networks. Together with nn/ the only code that imports flax: others see dicts and functions."""

from cdm.evals.networks import efficientnet, inception, lpips, resnet, vit

NETWORKS = {
    "lite0": efficientnet.lite0,
    "rn50": resnet.rn50,
    "inception": inception.inception,
    "dinov2": vit.large,
    "dinov2_s": vit.small,
    "lpips_alex": lpips.alex,
    "lpips_vgg": lpips.vgg,
}


def build(name):
    """The Network (see layers.py) of a name in NETWORKS."""
    return NETWORKS[name]()
