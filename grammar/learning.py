"""What makes good derivations more likely: factors of a grammar's weights, learned from them.

A weight keeps its expression and is multiplied, so that it goes on depending on the context, and
what is legal stays legal. Where a rule's own weights read a name of the context (`inner`, `depth`)
and good derivations choose otherwise on either side of a value, the factors differ there.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from nas.grammar.decisions import Choice
from nas.grammar.edit import Place
from nas.grammar.estimate import Tally, fit, floored
from nas.grammar.expression import Value
from nas.grammar.reach import helper_kind, is_helper
from nas.grammar.rules import Alternative, Grammar

STRENGTH = 20.0
"""Imagined decisions of each rule, taken by its present probabilities."""

FLOOR = 0.1
"""No probability falls below this part of what it is."""

LEVELS = 2
"""A rule's decisions are told apart by so many bounds, at most: in four cells."""

LEAST = 10.0
"""Decisions in a cell, at least."""

BOUNDS = 8
"""Values of a name that are tried as bounds, at most."""

Unit = str | Alternative
"""What has factors of its own: a rule, or the `repeat` of an alternative."""

Example = tuple[Sequence[Place], float]
"""The decisions of a derivation, and how often they count."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A condition on the context: `name <= value`, or `name > value` if it is `above`."""

    name: str
    value: int | float
    above: bool = False

    def holds(self, context: Mapping[str, Value]) -> bool:
        """Whether a context meets it."""
        found = context[self.name]
        assert not isinstance(found, tuple)
        return (found > self.value) is self.above

    def __str__(self) -> str:
        return f"{self.name} {'>' if self.above else '<='} {self.value}"


@dataclass(frozen=True, slots=True)
class Cell:
    """Contexts in which a rule's factors are the same.

    Args:
        bounds: They hold in all of these contexts and in no others.
        factors: By an alternative's index; 1 where there is none.
    """

    bounds: tuple[Bound, ...]
    factors: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class _Met:
    """Decisions that were met in one context.

    Args:
        context: The names that may tell cells apart.
        tally: What was offered and chosen.
    """

    context: Mapping[str, int | float]
    tally: Tally


class Factors:
    """Factors of the weights of a grammar; made by `learn`.

    Args:
        cells: Of each unit; all contexts lie in one of its cells.
        repeats: For every helper rule of a `repeat`, its alternative.
    """

    def __init__(
        self, cells: Mapping[Unit, Sequence[Cell]], repeats: Mapping[str, Alternative]
    ) -> None:
        self._cells = cells
        self._repeats = repeats

    def cells(self, rule: str) -> Sequence[Cell]:
        """The cells of a rule, helper rules included; () where nothing was learned."""
        unit = _unit(rule, self._repeats)
        return () if unit is None else self._cells.get(unit, ())

    def probabilities(self, choice: Choice) -> tuple[float, ...]:
        """The probabilities of a choice's alternatives, once the weights are multiplied."""
        for cell in self.cells(choice.rule):
            if all(bound.holds(choice.context) for bound in cell.bounds):
                return _multiplied(choice, cell.factors)
        return choice.probabilities

    def log_probability(self, places: Iterable[Place]) -> float:
        """Natural logarithm of the probability that a derivation's decisions are taken so."""
        chances = (self.probabilities(place.choice)[place.index] for place in places)
        return math.fsum(map(math.log, chances))


def learn(
    grammar: Grammar,
    examples: Iterable[Example],
    *,
    strength: float = STRENGTH,
    floor: float = FLOOR,
) -> Factors:
    """The factors that make derivations likely: the mode of a posterior, see `estimate.fit`.

    Args:
        grammar: The rules.
        examples: Their decisions, see `edit.places`.
        strength: Imagined decisions of each rule, taken by its present probabilities.
        floor: No probability that the examples meet falls below this part of what it is.

    Raises:
        ValueError: `strength` is not above 0, or `floor` not from 0 to below 1.
    """
    if not (0 < strength < math.inf and 0 <= floor < 1):
        raise ValueError(f"strength {strength} is above 0, floor {floor} from 0 to below 1")
    repeats = repeats_of(grammar)
    names = {rule: _names(alternatives) for rule, alternatives in grammar.rules.items()}
    met: dict[Unit, dict[object, _Met]] = {}
    for places, weight in examples:
        for place in places:
            choice = place.choice
            unit = _unit(choice.rule, repeats)
            if unit is not None:
                kinds = met.setdefault(unit, {})
                key = choice.context, choice.alternatives
                if key not in kinds:
                    kinds[key] = _meet(choice, names[choice.rule])
                chosen = kinds[key].tally.chosen
                index = choice.alternatives[place.index].index
                chosen[index] = chosen.get(index, 0.0) + weight
    cells: dict[Unit, Sequence[Cell]] = {}
    for unit, found in met.items():
        kinds_met = list(found.values())
        factors = fit([each.tally for each in kinds_met], strength)
        cells[unit] = tuple(_split(kinds_met, factors, (), strength, floor))
    return Factors(cells, repeats)


def repeats_of(grammar: Grammar) -> dict[str, Alternative]:
    """For every helper rule of a repetition, the alternative whose `repeat` it follows."""
    found: dict[str, Alternative] = {}
    for rule, alternatives in grammar.rules.items():
        for alternative in () if is_helper(rule) else alternatives:
            waiting = list(filter(is_helper, alternative.references))
            seen: set[str] = set()
            while waiting:
                helper = waiting.pop()
                if helper in seen:
                    continue
                seen.add(helper)
                if helper_kind(helper) in ("opt", "star", "plus"):
                    found.setdefault(helper, alternative)
                for inner in grammar.rules[helper]:
                    waiting += filter(is_helper, inner.references)
    return found


def _unit(rule: str, repeats: Mapping[str, Alternative]) -> Unit | None:
    """What a rule's factors belong to; None: a group in brackets, whose weights cannot be told."""
    return repeats.get(rule) if is_helper(rule) else rule


def _names(alternatives: Iterable[Alternative]) -> list[str]:
    return sorted(frozenset[str]().union(*(a.weight.names for a in alternatives)))


def _meet(choice: Choice, names: Iterable[str]) -> _Met:
    values: dict[str, int | float] = {}
    for name in () if is_helper(choice.rule) else names:
        value = choice.context[name]
        if not isinstance(value, tuple):
            values[name] = int(value) if isinstance(value, bool) else value
    indices = [alternative.index for alternative in choice.alternatives]
    return _Met(values, Tally(dict(zip(indices, choice.probabilities, strict=True))))


def _multiplied(choice: Choice, factors: Mapping[int, float]) -> tuple[float, ...]:
    weights = [
        p * factors.get(alternative.index, 1.0)
        for alternative, p in zip(choice.alternatives, choice.probabilities, strict=True)
    ]
    total = math.fsum(weights)
    return tuple([weight / total for weight in weights])


def _split(
    met: Sequence[_Met],
    factors: Mapping[int, float],
    bounds: tuple[Bound, ...],
    strength: float,
    floor: float,
) -> Iterator[Cell]:
    """One cell, or those on both sides of the bound that explains most, if that is worth it.

    It is worth it by Schwarz's criterion: half the logarithm of the number of decisions for each
    factor more. On either side the factors are drawn to those of both together.
    """
    tallies = [each.tally for each in met]
    best = None
    if len(bounds) < LEVELS:
        count = math.fsum(tally.count for tally in tallies)
        before = math.fsum(tally.log_likelihood(factors) for tally in tallies)
        chosen = {i for tally in tallies for i in tally.chosen}
        most = (len(chosen) - 1) / 2 * math.log(max(count, 1.0))
        for bound in _candidates(met):
            sides = [
                [each for each in met if bound.holds(each.context) is side]
                for side in (True, False)
            ]
            after = [_refined(side, factors, strength) for side in sides]
            gain = _log_likelihood(sides[0], after[0]) + _log_likelihood(sides[1], after[1])
            if gain - before > most and min(map(_count, sides)) >= LEAST:
                best, most = (bound, sides, after), gain - before
    if best is None:
        yield Cell(bounds, floored(dict(factors), tallies, floor))
        return
    bound, sides, after = best
    for side, refined, above in zip(sides, after, (False, True), strict=True):
        here = Bound(bound.name, bound.value, above)
        yield from _split(side, refined, (*bounds, here), strength, floor)


def _candidates(met: Sequence[_Met]) -> Iterator[Bound]:
    for name in met[0].context:
        values = sorted({each.context[name] for each in met})[:-1]
        for value in values[:: math.ceil(len(values) / BOUNDS) or 1]:
            yield Bound(name, value)


def _refined(
    met: Sequence[_Met], factors: Mapping[int, float], strength: float
) -> dict[int, float]:
    """Factors of some of the decisions that factors were fit to, drawn to these."""
    more = fit([each.tally.multiplied(factors) for each in met], strength)
    return {i: factors.get(i, 1.0) * factor for i, factor in more.items()}


def _log_likelihood(met: Sequence[_Met], factors: Mapping[int, float]) -> float:
    return math.fsum(each.tally.log_likelihood(factors) for each in met)


def _count(met: Sequence[_Met]) -> float:
    return math.fsum(each.tally.count for each in met)
