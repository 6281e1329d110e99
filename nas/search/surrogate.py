"""A surrogate: what an architecture will score, and how sure that is, from those measured."""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.stats import norm, rankdata
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Kernel, WhiteKernel

MOST = 500
"""Measurements that a surrogate is made of, at most."""

TUNED_ON = 200
"""Measurements that its kernel is tuned on, at most."""

Array = NDArray[np.float64]


class Surrogate:
    """A Gaussian process over vectors of architectures, with its uncertainty calibrated.

    Scores are taken as ranks, on the scale of a normal distribution: neither their unit nor a few
    that are far off matter. The kernel's amplitude, length and noise maximise the marginal
    likelihood; what it is sure of is multiplied by what leaving out one measurement at a time shows
    to be right (Rasmussen & Williams 2006, section 5.4.2).

    Args:
        vectors: `[N, F]`, columns of comparable scale.
        scores: `[N]`, higher is better.
        kernel: A kernel tuned before, to be used as it is; None: it is tuned here.
    """

    def __init__(self, vectors: Array, scores: Sequence[float], kernel: Kernel | None = None):
        self._targets = quantiles(scores)
        self.kernel = tuned(vectors, self._targets) if kernel is None else kernel
        self._process = GaussianProcessRegressor(self.kernel, optimizer=None)
        self._process.fit(vectors, self._targets)
        self.factor = self._calibration()

    @property
    def best(self) -> float:
        """The best score measured, on the surrogate's scale."""
        return float(self._targets.max())

    def predict(self, vectors: Array) -> tuple[Array, Array]:
        """Mean and deviation `[M]` of the scores, on the surrogate's scale, noise left out.

        Args:
            vectors: `[M, F]`.
        """
        mean, deviation = self._process.predict(vectors, return_std=True)
        noise = self._process.kernel_.k2.noise_level
        return mean, self.factor * np.sqrt(np.maximum(deviation**2 - noise, 1e-9))

    def left_out(self) -> tuple[Array, Array]:
        """What it says `[N]` of each measurement without having seen it: mean, deviation."""
        # (L L')^-1 is the square of L^-1.
        inverse = solve_triangular(self._process.L_, np.eye(len(self._targets)), lower=True)
        precision = (inverse**2).sum(axis=0)
        mean = self._targets - np.asarray(self._process.alpha_).ravel() / precision
        return mean, np.sqrt(1 / precision)

    def _calibration(self) -> float:
        mean, deviation = self.left_out()
        wrong = np.abs(self._targets - mean) / deviation
        # Two thirds of what is normal lie within one standard deviation.
        return float(np.clip(np.quantile(wrong, 0.683), 0.5, 3.0))


def tuned(vectors: Array, targets: Array) -> Kernel:
    """The kernel that is most likely for measurements; those in the middle of the list first.

    Args:
        vectors: `[N, F]`.
        targets: `[N]`.
    """
    few = np.unique(np.linspace(0, len(targets) - 1, TUNED_ON).astype(int))
    kernel = ConstantKernel(1.0, (0.05, 10.0)) * RBF(1.0, (0.2, 20.0)) + WhiteKernel(
        0.1, (1e-3, 2.0)
    )
    process = GaussianProcessRegressor(kernel, normalize_y=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a bound is an answer, too
        process.fit(vectors[few], targets[few])
    return process.kernel_


def quantiles(scores: Sequence[float]) -> Array:
    """Scores `[N]` as quantiles of a normal distribution, by their ranks; equal ones are equal."""
    ranks = rankdata(scores)
    return np.asarray(norm.ppf((ranks - 0.5) / len(ranks)))


def expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """How much a score is above the best on average, counting 0 where it is not.

    Jones et al., "Efficient Global Optimization of Expensive Black-Box Functions", 1998.
    """
    z = (mean - best) / deviation
    return deviation * (z * norm.cdf(z) + norm.pdf(z))
