"""How far two sets of features [N, D] lie from each other: metrics of distributions, in float64.

    FD        |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^1/2)                            (1) Fréchet; Heusel et al. 2017
    E FD      Tr(S) (1/n + 1/m) + 1/2 (1/(n-1) + 1/(m-1)) sum_ij (1 + d_ij) l_i l_j / (l_i + l_j)                    (2)
    KID       mean k(x, x') + mean k(y, y') - 2 mean k(x, y), x != x', y != y', k(a, b) = (a.b / D + 1)^3            (3)
    IS        exp E KL(p(label | x) || E p(label | x))                              (4) Salimans et al. 2016
    precision share of x in the union of the balls around the y that reach their k-th other y;                       (5)
    recall    the same with x and y exchanged                                          Kynkaanniemi et al. 2019
    density   mean over x of the count of those balls that it lies in, over k;                                       (6)
    coverage  share of the balls that hold an x                                        Naeem et al. 2020

(2) is what (1) comes to, to first order in D/n, between n and m draws of one Gaussian with covariance S of eigenvalues
l: the distance is 1/2 sum_ij H_ij^2 / (l_i + l_j) in a small difference H of covariances (Bures), and a sample
covariance has variance (1 + d_ij) l_i l_j / (n - 1). No set of this size can be asked for less. (3) is Binkowski et
al. 2018; it is unbiased, so that equal distributions give values around 0, half of them negative.
"""

import numpy as np

CHUNK = 1024  # rows at a time: what is in memory does not grow with N


class Moments:
    """Mean [D] and covariance [D, D] (of divisor n - 1) of features that come in parts: Chan et al. 1979."""

    def __init__(self, features=()):
        """Begin with the rows of features [N, D], which may lie on disk."""
        self.n, self.mean, self._scatter = 0, 0.0, 0.0
        for start in range(0, len(features), CHUNK):
            self.add(features[start : start + CHUNK])

    def add(self, features):
        """Take in more rows [B, D]."""
        features = np.asarray(features, np.float64)
        n, mean = len(features), features.mean(0)
        features = features - mean
        shift, total = mean - self.mean, self.n + n
        self._scatter = self._scatter + features.T @ features + np.outer(shift, shift) * (self.n * n / total)
        self.mean, self.n = self.mean + shift * (n / total), total

    @property
    def cov(self):
        return self._scatter / (self.n - 1)


def _root(cov):
    """A [D, D] with A A^T = cov. Eigenvalues that are rounding errors of 0 would count by their square roots."""
    values, vectors = np.linalg.eigh(cov)
    return vectors * np.sqrt(np.where(values > len(cov) * np.finfo(np.float64).eps * values[-1], values, 0))


def frechet(mean1, cov1, mean2, cov2):
    """FD (1) of two Gaussians: means [D], covariances [D, D].

    With A A^T = S1 and B B^T = S2 the trace of (S1 S2)^1/2 is the sum of the singular values of A^T B. It is real and
    non-negative, needs no root of a matrix that is not symmetric, and takes a third of the time of one at D = 2048.
    Values are found to rounding of the largest; roots of the eigenvalues of S1 S2 would have half of the digits.
    """
    shared = np.linalg.svd(_root(cov1).T @ _root(cov2), compute_uv=False).sum()
    return float(np.sum((mean1 - mean2) ** 2) + np.trace(cov1) + np.trace(cov2) - 2 * shared)


def frechet_floor(cov, n, m):
    """E FD (2) of n and m draws of one Gaussian with this covariance."""
    values = np.clip(np.linalg.eigvalsh(cov), np.finfo(np.float64).tiny, None)
    pairs = values[:, None] * values / (values[:, None] + values)
    spread = pairs.sum() + np.trace(pairs)
    return float(values.sum() * (1 / n + 1 / m) + spread / 2 * (1 / (n - 1) + 1 / (m - 1)))


def principal(cov, dims):
    """[D, dims]: the directions of most variance. mean @ P and P.T @ cov @ P are the moments in them."""
    if not 1 <= dims <= len(cov):
        raise ValueError(f"`pca` (={dims}) must be from 1 to the {len(cov)} features")
    return np.linalg.eigh(cov)[1][:, ::-1][:, :dims]


def kernel(a, b):
    """k (3) of every row of a [A, D] with every row of b [B, D]: [A, B] float64."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    k = a @ b.T / a.shape[1] + 1
    return k * k * k  # ten times as fast as a power


def tiles(features):
    """(start, rows) of a set, a chunk at a time."""
    for start in range(0, len(features), CHUNK):
        yield start, features[start : start + CHUNK]


def _total(x, y):
    """The sum of k (3) over all pairs of rows of x [N, D] and y [M, D]."""
    return sum(kernel(rows, others).sum() for _, rows in tiles(x) for _, others in tiles(y))


def within(x):
    """The mean of k (3) over the pairs of different rows of x [N, D]."""
    own = sum(np.sum((np.sum(np.asarray(rows, np.float64) ** 2, axis=1) / x.shape[1] + 1) ** 3) for _, rows in tiles(x))
    return float((_total(x, x) - own) / (len(x) * (len(x) - 1)))


def mmd2(x, y):
    """KID (3) of two sets [N, D] and [M, D] as they are, without subsets."""
    return within(x) + within(y) - 2 * float(_total(x, y) / (len(x) * len(y)))


def kid(x, y, subsets=100, size=1000, seed=0):
    """(mean, standard deviation) of KID (3) over random subsets of `size` of each set."""
    if not 2 <= size <= min(len(x), len(y)):
        raise ValueError(f"`size` (={size}) of KID's subsets must be from 2 to the number of features, "
                         f"{len(x)} and {len(y)}")
    random = np.random.default_rng(seed)

    def draw(features):  # sorted, as they may lie on disk
        return features[np.sort(random.choice(len(features), size, replace=False))]

    values = [mmd2(draw(x), draw(y)) for _ in range(subsets)]
    return float(np.mean(values)), float(np.std(values))


def inception_score(logits, splits=10, seed=0):
    """(mean, standard deviation) of IS (4) over equal parts of logits [N, classes], shuffled: in the order of a folder
    that is sorted by class a part would have few classes."""
    if not 1 <= splits <= len(logits):
        raise ValueError(f"`splits` (={splits}) must be from 1 to the {len(logits)} images")
    order, scores = np.random.default_rng(seed).permutation(len(logits)), []
    for part in np.array_split(order, splits):
        rows = np.asarray(logits[np.sort(part)], np.float64)
        rows = rows - rows.max(1, keepdims=True)
        logp = rows - np.log(np.exp(rows).sum(1, keepdims=True))
        p = np.exp(logp)
        entropy_of_mean = -np.sum((q := p.mean(0)) * np.log(np.maximum(q, np.finfo(np.float64).tiny)))
        scores.append(np.exp(entropy_of_mean + np.mean(np.sum(p * logp, 1))))
    return float(np.mean(scores)), float(np.std(scores))


def squared_distances(a, b):
    """[A, B] of two sets of features [A, D] and [B, D], float64."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.maximum(np.sum(a * a, 1)[:, None] + np.sum(b * b, 1) - 2 * a @ b.T, 0)


def nearest(queries, features, k, others=False):
    """(distances, indices), [Q, k] each, of the k rows of `features` that are nearest to each query, nearest first;
    `others`: the queries are the features, and none is its own neighbour."""
    if not 1 <= k <= len(features) - others:
        raise ValueError(f"`k` (={k}) must be from 1 to the {len(features) - others} images that may be neighbours")
    found = []
    for begin, rows in tiles(queries):
        best, index = np.zeros((len(rows), 0)), np.zeros((len(rows), 0), int)
        for start, near in tiles(features):
            d = squared_distances(rows, near)
            if others and start == begin:
                np.fill_diagonal(d, np.inf)
            d = np.concatenate([best, d], 1)
            index = np.concatenate([index, np.tile(np.arange(start, start + len(near)), (len(rows), 1))], 1)
            chosen = np.argpartition(d, min(k, d.shape[1]) - 1, axis=1)[:, :k]
            best, index = np.take_along_axis(d, chosen, 1), np.take_along_axis(index, chosen, 1)
        order = np.argsort(best, axis=1)
        found.append((np.sqrt(np.take_along_axis(best, order, 1)), np.take_along_axis(index, order, 1)))
    return tuple(np.concatenate(parts) for parts in zip(*found))


def precision_recall(x, y, k=3):
    """{"precision", "recall", "density", "coverage"} (5, 6) of samples x [N, D] beside real features y [M, D]; balls
    are closed."""
    reach_x, reach_y = (nearest(z, z, k, others=True)[0][:, -1] ** 2 for z in (x, y))
    count, recalled, covered = np.zeros(len(x)), np.zeros(len(y), bool), np.zeros(len(y), bool)
    for i, rows in tiles(x):
        for j, real in tiles(y):
            d = squared_distances(rows, real)
            within = d <= reach_y[j : j + len(real)]
            count[i : i + len(rows)] += within.sum(1)
            covered[j : j + len(real)] |= within.any(0)
            recalled[j : j + len(real)] |= (d <= reach_x[i : i + len(rows), None]).any(0)
    return {"precision": float(np.mean(count > 0)), "recall": float(recalled.mean()),
            "density": float(count.mean() / k), "coverage": float(covered.mean())}
