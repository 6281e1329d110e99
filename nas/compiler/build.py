"""From a term to the module of its body."""

from nas.compiler.terms import body_of, read_term
from nas.grammar.derivation import Term
from nas.layers.base import Primitive, Shape


def build(term: Term, shape: Shape) -> Primitive:
    """Builds the body of an architecture.

    Weights are drawn from torch's global generator, on torch's default device: inside
    `with torch.device("meta")` nothing is allocated.

    Args:
        term: The architecture, or a block of one.
        shape: The length L and width D it is built for, and whether it is causal.

    Returns:
        A module that maps `[B, L, D]` to `[B, L, D]`.

    Raises:
        UsageError: A term names no layer.
        ValueError: A layer's parameters do not fit its shape.
    """
    return _build(body_of(term), shape)


def _build(term: Term, shape: Shape) -> Primitive:
    primitive, terms, arguments = read_term(term)
    inner = primitive.block_shape(shape, **arguments)
    copies = primitive.copies(**arguments)
    blocks = [_build(block, inner) for block in terms for _ in range(copies)]
    return primitive(shape, *blocks, **arguments)
