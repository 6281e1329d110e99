"""How the literals of a derivation are written one after the other.

A comma is followed by a space, and two words that would run together are kept apart; nothing else
is added. `Space.parse` skips white space, so every text reads back as the derivation it came from.
"""

from collections.abc import Iterable, Iterator, Sequence

from nas.grammar.rules import Alternative, Grammar, Literal


def fragments(alternative: Alternative) -> tuple[str, ...]:
    """The text before, between and after the non-terminals of an alternative."""
    found: list[list[str]] = [[]]
    for symbol in alternative.symbols:
        if isinstance(symbol, Literal):
            found[-1].append(", " if symbol.text == "," else symbol.text)
        else:
            found.append([])
    return tuple(map(join, found))


def join(parts: Iterable[str]) -> str:
    """The parts as one text, with a space where two words meet."""
    written: list[str] = []
    last = ""
    for part in parts:
        if part:
            if last and _is_word(last) and _is_word(part[0]):
                written.append(" ")
            written.append(part)
            last = part[-1]
    return "".join(written)


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def words_can_meet(grammar: Grammar) -> bool:
    """Whether a derivation of the grammar can put two words side by side.

    Where it cannot, `"".join` writes what `join` writes.
    """
    empty: set[str] = set()  # rules that can be written as nothing
    first: set[str] = set()  # rules that can begin with a word's character
    last: set[str] = set()  # rules that can end with one
    pieces = [
        (rule, _pieces(a)) for rule, alternatives in grammar.rules.items() for a in alternatives
    ]
    before = -1
    while before != len(empty) + len(first) + len(last):
        before = len(empty) + len(first) + len(last)
        for rule, sequence in pieces:
            if all(_can_be_empty(piece, empty) for piece in sequence):
                empty.add(rule)
            if any(_borders(piece, first, 0) for piece in _reached(sequence, empty)):
                first.add(rule)
            if any(_borders(piece, last, -1) for piece in _reached(sequence[::-1], empty)):
                last.add(rule)
    return any(
        _borders(piece, last, -1)
        and any(_borders(other, first, 0) for other in _reached(sequence[i + 1 :], empty))
        for _, sequence in pieces
        for i, piece in enumerate(sequence)
    )


_Piece = tuple[str, bool]  # a fragment (False) or the name of a rule (True)


def _pieces(alternative: Alternative) -> list[_Piece]:
    texts = fragments(alternative)
    sequence: list[_Piece] = [(texts[0], False)]
    for rule, text in zip(alternative.references, texts[1:], strict=True):
        sequence += [(rule, True), (text, False)]
    return [piece for piece in sequence if piece[0]]


def _can_be_empty(piece: _Piece, empty: set[str]) -> bool:
    return piece[1] and piece[0] in empty


def _borders(piece: _Piece, rules: set[str], end: int) -> bool:
    text, is_rule = piece
    return text in rules if is_rule else _is_word(text[end])


def _reached(sequence: Sequence[_Piece], empty: set[str]) -> Iterator[_Piece]:
    """The pieces that can come first: up to the first that cannot be empty."""
    for piece in sequence:
        yield piece
        if not _can_be_empty(piece, empty):
            return
