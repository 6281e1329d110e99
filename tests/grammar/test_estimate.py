"""Factors against closed forms and a general optimiser."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from nas.grammar.estimate import Tally, fit, floored


@st.composite
def tallies(draw, alike=False):
    """Decisions of one rule with five alternatives, of which each tally offers some."""
    positive = st.floats(0.05, 1.0)
    found = []
    for _ in range(draw(st.integers(1, 4))):
        offered = draw(st.sets(st.integers(0, 4), min_size=2))
        weights = {i: draw(positive) for i in sorted(offered)}
        total = sum(weights.values())
        chosen = {i: float(draw(st.integers(0, 20))) for i in weights}
        chosen[min(chosen)] += 1.0
        found.append(Tally({i: w / total for i, w in weights.items()}, chosen))
        if alike:
            found += [Tally(found[0].probabilities, dict(found[0].chosen))]
            break
    return found


def after(tally, factors):
    return tally.multiplied(factors).probabilities


@settings(deadline=None)
@given(tallies(alike=True), st.floats(0.5, 100))
def test_where_all_offer_the_same_it_is_the_mean_of_a_dirichlet_posterior(found, strength):
    total = sum(tally.count for tally in found)
    probabilities = after(found[0], fit(found, strength))
    for i, p in found[0].probabilities.items():
        chosen = sum(tally.chosen[i] for tally in found)
        expected = (chosen + strength * p) / (total + strength)
        assert probabilities[i] == pytest.approx(expected, rel=1e-6)


@settings(deadline=None, max_examples=40)
@given(tallies(), st.floats(0.5, 100))
def test_no_other_factors_are_better(found, strength):
    total = sum(tally.count for tally in found)
    shares = [strength * tally.count / total for tally in found]

    def loss(logs):
        value = 0.0
        for tally, share in zip(found, shares, strict=True):
            indices = list(tally.probabilities)
            p = np.array([tally.probabilities[i] for i in indices])
            n = np.array([tally.chosen[i] for i in indices])
            scores = np.log(p) + np.array([logs[i] for i in indices])
            scores -= np.logaddexp.reduce(scores)
            value -= float(((n + share * p) * scores).sum())
        return value

    ours = fit(found, strength)
    best = minimize(loss, np.zeros(5), method="L-BFGS-B", options={"ftol": 1e-14, "gtol": 1e-9})
    other = {i: math.exp(x) for i, x in enumerate(best.x)}
    for tally in found:
        assert after(tally, ours) == pytest.approx(after(tally, other), abs=1e-4)
    scales = sum(tally.count * tally.scale(ours) for tally in found)
    assert scales / total == pytest.approx(1)


def test_without_decisions_there_is_nothing_to_learn():
    assert fit([], 1.0) == {}
    assert fit([Tally({0: 0.5, 1: 0.5})], 1.0) == {}


@settings(deadline=None)
@given(tallies(), st.floats(0, 0.9), st.dictionaries(st.integers(0, 4), st.floats(1e-6, 1e3)))
def test_no_probability_falls_below_the_floor(found, floor, factors):
    factors = {i: factors.get(i, 1.0) for tally in found for i in tally.probabilities}
    raised = floored(factors, found, floor)
    for tally in found:
        for i, p in after(tally, raised).items():
            assert p >= floor * tally.probabilities[i] * (1 - 1e-5)
    assert all(raised[i] >= factor for i, factor in factors.items())
    if floor == 0:
        assert raised == factors
