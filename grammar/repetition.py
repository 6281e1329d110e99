"""Groups and repetitions as they are written: what they hold, how far they multiply."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product

from nas.grammar.syntax_tree import Group, Item, Repeat

MAX_REPEAT = 64  # of `x ~ n..m`
MAX_VARIANTS = 1_000  # of a rule, once Lark has multiplied its groups out


def repetitions(items: Iterable[Item]) -> Iterator[Item]:
    """All `x*`, `x+`, `x?` and `[x]`, also those inside others."""
    for item in items:
        if isinstance(item, Repeat):
            if item.operator != "~":
                yield item
            yield from repetitions([item.item])
        elif isinstance(item, Group):
            if item.optional:
                yield item
            for option in item.options:
                yield from repetitions(option.items)


def variants(items: Iterable[Item]) -> int:
    """How many alternatives Lark makes of one; at most `MAX_VARIANTS + 1` is told."""
    total = 1
    for item in items:
        total = min(total * _item_variants(item), MAX_VARIANTS + 1)
    return total


def _item_variants(item: Item) -> int:
    if isinstance(item, Group):
        inner = sum(variants(option.items) for option in item.options)
        return inner + item.optional
    if isinstance(item, Repeat):
        inner = _item_variants(item.item)
        if item.operator == "~":
            counts = range(max(item.low, 0), min(item.high, MAX_REPEAT) + 1)
            return sum(min(inner**count, MAX_VARIANTS + 1) for count in counts) or 1
        return {"?": inner + 1, "*": 2, "+": 1}[item.operator]
    return 1


def cases(items: Sequence[Item], p: str) -> Iterator[tuple[list[Item], str | None]]:
    """An alternative once for each way its outermost repetitions can be absent, one, or more.

    Args:
        items: What the alternative is made of.
        p: The probability of going on, as an expression.

    Yields:
        What the case is made of, and its probability as an expression, None for certainty.
    """
    choices: list[list[tuple[list[Item], str | None]]] = []
    for item in items:
        if isinstance(item, Repeat) and item.operator in "?*":
            more = item.item if item.operator == "?" else replace(item, operator="+")
            choices.append([([], f"1 - ({p})"), ([more], p)])
        elif isinstance(item, Repeat) and item.operator == "+":
            choices.append([([item.item], f"1 - ({p})"), ([item.item, item], p)])
        else:
            choices.append([([item], None)])
    for case in product(*choices):
        odds = [f"({factor})" for _, factor in case if factor is not None]
        yield [item for part, _ in case for item in part], " * ".join(odds) or None
