import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.search.halving import Rungs

SCORES = st.lists(st.floats(0, 1), max_size=40)


def test_the_best_share_of_a_long_record_goes_on():
    rungs = Rungs((10, 30, 90), eta=3)
    recorded = [i / 100 for i in range(100)]
    assert rungs.continues(0, recorded, 0.99)
    assert rungs.continues(0, recorded, 0.675)  # 32 better ones, 33 of 101 go on
    assert not rungs.continues(0, recorded, 0.665)


def test_too_few_scores_decide_nothing():
    rungs = Rungs((10, 30), eta=4)
    assert rungs.continues(0, [], 0.0)
    assert rungs.continues(0, [0.9, 0.9], 0.0)
    assert not rungs.continues(0, [0.9, 0.9, 0.9], 0.0)


def test_the_last_rung_ends_a_trial():
    rungs = Rungs((10, 30), eta=2)
    assert rungs.continues(0, [0.1], 0.9)
    assert not rungs.continues(1, [0.1], 0.9)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_never_goes_on(score):
    assert not Rungs((1, 2), eta=2).continues(0, [], score)


@given(SCORES, st.floats(0, 1), st.integers(2, 5), st.randoms(use_true_random=False))
def test_the_decision_ignores_order_and_grows_with_the_score(recorded, score, eta, rng):
    rungs = Rungs((1, 2), eta=eta)
    decision = rungs.continues(0, recorded, score)
    shuffled = list(recorded)
    rng.shuffle(shuffled)
    assert rungs.continues(0, shuffled, score) == decision
    if decision:
        assert rungs.continues(0, recorded, score + 0.1)


@given(SCORES, st.floats(0, 1), st.integers(2, 5))
def test_agrees_with_sorting(recorded, score, eta):
    everyone = sorted([*recorded, score], reverse=True)
    kept = everyone[: len(everyone) // eta]
    expected = len(everyone) < eta or score >= min(kept)
    assert Rungs((1, 2), eta=eta).continues(0, recorded, score) == expected


def test_about_one_in_eta_goes_on_in_random_order():
    rungs = Rungs((1, 2), eta=3)
    shares = []
    for seed in range(20):
        rng = random.Random(seed)
        recorded: list[float] = []
        going = 0
        for _ in range(200):
            score = rng.random()
            going += rungs.continues(0, recorded, score)
            recorded.append(score)
        shares.append(going / 200)
    assert 0.3 < np.mean(shares) < 0.4


def test_geometric_rungs():
    assert Rungs.geometric(900, eta=3, count=3).steps == (100, 300, 900)
    assert Rungs.geometric(4, eta=4, count=5).steps == (1, 4)
    assert Rungs.geometric(7, count=1).steps == (7,)


@pytest.mark.parametrize(
    ("steps", "eta"), [((), 3), ((0, 1), 3), ((5, 5), 3), ((5, 3), 3), ((1, 2), 1)]
)
def test_refuses_what_makes_no_sense(steps, eta):
    with pytest.raises(ValueError, match=r"steps|eta"):
        Rungs(steps, eta)
