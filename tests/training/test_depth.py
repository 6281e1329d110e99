import pytest

from nas.errors import UsageError
from nas.grammar.space import Space
from nas.resources import find_space
from nas.training.depth import at_depth

BLOCK = "seq(stack(3, res(mlp(2, gelu))), res(mlp(4, relu)))"
BARE = "net(res(mlp(2, gelu)))"


@pytest.fixture(scope="module")
def space():
    context = {"L": (9,), "D": 8, "causal": True}
    return Space.load(find_space("hybrid.lark"), context=context)


def stacked(depth):
    return f"net(seq(res(mlp(1, gelu)), stack({depth}, {BLOCK}), res(mlp(1, gelu))))"


@pytest.mark.parametrize(
    ("asked", "usual", "depth"), [(None, None, 2), (4, None, 4), (None, 3, 3), (4, 3, 4)]
)
def test_the_outermost_stack_gets_another_depth(space, asked, usual, depth):
    expected = space.parse(stacked(depth)).term
    assert at_depth(space, stacked(2), asked, usual) == expected


def test_one_block_is_not_stacked(space):
    expected = space.parse(f"net({BLOCK})").term
    assert at_depth(space, f"net(stack(2, {BLOCK}))", 1, None) == expected


def test_what_has_no_stack_has_no_other_depth(space):
    assert at_depth(space, BARE, None, 7) == space.parse(BARE).term
    with pytest.raises(UsageError, match=r"no stack\(N, ...\)"):
        at_depth(space, BARE, 7, None)
