"""A pool of diverse architectures, to be trained once and searched again and again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from nas.compiler.architecture import Architecture
from nas.compiler.costs import PrimitiveCosts, shape_of
from nas.grammar.canonical import canonical_hash
from nas.grammar.crossover import crossover
from nas.grammar.derivation import Derivation
from nas.grammar.errors import SpaceError
from nas.grammar.mutation import mutate
from nas.grammar.space import Space
from nas.resources import find_architecture, packaged_architectures
from nas.search.setup import BASELINES


@dataclass(frozen=True)
class Member:
    """An architecture of a pool.

    Args:
        text: Its text.
        hash: Its canonical hash.
        origin: `zoo NAME`, `sample`, `mutation` or `crossover`.
    """

    text: str
    hash: str
    origin: str


def capped(space: Space) -> Space:
    """A space under the caps that a study would have: the costs of its dearest baseline."""
    shape = shape_of(dict(space.context.items()))
    costs = [
        Architecture.from_term(space.parse(find_architecture(name)).term, shape)
        for name in BASELINES
    ]
    caps = {
        "parameters": max(cost.parameters for cost in costs),
        "flops": max(cost.flops for cost in costs),
    }
    return space.under(costs=PrimitiveCosts(tuple(caps)), caps=caps)


def draw_pool(space: Space, count: int, seed: int) -> list[Member]:
    """Different architectures: the zoo's, samples of the grammar, and relatives of both.

    Samples alone have nothing in common with each other, and a search lives on what neighbours have
    in common. So half of what is not of the zoo are mutations and crossovers, of members drawn
    evenly.

    Args:
        space: The space, with its caps; texts of the zoo that it does not derive are left out.
        count: Members.
        seed: Of the samples; the same gives the same pool.
    """
    found: dict[str, Member] = {}
    derivations: dict[str, Derivation] = {}
    for origin, derivation in _candidates(space, Random(f"pool/{seed}"), derivations):
        key = canonical_hash(derivation)
        if key not in found:
            found[key] = Member(derivation.text, key, origin)
            derivations[key] = derivation
        if len(found) == count:
            break
    return list(found.values())


def _candidates(
    space: Space, rng: Random, found: dict[str, Derivation]
) -> Iterator[tuple[str, Derivation]]:
    for path in packaged_architectures():
        try:
            yield f"zoo {path.stem}", space.parse(find_architecture(path.stem))
        except SpaceError:
            continue  # not causal, or over a cap
    while True:
        kind = rng.choice(("sample", "sample", "mutation", "crossover"))
        if kind == "sample" or len(found) < 2:
            yield "sample", space.sample(rng)
            continue
        first, second = rng.sample(_drawable(space, list(found.values())), 2)
        if kind == "mutation":
            yield kind, mutate(space, first, rng)
        else:
            yield kind, crossover(space, first, second, rng)


def _drawable(space: Space, derivations: Sequence[Derivation]) -> list[Derivation]:
    # Under several caps a few texts fit to which the decisions, which keep a reserve, do not lead.
    return [d for d in derivations if space.log_probability(d) > float("-inf")]
