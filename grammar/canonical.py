"""One text for all derivations that are the same architecture written differently.

What is the same is what the space says by its pragmas: the blocks of a `commutative` alternative
may stand in any order, an `associative` one nested in itself is one flat sequence, and an
`identity` in a sequence does nothing. Only what is written counts: names of rules, helper rules and
the files that they stand in leave no trace.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from nas.grammar.derivation import Derivation, Node
from nas.grammar.reach import is_helper
from nas.grammar.rules import Alternative, Literal
from nas.grammar.spelling import join


@dataclass(frozen=True, slots=True)
class _Form:
    """A part in canonical form.

    Args:
        text: What is written.
        block: Whether it is a block; otherwise a parameter: a single token that is kept.
        identity: Whether it computes nothing.
        sequence: If it is a flat sequence: what is written before, between and after its operands.
        operands: Those.
    """

    text: str
    block: bool = True
    identity: bool = False
    sequence: tuple[str, str, str] | None = None
    operands: tuple["_Form", ...] = ()


_Token = str | _Form


def canonical_text(derivation: Derivation) -> str:
    """The text of an architecture with everything that does not matter put in order.

    Blocks of `commutative` alternatives are sorted; `associative` alternatives nested in themselves
    are flattened, and those that are not commutative too (a composition, not a sum) lose their
    `identity` blocks. The text serves to compare: it need not be one of the space's language.

    Args:
        derivation: An architecture.
    """
    made: list[tuple[_Token, ...]] = []  # of finished nodes, the leftmost on top
    for node in reversed(list(derivation.root)):
        tokens: list[_Token] = []
        for symbol in node.alternative.symbols:
            if isinstance(symbol, Literal):
                tokens.append(", " if symbol.text == "," else symbol.text)
            else:
                tokens += made.pop()
        made.append(_formed(node, tokens))
    return _text(made.pop())


def canonical_hash(derivation: Derivation) -> str:
    """SHA-256 of the canonical text, in hexadecimal: equal in every process and version of Python.

    Args:
        derivation: An architecture.
    """
    return hashlib.sha256(canonical_text(derivation).encode()).hexdigest()


def _formed(node: Node, tokens: list[_Token]) -> tuple[_Token, ...]:
    """What a node adds to the tokens of its parent."""
    alternative = node.alternative
    if alternative.commutative or alternative.associative:
        return (_arranged(alternative, tokens),)
    if alternative.name is None and not alternative.identity:
        forms = [token for token in tokens if isinstance(token, _Form)]
        brackets = len(forms) == 1 and forms[0].block and not is_helper(alternative.rule)
        return (forms[0],) if brackets else tuple(tokens)
    if _is_parameter(alternative):
        return (_Form(_text(tokens), block=False),)
    return (_Form(_closed(tokens), identity=alternative.identity),)


def _closed(tokens: Sequence[_Token]) -> str:
    """The text of a block, in braces if it would run into what stands beside it (`a + b`)."""
    text = _text(tokens)
    is_open = len(tokens) > 1 and not (isinstance(tokens[0], str) and isinstance(tokens[-1], str))
    return "{" + text + "}" if is_open else text


def _is_parameter(alternative: Alternative) -> bool:
    return (
        not alternative.references
        and sum(isinstance(symbol, Literal) and symbol.kept for symbol in alternative.symbols) == 1
    )


def _text(tokens: Sequence[_Token]) -> str:
    return join(token if isinstance(token, str) else token.text for token in tokens)


def _arranged(alternative: Alternative, tokens: list[_Token]) -> _Form:
    """A commutative or associative alternative, its blocks in order."""
    places = [i for i, token in enumerate(tokens) if isinstance(token, _Form) and token.block]
    blocks = [token for token in tokens if isinstance(token, _Form) and token.block]
    if not alternative.associative or not places:
        ordered = sorted(blocks, key=lambda form: form.text)
        for place, form in zip(places, ordered, strict=True):
            tokens[place] = form
        return _Form(_closed(tokens), identity=alternative.identity)
    between = _text(tokens[places[0] + 1 : places[1]]) if len(places) > 1 else ", "
    sequence = (_text(tokens[: places[0]]), between, _text(tokens[places[-1] + 1 :]))
    operands: list[_Form] = []
    for form in blocks:
        operands += form.operands if form.sequence == sequence else (form,)
    if alternative.commutative:
        operands.sort(key=lambda form: form.text)
    else:
        operands = [f for f in operands if not f.identity] or operands[:1]
    if len(operands) == 1:
        return operands[0]
    spread: list[_Token] = [sequence[0]] if sequence[0] else []
    for i, form in enumerate(operands):
        spread += (sequence[1], form) if i else (form,)
    if sequence[2]:
        spread.append(sequence[2])
    return _Form(_closed(spread), sequence=sequence, operands=tuple(operands))
