"""A text has one reading: no conflict in the rules, no words that run together.

The rules, and the file as Lark reads it, are both tested with Lark's own LALR(1) analysis, counting
as an error what Lark resolves by itself (it prefers to read on).
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, product

from lark import Lark
from lark.common import ParserConf
from lark.grammar import NonTerminal, Rule, Terminal
from lark.lexer import PatternStr, TerminalDef
from lark.parsers.lalr_analysis import LALR_Analyzer

from nas.grammar.errors import Location, SpaceError
from nas.grammar.rules import Alternative, Literal, Symbol

Rules = Mapping[str, tuple[Alternative, ...]]


def check_rules(rules: Rules, start: str) -> None:
    """Refuse rules by which one text could be read in two ways.

    Raises:
        SpaceError: With one word to look ahead, it is not plain which alternative applies.
    """
    owners: dict[Rule, Location] = {}
    for name, alternatives in rules.items():
        for alternative in alternatives:
            symbols = [
                Terminal(f"`{s.text}`") if isinstance(s, Literal) else NonTerminal(s.rule)
                for s in alternative.symbols
            ]
            rule = Rule(NonTerminal(name), symbols, alternative.index)
            if rule in owners:
                message = f"the same words as the alternative at {owners[rule]}: drop one of them"
                raise SpaceError(message, alternative.location)
            owners[rule] = alternative.location
    _analysed(list(owners), start, lambda rule: owners[rule])


def check_lark(lark: Lark, start: str, locate: Callable[[str], Location]) -> None:
    """Refuse a file that Lark loads but could not read all of its own texts by.

    Args:
        lark: The space file as Lark loaded it.
        start: Its start rule.
        locate: Where a rule stands, by Lark's name for it.

    Raises:
        SpaceError: Lark would have to choose, or could not tell two terminals apart.
    """
    analyzer = _analysed(lark.rules, start, lambda rule: locate(rule.origin.name))
    terminals = {terminal.name: terminal for terminal in lark.terminals}
    for itemset in analyzer.lr0_itemsets:
        names = {s.name for s in (*itemset.transitions, *itemset.lookaheads) if s.is_term}
        there = [terminals[name] for name in sorted(names) if name in terminals]
        for one, other in combinations(there, 2):
            if _look_alike(one, other):
                rule = min(item.rule.origin.name for item in itemset.closure)
                message = (
                    f"{_shown(one)} and {_shown(other)} may stand at the same place, where Lark "
                    "takes one for the other: use one of them only, or other words"
                )
                raise SpaceError(message, locate(rule))


def check_words(rules: Rules, comments: Iterable[str]) -> None:
    """Refuse words that would run together when a text is written, or begin a comment.

    Args:
        rules: The rules.
        comments: What begins a comment.

    Raises:
        SpaceError: Some text would not be read as the words it was written from.
    """
    starts = tuple(comments)
    words = {
        symbol.text: alternative.location
        for alternatives in rules.values()
        for alternative in alternatives
        for symbol in alternative.symbols
        if isinstance(symbol, Literal)
    }
    for word, location in words.items():
        for comment in starts:
            if word.startswith(comment):
                message = f"`{word}` begins a comment: ignore other comments, or use another word"
                raise SpaceError(message, location)
    longer = _longer({*words, *starts})
    edges = _Edges(rules)
    for alternatives in rules.values():
        for alternative in alternatives:
            for last, first in edges.meetings(alternative, longer):
                for word in longer[last]:
                    rest = word[len(last) :]
                    if rest.startswith(first) or first.startswith(rest):
                        message = (
                            f"`{last}` followed by `{first}` would be read as `{word}`: "
                            "use other signs, or brackets between the parts"
                        )
                        raise SpaceError(message, alternative.location)


def _longer(words: Iterable[str]) -> dict[str, list[str]]:
    """For each word, those that begin with it and could be read in its place.

    A space is written between what ends and what begins like a word, and after a comma, so that
    `4` before `8` is not read as `48`.
    """
    known = sorted(words)
    found: dict[str, list[str]] = {}
    for word in known:
        for end in range(1, len(word)):
            start = word[:end]
            together = _in_word(start[-1]) and _in_word(word[end])
            if not together and start != ",":
                found.setdefault(start, []).append(word)
    return found


def _analysed(
    rules: Sequence[Rule], start: str, locate: Callable[[Rule], Location]
) -> LALR_Analyzer:
    """Lark's analysis of rules without conflicts."""
    analyzer = LALR_Analyzer(ParserConf(list(rules), {}, [start]))
    analyzer.compute_lr0_states()
    analyzer.compute_reads_relations()
    analyzer.compute_includes_lookback()
    analyzer.compute_lookaheads()
    conflicts = []
    for itemset in analyzer.lr0_itemsets:
        for ahead, ending in itemset.lookaheads.items():
            places = sorted({_key(locate(rule)) for rule in ending})
            word = "the end" if ahead.name == "$END" else ahead.name
            if len(ending) > 1:
                conflicts.append((places[-1], f"before {word}, ", "this alternative fits", places))
            elif ahead in itemset.transitions:
                going_on = {
                    _key(locate(item.rule))
                    for item in itemset.closure
                    if not item.is_satisfied and item.next == ahead
                }
                text = "this alternative may end or go on"
                conflicts.append((places[0], f"before {word}, ", text, sorted(going_on)))
    if conflicts:
        (file, line), before, text, places = min(conflicts)
        others = [f"{f}:{n}" for f, n in places if (f, n) != (file, line)]
        also = f", and so does the one at {others[0]}" if others else ""
        message = (
            f"ambiguous: {before}{text}{also}; a text would have two readings: "
            "use different words, or brackets around the parts"
        )
        raise SpaceError(message, Location(file, line))
    return analyzer


def _key(location: Location) -> tuple[str, int]:
    return location.file, location.line


def _look_alike(one: TerminalDef, other: TerminalDef) -> bool:
    strings = [t.pattern.value for t in (one, other) if isinstance(t.pattern, PatternStr)]
    if len(strings) == 2:
        return strings[0] == strings[1]
    return not strings or strings[0][0].isdigit()  # what is no string stands for a number


def _shown(terminal: TerminalDef) -> str:
    if isinstance(terminal.pattern, PatternStr):
        return f'"{terminal.pattern.value}"'
    return terminal.name


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"


class _Edges:
    """The words that each rule's texts can begin and end with."""

    def __init__(self, rules: Rules) -> None:
        self._empty: set[str] = set()
        self._first: dict[str, set[str]] = {name: set() for name in rules}
        self._last: dict[str, set[str]] = {name: set() for name in rules}
        before = -1
        while before != (before := self._size()):
            for name, alternatives in rules.items():
                for alternative in alternatives:
                    self._add(name, alternative.symbols)

    def _size(self) -> int:
        edges = (*self._first.values(), *self._last.values())
        return len(self._empty) + sum(map(len, edges))

    def _add(self, name: str, symbols: Sequence[Symbol]) -> None:
        if all(self._can_be_empty(symbol) for symbol in symbols):
            self._empty.add(name)
        for symbol in self._reached(symbols):
            self._first[name] |= _edge(symbol, self._first)
        for symbol in self._reached(symbols[::-1]):
            self._last[name] |= _edge(symbol, self._last)

    def _can_be_empty(self, symbol: Symbol) -> bool:
        return not isinstance(symbol, Literal) and symbol.rule in self._empty

    def _reached(self, symbols: Sequence[Symbol]) -> Iterator[Symbol]:
        for symbol in symbols:
            yield symbol
            if not self._can_be_empty(symbol):
                return

    def meetings(
        self, alternative: Alternative, lasts: Container[str]
    ) -> Iterator[tuple[str, str]]:
        """Pairs of words that can meet between two parts of an alternative.

        Args:
            alternative: The alternative.
            lasts: The words that matter as the first of a pair.
        """
        for i, symbol in enumerate(alternative.symbols):
            ends = [word for word in _edge(symbol, self._last) if word in lasts]
            if ends:
                for other in self._reached(alternative.symbols[i + 1 :]):
                    yield from product(sorted(ends), sorted(_edge(other, self._first)))


def _edge(symbol: Symbol, edges: Mapping[str, set[str]]) -> set[str]:
    return {symbol.text} if isinstance(symbol, Literal) else edges[symbol.rule]
