"""Mutation: small changes of a derivation that stay in the space."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from random import Random

from nas.grammar.derivation import Derivation, Node
from nas.grammar.edit import HOLE, Place, complete, decided, draw, replaced
from nas.grammar.errors import SpaceError
from nas.grammar.rules import Alternative, Grammar, Literal
from nas.grammar.space import Space

ATTEMPTS = 8
"""Edits tried of one kind before another kind has its turn."""

Edit = Callable[[Space, Derivation, Sequence[Place], Random], Node | None]
"""Makes a sketch of a changed derivation, given its decisions; None where it cannot apply."""


def mutate(
    space: Space, derivation: Derivation, rng: Random, kind: str | None = None
) -> Derivation:
    """A derivation that differs in one place.

    - `regrow`: one part is derived anew, whatever it becomes;
    - `parameter`: one choice that has no parts becomes another (a width, an activation);
    - `insert`: a part is wrapped into a larger one of its kind, such as `res(...)`, or gets a new
      neighbour, as in `seq(..., new)`;
    - `hoist`: a part is replaced by one of its kind within it; what was around it is gone.

    What a change makes illegal elsewhere is drawn again: edits without such repairs are preferred.

    Args:
        space: The space that the result is legal in.
        derivation: What to change.
        rng: Source of chance.
        kind: One of `KINDS`, or None for any. A kind that cannot apply leaves its place to others.

    Raises:
        SpaceError: The derivation is not of this space, or the space has no other that is found.
        ValueError: There is no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"no mutation {kind!r}: choose one of {', '.join(KINDS)}")
    decisions = decided(space, derivation)
    order = rng.sample(sorted(KINDS), len(KINDS))
    if kind is not None:
        order.sort(key=lambda name: name != kind)
    for name in order:
        repaired = None
        for _ in range(ATTEMPTS):
            sketch = KINDS[name](space, derivation, decisions, rng)
            if sketch is None:
                break
            changed, repairs = complete(space, sketch, rng)
            if changed != derivation and repairs == 0:
                return changed
            if changed != derivation:
                repaired = changed
        if repaired is not None:
            return repaired
    for _ in range(ATTEMPTS):
        changed = space.sample(rng)
        if changed != derivation:
            return changed
    raise SpaceError(f"no other architecture than {derivation.text} was found in this space")


def regrow(
    space: Space, derivation: Derivation, places: Sequence[Place], rng: Random
) -> Node | None:
    """A hole in place of a part that has parts, or could have some."""
    able = [p for p in places if any(a.references for a in p.choice.alternatives)]
    if not able:
        return None
    return replaced(derivation.root, rng.choice(able).choice.path, HOLE)


def parameter(
    space: Space, derivation: Derivation, places: Sequence[Place], rng: Random
) -> Node | None:
    """Another alternative in place of one that has no parts."""
    able = [p for p in places if not any(a.references for a in p.choice.alternatives)]
    if not able:
        return None
    place = rng.choice(able)
    weights = list(place.choice.probabilities)
    weights[place.index] = 0.0
    chosen = place.choice.alternatives[draw(weights, rng)]
    return replaced(derivation.root, place.choice.path, Node(chosen))


def insert(
    space: Space, derivation: Derivation, places: Sequence[Place], rng: Random
) -> Node | None:
    """A part wrapped into a new one of the same rule, or only its own parts wrapped anew.

    The second turns `res(x)` into `seq(res(x), new)`: an alternative that was nothing but the layer
    `res(x)` gives way to another that contains a layer.
    """
    able = [
        (place, kept)
        for place in places
        if _recursive(space.grammar, place.node.rule)
        for kept in (place.node, *place.node.children)
        if kept.rule in _steps(space.grammar, place.node.rule)
        and place.node.rule in _steps(space.grammar, kept.rule)
    ]
    if not able:
        return None
    place, kept = rng.choice(able)
    wrapped = _wrap(space, place, kept, rng)
    return None if wrapped is None else replaced(derivation.root, place.choice.path, wrapped)


def hoist(
    space: Space, derivation: Derivation, places: Sequence[Place], rng: Random
) -> Node | None:
    """A part replaced by one within it, of the same rule or one that it can consist of.

    Only the nearest such parts are taken, so that little is lost: `seq(a, res(b), c)` becomes `a`
    or `seq(a, c)`, but not `b`.
    """
    able = [(place.choice.path, part) for place in places for part in _nearest_inside(space, place)]
    if not able:
        return None
    path, part = rng.choice(able)
    return replaced(derivation.root, path, part)


KINDS: dict[str, Edit] = {
    "regrow": regrow,
    "parameter": parameter,
    "insert": insert,
    "hoist": hoist,
}
"""The kinds of mutation by name."""


def _nearest_inside(space: Space, place: Place) -> Iterator[Node]:
    """What can replace a part and lies within it, without a like one in between."""
    plain = {
        a.references[0]: a
        for a in place.choice.alternatives
        if a.name is None
        and len(a.references) == 1
        and not any(isinstance(symbol, Literal) and symbol.kept for symbol in a.symbols)
    }
    stack = list(place.node.children)
    while stack:
        node = stack.pop()
        if node.rule == place.node.rule:
            yield node
        elif node.rule in plain and plain[node.rule] is not place.node.alternative:
            yield Node(plain[node.rule], (node,))
        else:
            stack += reversed(node.children)


def _wrap(space: Space, place: Place, kept: Node, rng: Random) -> Node | None:
    """A new part for a place, which leads down to `kept` by few steps; holes elsewhere."""
    steps = _steps(space.grammar, kept.rule)
    options = space.options(place.choice.rule, place.choice.context)
    chain: list[tuple[Alternative, int]] = []
    while True:
        ways: list[tuple[int, int]] = []
        weights: list[float] = []
        for i, alternative in enumerate(options.alternatives):
            if not chain and kept is not place.node and alternative is place.node.alternative:
                continue  # nothing would change
            for k, rule in enumerate(alternative.references):
                nearer = not chain or steps.get(rule, math.inf) < steps[options.rule]
                if rule in steps and nearer:
                    ways.append((i, k))
                    weights.append(options.probabilities[i] * 0.5 ** steps[rule])
        if not ways:
            return None
        i, k = ways[draw(weights, rng)]
        alternative = options.alternatives[i]
        chain.append((alternative, k))
        if alternative.references[k] == kept.rule:
            break
        options = space.options(alternative.references[k], options.contexts[i])
    node = kept
    for alternative, k in reversed(chain):
        children = [HOLE] * len(alternative.references)
        children[k] = node
        node = Node(alternative, tuple(children))
    return node


@lru_cache(maxsize=4096)
def _recursive(grammar: Grammar, rule: str) -> bool:
    """Whether a rule can contain itself."""
    inside = _steps(grammar, rule)
    return any(part in inside for a in grammar.rules[rule] for part in a.references)


@lru_cache(maxsize=4096)
def _steps(grammar: Grammar, goal: str) -> Mapping[str, int]:
    """For every rule that can contain the rule `goal`: how many alternatives lie between, at least.

    The goal itself has 0, whether or not it can contain itself.
    """
    steps = {goal: 0}
    frontier = {goal}
    while frontier:
        users = {
            rule
            for rule, alternatives in grammar.rules.items()
            if rule not in steps
            and any(part in frontier for a in alternatives for part in a.references)
        }
        for rule in users:
            steps[rule] = steps[next(iter(frontier))] + 1
        frontier = users
    return steps
