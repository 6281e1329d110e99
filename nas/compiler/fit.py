"""Does a space speak of layers that there are? Every alternative is tried once, before a search."""

from collections.abc import Iterator
from random import Random

import torch

from nas.compiler.architecture import Architecture
from nas.compiler.build import build
from nas.compiler.costs import PrimitiveCosts, shape_of
from nas.compiler.terms import ROOT, read_term
from nas.errors import UsageError
from nas.grammar.derivation import Derivation, Node, Term
from nas.grammar.edit import HOLE, complete, places, replaced
from nas.grammar.errors import Location, SpaceError
from nas.grammar.rules import Alternative
from nas.grammar.space import Space
from nas.layers.base import PRIMITIVES

SAMPLES = 8
"""Derivations drawn before those that are made to use what these did not."""

LENGTH = 64
"""Most tokens that are sent through what was built."""

MANY = 64
"""Of a rule with more alternatives (the numbers of a wide range), the first and last so many."""


def refuse_misfits(space: Space, seed: int = 0) -> None:
    """Lay out, build and run, without memory, derivations that use every alternative of a space.

    Args:
        space: In the context of its study; caps are not needed.
        seed: Of the derivations.

    Raises:
        SpaceError: An alternative names a layer that there is not, gives it other parameters or
            blocks than it takes, or says by `let` that its blocks see what they do not see.
    """
    context = dict(space.context.items())
    shape = shape_of(context)
    priced = space.under(costs=PrimitiveCosts(("parameters", "flops")))
    for derivation, tried in covering(priced, Random(seed)):
        _refuse_unknown(derivation)
        try:
            architecture = Architecture.from_term(derivation.term, shape)
            with torch.device("meta"):
                body = build(derivation.term, shape)
                body(torch.empty(1, min(shape.length, LENGTH), shape.width))
            found = sum(parameter.numel() for parameter in body.parameters())
            expected = priced.cost(derivation)
        except (ValueError, TypeError, UsageError) as error:
            raise SpaceError(f"{derivation.text} cannot be built: {error}", tried) from error
        if (found, architecture.flops) != (expected["parameters"], expected["flops"]):
            raise SpaceError(
                f"{derivation.text} has {found} parameters and {architecture.flops} FLOPs, and "
                f"{expected['parameters']:.0f} and {expected['flops']:.0f} by the contexts of its "
                "rules: a `let` does not say what the layer's blocks see",
                tried,
            )


def covering(space: Space, rng: Random) -> Iterator[tuple[Derivation, Location | None]]:
    """Derivations that together use every alternative that can be used.

    Args:
        space: The space.
        rng: Source of chance.

    Yields:
        A derivation, and where the alternative stands for whose sake it was made (None: drawn).
    """
    used: set[Alternative] = set()
    waiting: list[Derivation] = []
    for _ in range(SAMPLES):
        waiting.append(space.sample(rng))
        yield waiting[-1], None
    while waiting:
        derivation = waiting.pop()
        used.update(node.alternative for node in derivation.root)
        for place in places(space, derivation):
            offered = place.choice.alternatives
            for alternative in dict.fromkeys((*offered[:MANY], *offered[-MANY:])):
                if alternative in used:
                    continue
                holes = (HOLE,) * len(alternative.references)
                sketch = replaced(derivation.root, place.choice.path, Node(alternative, holes))
                made, _ = complete(space, sketch, rng)
                used.update(node.alternative for node in made.root)
                waiting.append(made)
                yield made, alternative.location


def _refuse_unknown(derivation: Derivation) -> None:
    """Read every layer's term by itself, to name the line that it stands in."""
    located: dict[str, Location] = {}
    for node in derivation.root:
        if node.alternative.name is not None:
            located.setdefault(node.alternative.name, node.alternative.location)
    for term in _layers(derivation.term):
        try:
            read_term(term)
        except UsageError as error:
            hint = ""
            if len(term.arguments) == 1 and isinstance(term.arguments[0], Term):
                hint = f" (or `?{term.name}`, if the rule only stands for its part)"
            raise SpaceError(f"{error}{hint}", located.get(term.name)) from error


def _layers(term: Term) -> Iterator[Term]:
    """The terms that must be layers, the inner ones first: all but the parameters of layers."""
    for argument in term.arguments:
        if isinstance(argument, Term) and not _is_parameter(term, argument):
            yield from _layers(argument)
            yield argument


def _is_parameter(term: Term, argument: Term) -> bool:
    values = [value for value in argument.arguments if isinstance(value, str)]
    return term.name != ROOT and argument.name not in PRIMITIVES and len(values) == 1
