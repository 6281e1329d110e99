import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import UsageError
from nas.tasks.own.targets import answers

REALS = st.floats(-1e30, 1e30, allow_subnormal=False)
ROWS = st.integers(1, 4).flatmap(
    lambda k: st.lists(st.lists(REALS, min_size=k, max_size=k), min_size=1, max_size=9)
)


def read(column, length=3):
    return answers(column, [length] * len(column))


def apart(rows):
    """Whether the numbers of each column are equal, or differ by far more than their rounding."""
    values = np.array(rows, dtype=np.float64)
    enough = values.std(0) > 1e-4 * np.abs(values).max(0) + 1e-20
    return bool(((np.ptp(values, axis=0) == 0) | enough).all())


@given(ROWS.filter(apart))
def test_reals_are_read_as_they_are_written(rows):
    expected = np.array(rows, dtype=np.float32)
    written = [" ".join(f"{float(number)!r}" for number in row) for row in rows]
    for column in (written, rows, np.array(rows), np.array(written)):
        found, names = read(column)
        assert names is None
        assert found.dtype == np.float32
        assert np.array_equal(found, expected)
    if len(rows[0]) == 1:
        assert np.array_equal(read([row[0] for row in rows])[0], expected)


@given(st.lists(st.integers(0, 99), min_size=1))
def test_integers_are_classes_and_with_a_point_they_are_not(values):
    for column in (values, [str(value) for value in values], np.array(values)):
        found, _ = read(column)
        assert found.dtype == np.int32
        assert found.tolist() == values
    for column in ([f"{value}.0" for value in values], [float(value) for value in values]):
        found, _ = read(column)
        assert found.dtype == np.float32
        assert found[:, 0].tolist() == values


def test_one_real_among_integers_makes_all_of_them_real():
    assert read(["3", "0.5", "-2"])[0].tolist() == [[3.0], [0.5], [-2.0]]
    assert read([3, 0.5, -2])[0].tolist() == [[3.0], [0.5], [-2.0]]
    # As many integers a row as there are positions are classes of these.
    assert read(["1 0 2", "0 1 -100"])[0].tolist() == [[1, 0, 2], [0, 1, -100]]
    assert read(["1 0 2", "0 1 0.5"])[0].tolist() == [[1, 0, 2], [0, 1, 0.5]]


@pytest.mark.parametrize(
    "column",
    [
        ["1", "2", "more"],
        ["1.5", "2a"],
        ["nan", "eng"],  # codes of languages
        ["nan", "nan", "eng"],
        ["", "x"],
    ],
)
def test_names_may_look_like_numbers(column):
    found, names = read(column)
    assert [names[number] for number in found] == column


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["0.5", "", "1.5"], "row 2: '' is no number, as other `targets` are"),
        (["n/a", "0.5", "1.5"], "row 1: 'n/a' is no number"),
        (["1", "2", "", "3"], "row 3: '' is no number"),
        (["0.5", "nan", "1.5"], "row 2: a target is missing or infinite"),
        (["0.5", "1.5", "-inf"], "row 3: a target is missing or infinite"),
        (["0.5", "1e400"], "row 2: a target is missing or infinite"),
        ([0.5, float("nan")], "row 2: a target is missing or infinite"),
        (np.array([0.5, np.inf]), "row 2: a target is missing or infinite"),
        ([0.5, None], "row 2: `targets` are a class .*, not 'None'"),
        ([0.5, [1.0, [2.0]]], "row 2: `targets` are a class"),
        (np.zeros((2, 3, 2)), "row 1: `targets` are a class"),
        (["0.5 1", "0.5 1 2"], "row 2: 3 targets, row 1 has 2"),
        ([[0.5, 1.0], [0.5]], "row 2: 1 targets, row 1 has 2"),
        ([[0.5], []], "row 2: no targets"),
        (["0.5", "1e31"], "row 2: a target of 1e.31: take a larger unit"),
        (["1e9", "1000000001.5"], r"differ by 0.75 around 1e\+09, too little for float32"),
        (["1e-40", "2e-40"], "or take a smaller unit"),
        (["250000", "312000"], r"from 0 to 262143 .*; write real numbers with a point \(3\.0\)"),
        (["-3", "4"], r"; write real numbers with a point \(3\.0\)"),
    ],
)
def test_what_is_wrong_is_one_line(column, message):
    with pytest.raises(UsageError, match=message) as refused:
        read(column)
    assert "\n" not in str(refused.value)
