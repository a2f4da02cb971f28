"""Make the golden file of the metrics of distributions with independent implementations, from the same features.

    pip install '.[reference]' && python tests/golden/make_distribution.py

    x [60, 8], y [60, 8]            samples and real features            logits [60, 5]
    fd                              torch-fidelity, and fd_pytorch_fid
    kid                             torch-fidelity, of one subset that is the whole set
    is_mean, is_std                 torch-fidelity, six parts of the logits in their order
    precision, recall               torch-fidelity's, k = 3; density and coverage are prdc's (Naeem et al.)
"""

import pathlib

import numpy as np
import torch
from prdc import compute_prdc
from pytorch_fid.fid_score import calculate_frechet_distance
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

SPLITS, K = 6, 3


def features(n, m, dims, classes, seed=0):
    """x [n, dims], y [m, dims], logits [n, classes], float32: correlated, of scales a hundredfold apart."""
    random = np.random.default_rng(seed)
    mix = random.normal(size=(dims, dims)) * np.logspace(0, -2, dims)
    x, y = (np.maximum(random.normal(size=(count, dims)) @ mix.T + shift, 0) for count, shift in ((n, 0.5), (m, 0.3)))
    return x.astype(np.float32), y.astype(np.float32), random.normal(0, 3, (n, classes)).astype(np.float32)


def fidelity(x, y):
    """torch-fidelity's Fréchet distance."""
    statistics = [fid_features_to_statistics(torch.from_numpy(z).double()) for z in (x, y)]
    return fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]


def pytorch_fid(x, y):
    moments = [(np.mean(z, 0), np.cov(z, rowvar=False)) for z in (x.astype(np.float64), y.astype(np.float64))]
    return calculate_frechet_distance(*moments[0], *moments[1])


def measure(x, y, logits, splits=SPLITS, k=K):
    """What the others say; x and y of one length."""
    kid = kid_features_to_metric(torch.from_numpy(x).double(), torch.from_numpy(y).double(), kid_subsets=1,
                                 kid_subset_size=len(x), verbose=False)
    score = isc_features_to_metric(torch.from_numpy(logits), splits=splits, shuffle=False)
    prc = prc_features_to_metric(torch.from_numpy(x).double(), torch.from_numpy(y).double(), prc_neighborhood=k,
                                 verbose=False)
    found = compute_prdc(y.astype(np.float64), x.astype(np.float64), nearest_k=k)
    return {"fd": fidelity(x, y), "fd_pytorch_fid": pytorch_fid(x, y), "kid": kid["kernel_inception_distance_mean"],
            "is_mean": score["inception_score_mean"], "is_std": score["inception_score_std"],
            "precision": prc["precision"], "recall": prc["recall"],
            "precision_prdc": found["precision"], "recall_prdc": found["recall"],
            "density": found["density"], "coverage": found["coverage"]}


def main():
    x, y, logits = features(60, 60, 8, 5)
    np.savez_compressed(pathlib.Path(__file__).with_name("distribution.npz"), x=x, y=y, logits=logits,
                        **measure(x, y, logits))


if __name__ == "__main__":
    main()
