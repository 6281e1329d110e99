"""The tree of a history against a grouping by prefixes; moves against plain counting."""

import random
from collections import Counter

import numpy as np

from nas.search.tree import Moves, Tree

WIDTHS = (3, 2, 4, 2)


def random_paths(rng, count):
    return [tuple(rng.randrange(width) for width in WIDTHS) for _ in range(count)]


def walk(node, prefix=()):
    yield prefix, node
    for step, child in (node.children or {}).items():
        yield from walk(child, (*prefix, step))


def test_nodes_hold_the_trials_that_begin_alike():
    rng = random.Random(0)
    for count in (1, 2, 5, 30, 200):
        paths = random_paths(rng, count)
        tree = Tree()
        for trial, path in enumerate(paths):
            tree.add(trial, path, WIDTHS)
        tried = set(paths)
        seen = Counter()
        for prefix, node in walk(tree.root):
            alike = [i for i, path in enumerate(paths) if path[: len(prefix)] == prefix]
            assert list(node.trials) == alike
            below = {path for path in tried if path[: len(prefix)] == prefix}
            every = int(np.prod(WIDTHS[len(prefix) :]))
            assert node.closed == (len(below) == every)
            seen[len(prefix)] += 1
            if node.children is None:
                assert len(alike) == 1 or len(prefix) == len(WIDTHS)
                if len(prefix) < len(WIDTHS):
                    assert tree.step(node, len(prefix)) == paths[alike[0]][len(prefix)]
        assert seen[0] == 1


def test_it_grows_with_the_trials_not_with_their_decisions():
    rng = random.Random(1)
    tree = Tree()
    for trial in range(2000):
        path = tuple(rng.randrange(4) for _ in range(200))
        tree.add(trial, path, (4,) * 200)
    assert sum(1 for _ in walk(tree.root)) < 2 * 2000


def test_moves_are_counted_wherever_they_were_made():
    rng = random.Random(2)
    made = [[rng.choice("abcdefgh") for _ in range(rng.randrange(1, 6))] for _ in range(600)]
    rewards = np.array([rng.random() for _ in made])
    moves = Moves()
    for trial, names in enumerate(made):
        moves.add(trial, names)
    among = np.array([rng.random() < 0.3 for _ in made])
    for chosen in (None, among):
        times, sums = moves.count(rewards, chosen)
        for name in "abcdefgh":
            of = [
                i for i, names in enumerate(made) if name in names and (chosen is None or chosen[i])
            ]
            assert times[moves.key(name)] == len(of)
            assert np.isclose(sums[moves.key(name)], rewards[of].sum())
    assert moves.key("z") == -1
