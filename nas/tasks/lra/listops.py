"""ListOps (Nangia and Bowman 2018) as in the Long Range Arena: the value of a prefix expression.

Expressions over MIN, MAX, MED and SM (sum modulo 10) of digits and expressions, drawn as a
branching process and kept when their length lies strictly between two bounds. All expressions of a
chunk are drawn and evaluated together, level by level of their trees.

Knobs: other lengths, depths and numbers of arguments than the published ones. Expressions of a
length L beyond the profile's have more than L / 2 tokens, so that a model trained at one length
meets none so long before it is asked at twice that; as few shallow trees have so many, the trees
may become deeper, too, unless `depth` is given.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nas.compiler.interface import Label, Tokens
from nas.tasks.base import Profile, Split, Task, lookup, majority
from nas.tasks.generate import Draw, generated
from nas.tasks.lra.setting import s4_setting
from nas.tasks.named import task
from nas.tasks.random_streams import Keys, derive, integers
from nas.tasks.setting import Setting

VERSION = 1
OPERATORS = ("MIN", "MAX", "MED", "SM")
SYMBOLS = ("", *"0123456789", *(f"[{name}" for name in OPERATORS), "]")
"""Token i is `SYMBOLS[i]`; token 0 is padding."""
DIGIT, OPERATOR, END = 1, 11, 15
"""Tokens of the digit 0, of the first operator, and of the closing bracket."""


@dataclass(frozen=True)
class ListOps:
    """The definition of a ListOps data set.

    Args:
        shortest: Every expression is longer than this, in tokens.
        longest: Every expression is shorter than this.
        depth: Levels of the deepest tree; the root is the first.
        arguments: The largest number of arguments of an operator; the least is 2.
        length: L, what expressions are padded to.
        version: Of the generator's code.
    """

    shortest: int
    longest: int
    depth: int
    arguments: int
    length: int
    version: int = VERSION


PAPER = ListOps(shortest=500, longest=2000, depth=10, arguments=10, length=2048)
SMALL = ListOps(shortest=8, longest=64, depth=3, arguments=8, length=64)
LENGTHS = (16, 2**15 - 1)
DEPTHS = (2, 1000)
RARE, ENOUGH = 0.001, 0.02
"""Of the trees drawn, the share that is kept: the least there must be, and what depth grows for."""


@task("lra/listops", "the value of a nested prefix expression")
def listops(
    profile: Profile,
    *,
    length: int | None = None,
    depth: int | None = None,
    arguments: int | None = None,
) -> Task:
    """The task of a profile.

    Args:
        profile: `paper` or `small`.
        length: L: expressions are shorter, by default as in the profile; above its length they have
            more than half as many tokens.
        depth: Levels of the deepest tree, 2 for digits under one operator; by default the profile's
            or, where few of its trees have that length, what it takes.
        arguments: The largest number of arguments of an operator.

    Raises:
        ValueError: There are no such expressions, or next to none.
    """
    small = profile == "small"
    of = _definition(SMALL if small else PAPER, length, depth, arguments)
    train, held_out = (20_000, 2_000) if small else (96_000, 2_000)
    sizes = (train, held_out, held_out)
    return Task(
        name="lra/listops",
        profile=profile,
        summary="the value, 0 to 9, of a nested prefix expression over MIN MAX MED SM",
        definition=(
            f"{of.shortest} < length < {of.longest}, depth <= {of.depth}, 2 to {of.arguments} "
            f"arguments; {train}/{held_out}/{held_out} examples"
        ),
        length=of.length,
        causal=False,
        inputs=Tokens(len(SYMBOLS)),
        outputs=Label(10),
        batch_size=32,
        steps=600 if small else 120_000,
        source=lambda: generated(f"lra/listops-{profile}", of, sizes, lambda keys: draw(keys, of)),
        decode=lambda inputs, target: f"{text(inputs)} = {int(target)}",
        rules={"majority": majority, "root operator": lookup(root_operator)},
        difficulty=lambda split: tokens_in_classes(split, of.length),
        setting=Setting() if small else s4_setting(),
    )


def _definition(
    of: ListOps, length: int | None, depth: int | None, arguments: int | None
) -> ListOps:
    """The definition of a profile with some of it changed; raises ValueError."""
    if length not in (None, of.length):
        if not LENGTHS[0] <= length <= LENGTHS[1]:
            raise ValueError(f"length is {LENGTHS[0]} to {LENGTHS[1]} tokens, not {length}")
        shortest = length // 2 if length > of.length else length * of.shortest // of.length
        of = replace(of, shortest=shortest, longest=length, length=length)
    if arguments is not None:
        if not 2 <= arguments < of.length:
            raise ValueError(f"arguments is 2 to {of.length - 1}, not {arguments}")
        of = replace(of, arguments=arguments)
    if depth is not None:
        if not DEPTHS[0] <= depth <= DEPTHS[1]:
            raise ValueError(f"depth is {DEPTHS[0]} to {DEPTHS[1]} levels, not {depth}")
        of = replace(of, depth=depth)
    found = of
    while depth is None and share(found) < ENOUGH and found.depth < 4 * of.depth:
        found = replace(found, depth=found.depth + 1)
    if share(found) < RARE:
        raise ValueError(
            f"next to no expressions of depth {found.depth} with up to {of.arguments} arguments "
            f"have {of.shortest + 1} to {of.longest - 1} tokens: allow more depth or arguments, or "
            "choose another length"
        )
    return found


def share(of: ListOps) -> float:
    """The share of the trees with an operator at the root that are kept.

    The generating function of the number of tokens is that of one level put into that of the level
    above; its coefficients are read off at points on a circle.
    """
    count = 2 * of.longest
    radius = 1e-8 ** (1 / count)  # what the circle adds of longer trees has this weight
    z = radius * np.exp(2j * np.pi * np.arange(count) / count)

    def operator(below: NDArray) -> NDArray:
        powers = below**2 * (1 - below ** (of.arguments - 1)) / (1 - below)
        return z**2 * powers / (of.arguments - 1)

    below = z
    for _ in range(of.depth - 2):
        below = 0.75 * z + 0.25 * operator(below)
    chances = np.fft.fft(operator(below)).real / count / radius ** np.arange(count)
    return float(chances[of.shortest + 1 : of.longest].sum())


def tokens_in_classes(split: Split, length: int) -> NDArray[np.int64]:
    """The tokens of each expression, rounded down to an eighth of L."""
    assert split.lengths is not None
    width = max(1, length // 8)
    return split.lengths.astype(np.int64) // width * width


def root_operator(split: Split) -> NDArray[np.int64]:
    """Which operator stands first: `[N]` in 0..3."""
    return split.inputs[:, 0].astype(np.int64) - OPERATOR


def text(tokens: NDArray) -> str:
    """An expression as it is written in the original data, without its round brackets."""
    return " ".join(SYMBOLS[token] for token in tokens if token)


@dataclass(frozen=True)
class _Level:
    """The nodes of one level of all trees; the children of a node stand together, in order."""

    owner: NDArray[np.int64]
    arguments: NDArray[np.int64]  # 0 for a digit
    symbol: NDArray[np.int64]  # a digit's value, or the number of the operator

    def of(self, expressions: NDArray[np.bool_]) -> "_Level":
        here = expressions[self.owner]
        renumbered = np.cumsum(expressions) - 1
        return _Level(renumbered[self.owner[here]], self.arguments[here], self.symbol[here])


def draw(keys: Keys, of: ListOps) -> Draw:
    """One attempt at an expression per key.

    A draw whose root is a digit is never long enough, so roots are operators: what is kept has the
    distribution of the definition, in a quarter of the attempts.

    Args:
        keys: `[N]` keys of the random streams.
        of: The definition.

    Returns:
        Tokens `[N, length]`, values `[N]` and lengths; all 0 where the expression is rejected.
    """
    levels, lengths = _grow(keys, of)
    kept = (lengths > of.shortest) & (lengths < of.longest)
    tokens = np.zeros((len(keys), of.length), dtype=np.uint8)
    values = np.zeros(len(keys), dtype=np.uint8)
    if kept.any():
        tokens[kept], values[kept] = _render([level.of(kept) for level in levels], of.length)
    return Draw(tokens, values, kept, np.where(kept, lengths, 0).astype(np.int16))


def _grow(keys: Keys, of: ListOps) -> tuple[list[_Level], NDArray[np.int64]]:
    """Draw the trees from the roots down, and count their tokens; give up those too long."""
    owner, node = np.arange(len(keys)), keys
    lengths = np.ones(len(keys), dtype=np.int64)
    levels = []
    for depth in range(1, of.depth + 1):
        if depth == 1:
            operator = np.ones(len(node), dtype=np.bool_)
        elif depth == of.depth:
            operator = np.zeros(len(node), dtype=np.bool_)
        else:
            operator = (node & np.uint64(3)) == 0
        arguments = np.where(operator, 2 + integers(node, of.arguments - 1), 0)
        of_four = ((node >> np.uint64(2)) & np.uint64(3)).astype(np.int64)
        levels.append(_Level(owner, arguments, np.where(operator, of_four, integers(node, 10))))
        # The closing bracket, and a token for each argument: more where that is an operator.
        lengths += np.bincount(owner, operator + arguments, minlength=len(keys)).astype(np.int64)
        # What stands below is not drawn where the expression is too long with it.
        below = np.where(lengths[owner] < of.longest, arguments, 0)
        starts = np.cumsum(below) - below
        number = np.arange(below.sum()) - np.repeat(starts, below)
        node = derive(np.repeat(node, below), number)
        owner = np.repeat(owner, below)
        if not len(node):
            break
    return levels, lengths


def _render(levels: list[_Level], length: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Tokens `[N, length]` and values `[N]` of complete trees."""
    sizes: list[NDArray[np.int64]] = []
    below_values = below_sizes = np.empty(0, dtype=np.int64)
    for level in reversed(levels):
        operator = level.arguments > 0
        size = np.ones(len(operator), dtype=np.int64)
        value = level.symbol.copy()
        if operator.any():
            counts = level.arguments[operator]
            size[operator] = 2 + np.add.reduceat(below_sizes, np.cumsum(counts) - counts)
            value[operator] = _evaluate(level.symbol[operator], counts, below_values)
        sizes.insert(0, size)
        below_values, below_sizes = value, size

    tokens = np.zeros((len(below_values), length), dtype=np.uint8)
    offset = np.zeros(len(below_values), dtype=np.int64)
    for number, (level, size) in enumerate(zip(levels, sizes, strict=True)):
        operator = level.arguments > 0
        tokens[level.owner, offset + size - 1] = END
        tokens[level.owner, offset] = level.symbol + np.where(operator, OPERATOR, DIGIT)
        if number + 1 < len(levels):
            counts = level.arguments[operator]
            below = sizes[number + 1]
            before = np.cumsum(below) - below
            first = np.repeat(before[np.cumsum(counts) - counts], counts)
            offset = np.repeat(offset[operator], counts) + 1 + before - first
    return tokens, below_values


def _evaluate(
    operators: NDArray[np.int64], counts: NDArray[np.int64], values: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Values of operators whose arguments stand one after another in `values`."""
    starts = np.cumsum(counts) - counts
    rows = np.repeat(np.arange(len(counts)), counts)
    arguments = np.full((len(counts), int(counts.max())), 10)  # above every digit: sorts last
    arguments[rows, np.arange(len(values)) - starts[rows]] = values
    arguments.sort(axis=1)
    every = np.arange(len(counts))
    low, high = arguments[every, (counts - 1) // 2], arguments[every, counts // 2]
    return np.choose(
        operators,
        [
            arguments[:, 0],
            arguments[every, counts - 1],
            (low + high) // 2,  # int(median): the mean of the middle two, rounded down
            np.add.reduceat(values, starts) % 10,
        ],
    )
