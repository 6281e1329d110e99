"""Operators adapt: computed by hand, and never given up."""

import pytest

from nas.search.base import Observation
from nas.search.evolution import began_anew
from nas.search.operators import MEMORY, PRIOR, TRUST, probabilities


def trial(number, score, origin="random", parents=(), state="complete"):
    finished = state in ("complete", "pruned")
    return Observation(
        number, state, f"net({number})", str(number), 3e-3, score if finished else None,
        0 if finished else None, origin, parents,
    )  # fmt: skip


def test_without_a_history_they_are_what_is_assumed():
    found = probabilities([])
    assert sum(found.values()) == pytest.approx(1)
    assert found["insert"] / found["hoist"] == pytest.approx(PRIOR["insert"] / PRIOR["hoist"])


def test_what_was_better_than_its_parent_counts():
    history = [trial(0, 0.5)]
    outcomes = [("insert", 0.9)] * 6 + [("insert", 0.1)] * 2 + [("regrow", 0.2)] * 9
    for origin, score in outcomes:
        history.append(trial(len(history), score, origin, (0,)))
    history.append(trial(len(history), None, "regrow", (0,), "failed"))
    history.append(trial(len(history), 0.9, "start"))
    overall = (6 + 1) / (17 + 5)
    weights = dict(PRIOR)
    weights["insert"] *= (6 + TRUST * overall) / (8 + TRUST) / overall
    weights["regrow"] *= max(1 / 3, (TRUST * overall) / (9 + TRUST) / overall)
    total = sum(weights.values())
    expected = {name: weight / total for name, weight in weights.items()}
    assert probabilities(history) == pytest.approx(expected)


def test_none_is_given_up_and_the_past_is_forgotten():
    history = [trial(0, 0.5)]
    for _ in range(MEMORY):
        history.append(trial(len(history), 0.1, "hoist", (0,)))
    found = probabilities(history)
    assert found["hoist"] > 0.2 * PRIOR["hoist"] / sum(PRIOR.values())
    for _ in range(MEMORY):
        history.append(trial(len(history), 0.1, "insert", (0,)))
    assert probabilities(history)["hoist"] > found["hoist"]


def test_it_begins_anew_after_so_many_trials_without_a_better_one():
    scores = [0.1, 0.5, 0.2, 0.2, 0.2, 0.4, 0.6, 0.3, 0.3, 0.3, 0.3]
    history = [trial(i, score) for i, score in enumerate(scores)]
    # 0.5 stands at 1 and nothing is better up to 4: anew at 4, where 0.6 is the last improvement.
    assert began_anew(history, 3) == 9
    assert began_anew(history[:9], 3) == 4
    assert began_anew(history, 0) == 0
    assert began_anew(history, 100) == 0
