"""From a study's trials to a grammar in which good architectures are more likely."""

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nas.errors import NasError
from nas.grammar.decisions import Choice
from nas.grammar.edit import draw, places
from nas.grammar.learning import Example, Factors, learn
from nas.grammar.rules import Grammar
from nas.grammar.sharpening import sharpened
from nas.grammar.space import Space
from nas.search.base import Archive, Observation
from nas.search.best import best_architectures, rank_weights

STRENGTHS = (10.0, 30.0, 100.0, 300.0, 1000.0)
"""Of which the one is taken by which architectures that were left out are most likely."""

FOLDS = 5
"""Parts that the good architectures are left out in, one part at a time."""

FEWEST = 10
"""Good architectures, at least."""

WALKS = 200
"""Samples for entropy and size."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a grammar's probabilities are like.

    Args:
        held_out: Mean log-probability of good architectures that were not learned from.
        entropy: Of the decisions of an architecture, in nats.
        nodes: Of an architecture, on average.
    """

    held_out: float
    entropy: float
    nodes: float


@dataclass(frozen=True, slots=True)
class Sharpened:
    """A grammar learned from trials.

    Args:
        grammar: The same rules, with other weights.
        strength: See `nas.grammar.learning.learn`.
        known: Architectures that have a score.
        good: Those learned from.
        before: Figures of the space.
        after: Figures of what was learned.
    """

    grammar: Grammar
    strength: float
    known: int
    good: int
    before: Figures
    after: Figures


def sharpen(
    space: Space,
    history: Sequence[Observation],
    *,
    share: float,
    strength: float | None,
    floor: float,
) -> Sharpened:
    """Learn a grammar's weights from the best architectures of a history.

    Args:
        space: The space of the trials, with their context and caps.
        history: The trials.
        share: Of the architectures, the best of which are learned from.
        strength: See `learn`; None: the best of `STRENGTHS`.
        floor: See `learn`.

    Raises:
        NasError: There are too few trials.
    """
    archive = Archive(space)
    known = best_architectures(history, archive, 1.0)
    good = best_architectures(history, archive, share)
    if len(good) < FEWEST:
        need = math.ceil(FEWEST / share)
        raise NasError(
            f"{len(known)} architectures have a score, too few to learn from: "
            f"{need} are needed with --share {share:g}"
        )
    examples: list[Example] = []
    for trial, weight in zip(good, rank_weights(len(good)), strict=True):
        derivation = archive.derivation(trial.text)
        assert derivation is not None
        examples.append((tuple(places(space, derivation)), weight))
    # Trials that lie together are relatives: whole stretches are left out.
    order = sorted(range(len(good)), key=lambda i: good[i].number)
    parts = [order[len(order) * k // FOLDS : len(order) * (k + 1) // FOLDS] for k in range(FOLDS)]

    def held_out(strength: float) -> float:
        found = []
        for part in parts:
            rest = [example for i, example in enumerate(examples) if i not in part]
            factors = learn(space.grammar, rest, strength=strength, floor=floor)
            found += [factors.log_probability(examples[i][0]) for i in part]
        return statistics.fmean(found)

    if strength is None:
        strength = max(STRENGTHS, key=held_out)
    factors = learn(space.grammar, examples, strength=strength, floor=floor)
    present = Factors({}, {})
    told = statistics.fmean(present.log_probability(decided) for decided, _ in examples)
    return Sharpened(
        sharpened(space.grammar, factors),
        strength,
        len(known),
        len(good),
        Figures(told, *_walks(space, present.probabilities)),
        Figures(held_out(strength), *_walks(space, factors.probabilities)),
    )


def _walks(space: Space, probabilities: Callable[[Choice], Sequence[float]]) -> tuple[float, float]:
    """Entropy and nodes of derivations whose decisions are drawn by some probabilities."""
    rng = random.Random("walks")
    entropies, sizes = [], []
    for _ in range(WALKS):
        decisions = space.decide()
        entropy = 0.0
        while (choice := decisions.current) is not None:
            chances = probabilities(choice)
            entropy -= math.fsum(p * math.log(p) for p in chances)
            decisions.choose(draw(chances, rng))
        entropies.append(entropy)
        sizes.append(decisions.derivation.size)
    return statistics.fmean(entropies), statistics.fmean(sizes)
