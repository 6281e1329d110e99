"""What a derivation costs, added up from its terms."""

from nas.grammar.completion import Arguments, CostModel
from nas.grammar.context import Context, Contexts
from nas.grammar.derivation import Node, Term
from nas.grammar.errors import SpaceError
from nas.grammar.rules import Literal


def derivation_cost(root: Node, contexts: Contexts, model: CostModel) -> dict[str, float]:
    """The cost of a derivation in the context of its space.

    Args:
        root: Its root.
        contexts: The space's contexts.
        model: What a term costs.

    Returns:
        For every measure of the model, the total.

    Raises:
        SpaceError: A term cannot be built in its context.
    """
    order: list[tuple[Node, Context]] = []
    stack = [(root, contexts.root)]
    while stack:
        node, context = stack.pop()
        order.append((node, context))
        below = contexts.below(node.alternative, context)
        stack += [(child, below) for child in reversed(node.children)]
    done: list[tuple[Arguments, tuple[float, ...]]] = []  # the leftmost on top
    for node, context in reversed(order):
        inside = (0.0,) * len(model.measures)
        arguments: list[Term | str | None] = []
        for symbol in node.alternative.symbols:
            if isinstance(symbol, Literal):
                if symbol.kept:
                    arguments.append(symbol.text)
            else:
                contribution, cost = done.pop()
                arguments += contribution
                inside = tuple(a + b for a, b in zip(inside, cost, strict=True))
        done.append(_cost_of(node, tuple(arguments), inside, context, model))
    (_, total) = done.pop()
    return dict(zip(model.measures, total, strict=True))


def _cost_of(
    node: Node,
    arguments: Arguments,
    inside: tuple[float, ...],
    context: Context,
    model: CostModel,
) -> tuple[Arguments, tuple[float, ...]]:
    """What a node adds to the arguments of the term it stands in, and what it costs."""
    name = node.alternative.name
    if name is None:
        return arguments, inside
    try:
        found = model.cost(name, arguments, context.given)
    except ValueError as error:
        raise SpaceError(f"no cost for `{name}` where {context.given}: {error}") from error
    if found is not None:
        own, scale = found
        return (None,), tuple(o + s * i for o, s, i in zip(own, scale, inside, strict=True))
    if None in arguments:
        return (None,), inside
    return (Term(name, arguments),), inside  # type: ignore[arg-type]
