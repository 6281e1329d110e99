"""Which alternatives of `?rules` Lark would inline: those that have one child.

The children of an alternative are what Lark keeps below it: its terms, its kept words, and the
children of the inlined rules in it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from nas.grammar.drafts import REPEAT, Draft, Part, Place, fixed, times, without_numbers
from nas.grammar.errors import SpaceError
from nas.grammar.repetition import cases
from nas.grammar.rules import Alternative, Reference
from nas.grammar.syntax_tree import Item

MAX_CASES = 64  # of an alternative of a `?rule`

Drafts = Mapping[str, Sequence[Draft]]
Counts = Mapping[str, frozenset[int]]


def settle(drafts: Drafts, reduce: Callable[[Sequence[Item], Place], list[Part]]) -> Drafts:
    """Take the name from every alternative that is inlined.

    `block ("," block)*` has one child or more. It becomes two alternatives, the first inlined, with
    its weight shared as `repeat` says.

    Args:
        drafts: All rules, a live view: `reduce` adds helper rules to it.
        reduce: Reduces the items of a case.

    Returns:
        The rules as they are now.

    Raises:
        SpaceError: It depends on more than its own repetitions whether there is one child.
    """
    counts = _child_counts(drafts)
    settled = {
        name: [found for draft in alternatives for found in _settle(draft, counts, drafts, reduce)]
        for name, alternatives in list(drafts.items())
    }
    return {**drafts, **settled}


def _settle(
    draft: Draft,
    counts: Counts,
    drafts: Drafts,
    reduce: Callable[[Sequence[Item], Place], list[Part]],
) -> list[Draft]:
    found = _children(draft.alternative, counts)
    if not draft.inlines_one or 1 not in found:
        return [draft]
    if found == {1}:
        return [_nameless(draft)]
    alternative, place = draft.alternative, draft.place
    repeat = place.repeat or fixed(REPEAT, alternative.location)
    variants = list(islice(cases(draft.option.items, str(repeat)), MAX_CASES + 1))
    # `repeat` sees the lets where it is a helper rule's weight, but not as an alternative's.
    hidden = repeat.names & {name for name, _ in alternative.lets}
    made: list[Draft] = []
    for items, odds in [] if hidden or len(variants) > MAX_CASES else variants:
        symbols = without_numbers(reduce(items, place), alternative.location)
        weight = times(alternative.weight, odds)
        case = replace(alternative, symbols=symbols, weight=weight)
        made.append(Draft(case, draft.option, place))
    counts = _child_counts(drafts)
    children = [_children(case.alternative, counts) for case in made]
    if not made or any(1 in found and found != {1} for found in children):
        message = (
            f"whether `?{alternative.name}` has one child is not plain here: write it without `?`"
        )
        raise SpaceError(message, alternative.location)
    return [
        _nameless(case) if found == {1} else case
        for case, found in zip(made, children, strict=True)
    ]


def _nameless(draft: Draft) -> Draft:
    return Draft(replace(draft.alternative, name=None), draft.option, draft.place)


def _child_counts(drafts: Drafts) -> Counts:
    """How many children each rule can give its parent: 0, 1, or 2 for more."""
    counts: dict[str, frozenset[int]] = dict.fromkeys(drafts, frozenset())
    changed = True
    while changed:
        changed = False
        for name, alternatives in drafts.items():
            found = set(counts[name])
            for draft in alternatives:
                one = draft.inlines_one or draft.alternative.name is not None
                found |= {1} if one else _children(draft.alternative, counts)
            changed |= found != counts[name]
            counts[name] = frozenset(found)
    return counts


def _children(alternative: Alternative, counts: Counts) -> frozenset[int]:
    totals = {0}
    for symbol in alternative.symbols:
        if isinstance(symbol, Reference):
            each: Iterable[int] = counts[symbol.rule]
        else:
            each = (int(symbol.kept),)
        totals = {min(total + more, 2) for total in totals for more in each}
    return frozenset(totals)
