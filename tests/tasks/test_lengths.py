import pytest

from nas.errors import UsageError
from nas.tasks.lengths import longer
from nas.tasks.registry import load_task


@pytest.fixture(scope="module")
def parity():
    return load_task("parity[length=18]", "small").tasks[0]


@pytest.mark.parametrize(
    ("asked", "lengths"),
    [(None, []), ("", []), ("2x,4x", [36, 72]), ("25, 1.5x", [25, 27]), ("1.01x", [19])],
)
def test_lengths_are_factors_or_numbers_of_tokens(parity, asked, lengths):
    found = longer(parity, asked)
    assert [task.length for task in found] == lengths
    assert [task.name for task in found] == [f"parity[length={length}]" for length in lengths]


@pytest.mark.parametrize("asked", ["twice", "x2", "-3", "2x 4x", "1e3"])
def test_what_is_no_length_is_refused(parity, asked):
    with pytest.raises(UsageError, match="is like 2x,4x or 512"):
        longer(parity, asked)


def test_a_task_of_one_length_is_refused(parity):
    with pytest.raises(UsageError, match="at least one token"):
        longer(parity, "0x")
    (one,) = load_task("copy_memory", "small").tasks
    assert longer(one, None) == ()
