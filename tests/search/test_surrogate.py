"""The surrogate against the equations of Gaussian processes, and how often it is right."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from nas.search.surrogate import Surrogate, expected_improvement, quantiles

KERNEL = ConstantKernel(1.5) * RBF(0.8) + WhiteKernel(0.2)


def data(seed, count=40, size=5):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, size))
    return vectors, np.sin(vectors[:, 0]) + 0.5 * vectors[:, 1] + 0.1 * rng.normal(size=count)


def by_hand(vectors, targets, asked):
    """Rasmussen & Williams 2006, equations 2.25 and 2.26, with the kernel written out."""

    def kernel(a, b):
        squares = ((a[:, None] - b[None]) ** 2).sum(-1)
        return 1.5 * np.exp(-squares / (2 * 0.8**2))

    inverse = np.linalg.inv(kernel(vectors, vectors) + 0.2 * np.eye(len(vectors)))
    across = kernel(asked, vectors)
    mean = across @ inverse @ targets
    variance = 1.5 - np.einsum("ij,jk,ik->i", across, inverse, across)
    return mean, variance


def test_it_says_what_the_equations_say():
    vectors, scores = data(0)
    asked, _ = data(1, 7)
    surrogate = Surrogate(vectors, scores, KERNEL)
    mean, deviation = surrogate.predict(asked)
    wanted, variance = by_hand(vectors, quantiles(scores), asked)
    np.testing.assert_allclose(mean, wanted, rtol=1e-6)
    np.testing.assert_allclose(deviation, surrogate.factor * np.sqrt(variance), rtol=1e-6)


def test_leaving_one_out_is_leaving_it_out():
    vectors, scores = data(2, 25)
    targets = quantiles(scores)
    mean, deviation = Surrogate(vectors, scores, KERNEL).left_out()
    for i in range(len(scores)):
        rest = np.arange(len(scores)) != i
        wanted, variance = by_hand(vectors[rest], targets[rest], vectors[i : i + 1])
        assert mean[i] == pytest.approx(wanted[0])
        assert deviation[i] == pytest.approx(np.sqrt(variance[0] + 0.2))


def test_only_the_order_of_scores_matters_and_equal_ones_are_equal():
    scores = [3.0, 1.0, 2.0, 2.0, 10.0]
    assert np.allclose(quantiles(scores), quantiles(np.exp(scores)))
    found = quantiles(scores)
    assert found[2] == found[3]
    assert found[4] == pytest.approx(norm.ppf(0.9))


def test_two_thirds_of_what_is_new_lie_within_its_deviation():
    """Coverage of fresh values, noise included, over many data sets."""
    inside = []
    for seed in range(12):
        vectors, scores = data(seed, 90)
        surrogate = Surrogate(vectors[:60], scores[:60])
        mean, deviation = surrogate.predict(vectors[60:])
        # New scores on the surrogate's scale: by their place among those it has seen.
        order = np.sort(scores[:60])
        targets = np.interp(scores[60:], order, np.sort(quantiles(scores[:60])))
        noise = surrogate.factor**2 * surrogate.kernel.k2.noise_level
        inside.append((np.abs(targets - mean) <= np.sqrt(deviation**2 + noise)).mean())
    assert 0.58 < np.mean(inside) < 0.85


def test_expected_improvement_is_the_mean_of_what_is_above_the_best():
    rng = np.random.default_rng(0)
    draws = rng.normal(0.3, 0.7, size=400_000)
    found = expected_improvement(np.array([0.3]), np.array([0.7]), 0.5)
    assert found[0] == pytest.approx(np.maximum(draws - 0.5, 0).mean(), abs=0.003)
