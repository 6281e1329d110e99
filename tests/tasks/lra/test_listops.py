import hashlib
import random
import re
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from nas.errors import UsageError
from nas.tasks.base import SPLITS, lookup
from nas.tasks.lra.listops import PAPER, SMALL, SYMBOLS, ListOps, draw, listops, share, text
from nas.tasks.random_streams import derive, stream
from nas.tasks.registry import load_task

OPERATORS = ["MIN", "MAX", "MED", "SM"]


def evaluate(expression: str) -> int:
    """An independent evaluator: recursive descent over the text."""
    words = expression.split()

    def value(position: int) -> tuple[int, int]:
        word = words[position]
        if word.isdigit():
            return int(word), position + 1
        arguments = []
        position += 1
        while words[position] != "]":
            argument, position = value(position)
            arguments.append(argument)
        name = word.removeprefix("[")
        if name == "SM":
            result = sum(arguments) % 10
        elif name == "MED":
            result = int(np.median(arguments))
        else:
            result = {"MIN": min, "MAX": max}[name](arguments)
        return result, position + 1

    result, end = value(0)
    assert end == len(words)
    return result


def tree(rng: random.Random, depth: int, most: int, arguments: int):
    """The definition of the original, call by call; a tree is a digit or [operator, tree, ...]."""
    if depth >= most or rng.random() > 0.25:
        return rng.randrange(10)
    count = rng.randint(2, arguments)
    parts = [tree(rng, depth + 1, most, arguments) for _ in range(count)]
    return [rng.choice(OPERATORS), *parts]


def tokens_of(node) -> int:
    return 1 if isinstance(node, int) else 2 + sum(tokens_of(part) for part in node[1:])


def depth_of(words: list[str]) -> int:
    depth = deepest = 0
    for word in words:
        if word.startswith("["):
            depth += 1
        elif word == "]":
            depth -= 1
        else:
            deepest = max(deepest, depth + 1)
    return deepest


DEFINITIONS = {
    "small": SMALL,
    "paper": PAPER,
    "other": ListOps(shortest=3, longest=40, depth=3, arguments=10, length=40),
    "many arguments": ListOps(shortest=40, longest=80, depth=4, arguments=79, length=80),
    "flat": ListOps(shortest=3, longest=30, depth=2, arguments=20, length=30),
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_expressions_are_well_formed_and_values_are_right(name):
    of = DEFINITIONS[name]
    drawn = draw(derive(stream("values", name), np.arange(1000)), of)
    assert drawn.kept.any()
    for tokens, value, length, kept in zip(
        drawn.inputs, drawn.targets, drawn.lengths, drawn.kept, strict=True
    ):
        if not kept:
            assert not tokens.any()
            continue
        words = text(tokens).split()
        assert evaluate(" ".join(words)) == value
        assert len(words) == length
        assert of.shortest < length < of.longest
        assert (tokens[length:] == 0).all()
        assert depth_of(words) <= of.depth


def test_expressions_are_distributed_as_the_original_draws_them():
    of = ListOps(shortest=6, longest=60, depth=4, arguments=6, length=64)
    drawn = draw(derive(stream("distribution"), np.arange(60_000)), of)
    ours = drawn.inputs[drawn.kept]
    rng = random.Random(0)
    theirs = []
    attempts = 0
    while len(theirs) < 6000:
        node = tree(rng, 1, of.depth, of.arguments)
        attempts += 1
        if of.shortest < tokens_of(node) < of.longest:
            theirs.append(node)
    # Roots that are digits are never kept; they are three quarters of the original's draws.
    assert drawn.kept.mean() == pytest.approx(4 * 6000 / attempts, rel=0.05)
    lengths = [tokens_of(node) for node in theirs]
    assert stats.ks_2samp(drawn.lengths[drawn.kept], lengths).pvalue > 1e-3

    def table(symbols: list[str]) -> list[int]:
        counts = Counter(symbols)
        return [counts[symbol] for symbol in [*OPERATORS, *(str(i) for i in range(10))]]

    def flat(node) -> list[str]:
        if isinstance(node, int):
            return [str(node)]
        return [node[0], *(symbol for part in node[1:] for symbol in flat(part))]

    symbols = [SYMBOLS[t].removeprefix("[") for row in ours for t in row if 0 < t < 15]
    expected = [symbol for node in theirs for symbol in flat(node)]
    assert stats.chi2_contingency([table(symbols), table(expected)]).pvalue > 1e-3
    values = np.bincount(drawn.targets[drawn.kept], minlength=10)
    assert (
        stats.chi2_contingency(
            [values, np.bincount([evaluate(text_of(node)) for node in theirs], minlength=10)]
        ).pvalue
        > 1e-3
    )


def text_of(node) -> str:
    return (
        str(node)
        if isinstance(node, int)
        else (f"[{node[0]} " + " ".join(text_of(part) for part in node[1:]) + " ]")
    )


def test_the_paper_definition_is_the_published_one():
    assert (PAPER.shortest, PAPER.longest, PAPER.depth, PAPER.arguments) == (500, 2000, 10, 10)
    drawn = draw(derive(stream("kept"), np.arange(20_000)), PAPER)
    assert drawn.kept.mean() / 4 == pytest.approx(0.08, abs=0.005)
    values = drawn.targets[drawn.kept]
    assert np.bincount(values).max() / len(values) == pytest.approx(0.17, abs=0.01)
    roots = drawn.inputs[drawn.kept][:, 0]
    right = sum(np.bincount(values[roots == root]).max() for root in np.unique(roots))
    assert right / len(values) == pytest.approx(0.37, abs=0.01)


def test_an_example_does_not_depend_on_its_neighbours():
    keys = derive(stream("alone"), np.arange(50))
    together = draw(keys, SMALL)
    for i in range(50):
        alone = draw(keys[i : i + 1], SMALL)
        assert (alone.inputs[0] == together.inputs[i]).all()
        assert alone.targets[0] == together.targets[i]


def test_small_is_frozen_and_its_splits_are_disjoint():
    task = listops("small")
    assert task.data_hash == FROZEN
    seen: set[bytes] = set()
    count = 0
    for name in SPLITS:
        split = task.splits[name]
        count += len(split)
        seen.update(row.tobytes() for row in split.inputs)
    assert len(seen) == count


def test_lengths_do_not_tell_labels():
    task = listops("small")
    by_length = lookup(lambda split: split.lengths.astype(np.int64))(task.splits)
    assert by_length < task.baselines["majority"] + 0.05
    assert task.baselines["majority"] < task.baselines["root operator"]


def test_an_example_reads_as_an_equation():
    task = listops("small")
    split = task.splits["validation"]
    for i in range(20):
        left, right = task.decode(split.inputs[i], split.targets[i]).split(" = ")
        assert evaluate(left) == int(right)


def test_the_share_that_is_kept_is_known_beforehand():
    for of in (*DEFINITIONS.values(), ListOps(30, 60, 6, 3, 64)):
        kept = draw(derive(stream("share"), np.arange(4000)), of).kept.mean()
        assert share(of) == pytest.approx(kept, abs=4 * (0.25 / 4000) ** 0.5)
    rng = random.Random(1)
    trees = [tree(rng, 1, 5, 4) for _ in range(40_000)]
    lengths = [tokens_of(node) for node in trees if not isinstance(node, int)]
    told = share(ListOps(12, 50, 5, 4, 64))
    assert told == pytest.approx(np.mean([12 < n < 50 for n in lengths]), abs=0.02)


def test_the_published_data_is_what_it_was():
    drawn = draw(derive(stream("frozen"), np.arange(2000)), PAPER)
    arrays = (drawn.inputs, drawn.targets, drawn.lengths, drawn.kept)
    assert hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest() == FROZEN_PAPER


@pytest.mark.parametrize(
    ("profile", "length"), [("small", 128), ("small", 256), ("small", 40), ("paper", 1000)]
)
def test_other_lengths_are_the_same_task(profile, length):
    base = SMALL if profile == "small" else PAPER
    (task,) = load_task(f"lra/listops[length={length}]", profile).tasks
    (trained,) = load_task("lra/listops", profile).tasks
    assert (task.length, task.inputs, task.outputs) == (length, trained.inputs, trained.outputs)
    if profile == "small":
        split = task.splits["validation"]
        for tokens, value, n in zip(split.inputs[:200], split.targets, split.lengths, strict=False):
            words = text(tokens).split()
            assert evaluate(" ".join(words)) == value
            assert len(words) == n < length
            assert n > (length / 2 if length > base.length else length / 8)
        classes = task.difficulty(split)
        assert (classes <= split.lengths).all()
        assert (split.lengths < classes + length / 8).all()
        assert len(np.unique(classes)) >= 3


def test_a_trained_model_is_asked_at_lengths_it_never_met():
    (task,) = load_task("lra/listops[depth=4,arguments=5]", "small").tasks
    with pytest.raises(UsageError, match="next to no expressions of depth 4"):
        task.longer(256)
    (task,) = load_task("lra/listops", "small").tasks
    longer = task.longer(128)
    assert longer.splits["test"].lengths.min() > 64 > task.splits["train"].lengths.max()
    assert longer.baselines["majority"] < 0.25


def test_knobs_are_in_the_definition():
    (task,) = load_task("lra/listops[length=60,depth=5,arguments=3]", "small").tasks
    split = task.splits["train"]
    expressions = [text(row).split() for row in split.inputs[:2000]]
    assert max(map(depth_of, expressions)) == 5
    assert "7 < length < 60, depth <= 5, 2 to 3 arguments" in task.definition
    whole = [" ".join(words) for words in expressions]
    assert not any(re.search(r"\[\w+( \d){4}", expression) for expression in whole)
    assert any(re.search(r"\[\w+( \d){3} \]", expression) for expression in whole)
    same = listops("small", length=SMALL.length, depth=SMALL.depth, arguments=SMALL.arguments)
    assert same.data_hash == FROZEN


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ("depth=1", "depth is 2 to 1000 levels, not 1"),
        ("arguments=1", "arguments is 2 to 63, not 1"),
        ("arguments=64", "arguments is 2 to 63, not 64"),
        ("length=15", "length is 16 to 32767 tokens, not 15"),
        ("length=40000", "length is 16 to 32767 tokens, not 40000"),
        ("length=512,depth=3", "no expressions of depth 3 with up to 8 arguments have 257 to 511"),
        ("length=512,arguments=2", "allow more depth or arguments"),
    ],
)
def test_impossible_knobs_are_refused(knobs, told):
    with pytest.raises(UsageError, match=told):
        load_task(f"lra/listops[{knobs}]", "small")


FROZEN = "ce462468d2d78cfb34c79b41f2d4fe15e8e4c10679161db7c85d526fd7e2d03e"
FROZEN_PAPER = "2a94b20c31291a07f671e22f39697f44a05cfa524fe80650dcece5bf29293eca"
