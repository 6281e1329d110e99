"""Does a space speak of layers that there are? Every alternative is tried once, before a search."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

import torch

from nas.compiler.architecture import Architecture
from nas.compiler.build import build, build_on_meta
from nas.compiler.costs import PrimitiveCosts, shape_of
from nas.compiler.terms import ROOT, body_of, read_term
from nas.errors import UsageError
from nas.grammar.derivation import Derivation, Node, Term
from nas.grammar.edit import HOLE, complete, places, replaced
from nas.grammar.errors import Location, SpaceError
from nas.grammar.rules import Alternative
from nas.grammar.space import Space
from nas.layers.base import PRIMITIVES, Shape

SAMPLES = 8
"""Derivations drawn before those that are made to use what these did not."""

LENGTH = 64
"""Most tokens that are sent through a layer that takes any number."""

SMALL = 1 << 17
"""Most parameters, and numbers in its input, of a layer that is tried out on numbers."""

MANY = 64
"""Of a rule with more alternatives (the numbers of a wide range), the first and last so many."""


def refuse_misfits(space: Space, seed: int = 0) -> None:
    """Try out derivations that use every alternative of a space.

    All are laid out and priced. Every layer in them, with its parameters and the shape it works at,
    is built and run once, where the fewest blocks are in it: a large one without memory.

    Args:
        space: In the context of its study; caps are not needed.
        seed: Of the derivations.

    Raises:
        SpaceError: An alternative names a layer that there is not, gives it other parameters or
            blocks than it takes, or says by `let` that its blocks see what they do not see.
    """
    shape = shape_of(dict(space.context.items()))
    priced = space.under(costs=PrimitiveCosts(("parameters", "flops")))
    smallest: dict[tuple[object, bool], _Layer] = {}
    for derivation, tried in covering(priced, Random(seed)):
        _refuse_unknown(derivation)
        try:
            architecture = Architecture.from_term(derivation.term, shape)
            *inner, body = _uses(body_of(derivation.term), shape)
            for layer in (*inner, replace(body, whole=True)):
                known = smallest.get((layer.key, layer.whole))
                if known is None or layer.size < known.size:
                    found = replace(layer, within=derivation.text, tried=tried)
                    smallest[layer.key, layer.whole] = found
            expected = priced.cost(derivation)
        except (ValueError, TypeError, UsageError) as error:
            raise SpaceError(f"{derivation.text} cannot be built: {error}", tried) from error
        if (architecture.parameters, architecture.flops) != (
            expected["parameters"],
            expected["flops"],
        ):
            raise SpaceError(
                f"{derivation.text} has {architecture.parameters} parameters and "
                f"{architecture.flops} FLOPs, and {expected['parameters']:.0f} and "
                f"{expected['flops']:.0f} by the contexts of its rules: a `let` does not say what "
                "the layer's blocks see",
                tried,
            )
    # In chains of shapes a length becomes a width, and layers are for their lengths alone.
    short = not any(layer.leads for layer in smallest.values())
    with torch.random.fork_rng(devices=[]):
        for layer in smallest.values():
            _try_out(layer, min(layer.shape.length, LENGTH) if short else layer.shape.length)


@dataclass(frozen=True)
class _Layer:
    """A layer where it stands: its term, blocks included, and the shape it works at."""

    key: object
    term: Term
    shape: Shape
    size: int
    leads: bool
    whole: bool = False
    within: str = ""
    tried: Location | None = None


def _uses(term: Term, shape: Shape) -> Iterator[_Layer]:
    """Every layer of a body; its key tells all but what is in its blocks."""
    primitive, blocks, arguments = read_term(term)
    inner = primitive.block_shapes(shape, len(blocks), **arguments)
    size, leads = 1, primitive.leads
    for block, seen in zip(blocks, inner, strict=True):
        below = list(_uses(block, seen))
        size += below[-1].size
        leads |= below[-1].leads
        yield from below
    key = (term.name, tuple(sorted(arguments.items())), inner, shape)
    yield _Layer(key, term, shape, size, leads)


def _try_out(layer: _Layer, length: int) -> None:
    """Build one and send so many tokens through it."""
    shape = layer.shape
    declared = Architecture.from_term(layer.term, shape).parameters
    # The meta device needs no memory, but several times longer than a small layer for real.
    small = shape.length * shape.width <= SMALL and declared <= SMALL
    try:
        with torch.device("cpu" if small else "meta"), torch.no_grad():
            body = (build if small else build_on_meta)(layer.term, shape)
            x = torch.zeros(1, length, shape.width)
            y = body(x)
    except (ValueError, TypeError, RuntimeError, UsageError) as error:
        raise SpaceError(f"{layer.within} cannot be built: {error}", layer.tried) from error
    found = sum(parameter.numel() for parameter in body.parameters())
    if found != declared or (layer.whole and y.shape != x.shape):
        raise SpaceError(
            f"{layer.term} has {found} parameters and makes {list(y.shape)} of {list(x.shape)}; "
            f"it declares {declared} parameters, and a body keeps the shape",
            layer.tried,
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
                made, _ = complete(space, sketch, rng, flat=True)
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
