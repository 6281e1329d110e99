from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nas.tasks.random_streams import derive, distinct, integers, mix, permutation, stream


def splitmix64(state: int) -> int:
    """Vigna's reference implementation in plain integers: the first output after a state."""
    mask = 2**64 - 1
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


@given(st.integers(0, 2**64 - 1))
def test_the_first_derived_key_is_splitmix64(state):
    assert int(derive(np.array([state], dtype=np.uint64), 0)[0]) == splitmix64(state)


def test_splitmix64_of_seed_zero_gives_the_published_sequence():
    first = derive(np.zeros(1, dtype=np.uint64), np.arange(3))
    # The sequence of the reference C code (Vigna, splitmix64.c) from the state 0.
    assert [f"{int(x):016x}" for x in first] == [
        "e220a8397b1dcdaf",
        "6e789e6aa1b965f4",
        "06c45d188009454f",
    ]


def test_mixing_is_injective_and_leaves_its_input_alone():
    words = np.arange(100_000, dtype=np.uint64)
    assert len(np.unique(mix(words))) == len(words)
    assert (words == np.arange(100_000, dtype=np.uint64)).all()


def test_keys_depend_on_every_name():
    assert len({stream("a", "b"), stream("ab"), stream("a", "b", 0), stream("b", "a")}) == 4


def test_a_value_does_not_depend_on_what_stands_beside_it():
    keys = derive(stream("x"), np.arange(1000))
    one = [int(integers(keys[i : i + 1], 17)[0]) for i in range(1000)]
    assert one == integers(keys, 17).tolist()


@pytest.mark.parametrize("bound", [1, 2, 7, 10, 256, 2**20])
def test_integers_are_uniform(bound):
    values = integers(derive(stream("uniform", bound), np.arange(200_000)), bound)
    assert values.min() >= 0
    assert values.max() < bound
    cells = min(bound, 256)
    counts = np.bincount(values * cells // bound, minlength=cells)
    if cells > 1:
        assert stats.chisquare(counts).pvalue > 1e-4


def test_neighbouring_draws_are_independent():
    keys = derive(stream("pairs"), np.arange(100_000))
    first, second = integers(derive(keys, 0), 10), integers(derive(keys, 1), 10)
    table = np.bincount(first * 10 + second, minlength=100).reshape(10, 10)
    assert stats.chi2_contingency(table).pvalue > 1e-4


@given(st.integers(0, 500), st.integers(0, 2**32))
def test_permutations_hold_every_number_once(count, seed):
    assert sorted(permutation(stream("epoch", seed), count)) == list(range(count))


def test_permutations_are_frozen():
    assert permutation(stream("epoch", 0, 0), 10).tolist() == FROZEN_PERMUTATION


FROZEN_PERMUTATION = [5, 2, 3, 7, 1, 6, 8, 0, 4, 9]


@pytest.mark.parametrize(("bound", "count"), [(4, 2), (3, 3), (5, 1)])
def test_distinct_draws_are_ordered_samples_without_replacement(bound, count):
    rows = distinct(derive(stream("distinct"), np.arange(60_000)), bound, count)
    codes = (rows * bound ** np.arange(count)).sum(axis=1)
    found, counts = np.unique(codes, return_counts=True)
    possible = list(permutations(range(bound), count))
    assert len(found) == len(possible)
    assert stats.chisquare(counts).pvalue > 1e-4
