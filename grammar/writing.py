"""A grammar as the text of one space file.

All that the loader has resolved stays resolved: imports, templates and `int A..B` are written out.
Groups and repetitions are written as such again, for they add no depth.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nas.grammar.errors import SpaceError
from nas.grammar.loader import START
from nas.grammar.reach import helper_kind, is_helper
from nas.grammar.rules import Alternative, Grammar, Literal, Reference, Symbol

COLUMN = 60
"""Where the pragmas of a rule stand, at most, unless an alternative is longer."""

WIDTH = 100
"""Characters of a line with several alternatives."""


def written(grammar: Grammar, comments: Sequence[str] = ()) -> str:
    """The text of a space file that has the same architectures with the same probabilities.

    Args:
        grammar: The rules.
        comments: Lines for its head.

    Raises:
        SpaceError: An alternative has an INT beside a repetition, which cannot be told in this way.
    """
    return "\n".join([*(f"// {line}".rstrip() for line in comments), *_Writer(grammar).lines()])


class _Writer:
    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._names = _names(grammar)
        self._kept: dict[str, str] = {}  # words kept in rules that do not keep all: terminals

    def lines(self) -> Iterator[str]:
        """The file, line by line."""
        grammar = self._grammar
        self._refuse_shared()
        yield f"//@ version {grammar.version}"
        if grammar.max_depth is not None:
            yield f"//@ max_depth {grammar.max_depth}"
        yield ""
        ignored = ["WS"] if self._has_slashes() else ["WS", "CPP_COMMENT"]
        yield f"%import common ({', '.join(ignored)})"
        yield from (f"%ignore {name}" for name in ignored)
        for file, rules in self._by_file().items():
            yield from ("", f"// {Path(file).name}")
            for rule in rules:
                yield from self._rule(rule)
        if self._kept:
            yield ""
        yield from (f"{name}: {_quoted(text)}" for text, name in self._kept.items())
        yield ""

    def _refuse_shared(self) -> None:
        """Groups and repetitions that two alternatives share, as those of the numbers of an INT."""
        owners: dict[str, Alternative] = {}
        for rule, alternatives in self._grammar.rules.items():
            for alternative in () if is_helper(rule) else alternatives:
                for helper in self._helpers(alternative):
                    if owners.setdefault(helper, alternative) is not alternative:
                        message = (
                            "INT beside brackets or a repetition cannot be written out: write a "
                            "rule of its own, as in `n: INT  //@ int 1..8`"
                        )
                        raise SpaceError(message, alternative.location)

    def _has_slashes(self) -> bool:
        return any(
            "//" in symbol.text
            for alternatives in self._grammar.rules.values()
            for alternative in alternatives
            for symbol in alternative.symbols
            if isinstance(symbol, Literal)
        )

    def _by_file(self) -> Mapping[str, list[str]]:
        files: dict[str, list[str]] = {}
        for rule, alternatives in self._grammar.rules.items():
            if not is_helper(rule):
                files.setdefault(alternatives[0].location.file, []).append(rule)
        return files

    # Rules

    def _rule(self, rule: str) -> Iterator[str]:
        alternatives = self._grammar.rules[rule]
        name = self._names[rule]
        # What Lark inlines: `_rule` always, `?rule` where there is one child, so a name is written.
        inlines_one = not name.startswith("_") and any(a.name is None for a in alternatives)
        words = list(self._words(alternatives))
        keeps = bool(words) and all(word.kept for word in words)
        head = f"{'!' * keeps}{'?' * inlines_one}{name}:"
        bodies = [self._body(a, keeps, inlines_one) for a in alternatives]
        pragmas = [self._pragma(a) for a in alternatives]
        together = f"{head} {' | '.join(bodies)}"
        if all(pragma == "1" for pragma in pragmas) and len(together) <= WIDTH:
            yield together
            return
        starts = [head, *(" " * (len(head) - 1) + "|" for _ in alternatives[1:])]
        lines = [f"{a} {b}" if b else a for a, b in zip(starts, bodies, strict=True)]
        column = min(COLUMN, max(map(len, lines)) + 2)
        for line, pragma in zip(lines, pragmas, strict=True):
            yield f"{line.ljust(column - 1)} //@ {pragma}"

    def _body(self, alternative: Alternative, keeps: bool, inlines_one: bool) -> str:
        body = self._sequence(alternative.symbols, keeps)
        own = self._names[alternative.rule]
        if alternative.name is None or (alternative.name == own and not inlines_one):
            return body
        return f"{body} -> {alternative.name}".strip()

    def _pragma(self, alternative: Alternative) -> str:
        parts = [str(alternative.weight)]
        if alternative.where is not None:
            parts.append(f"where {alternative.where}")
        if alternative.lets:
            values = ", ".join(f"{name} = {value}" for name, value in alternative.lets)
            parts.append(f"let {values}")
        if (p := self._repeat(alternative)) is not None:
            parts.append(f"repeat {p}")
        flags = ("commutative", "associative", "identity")
        return " ".join([*parts, *(flag for flag in flags if getattr(alternative, flag))])

    def _repeat(self, alternative: Alternative) -> str | None:
        """The probability of going on, which is one for all repetitions of an alternative."""
        for rule in self._helpers(alternative):
            if helper_kind(rule) in ("opt", "star", "plus"):
                return str(self._grammar.rules[rule][1].weight)
        return None

    # What alternatives are made of

    def _helpers(self, alternative: Alternative) -> Iterator[str]:
        """The groups and repetitions of an alternative, those inside others too."""
        seen: set[str] = set()
        waiting = [r for r in alternative.references if is_helper(r)]
        while waiting:
            rule = waiting.pop()
            if rule not in seen:
                seen.add(rule)
                yield rule
                for inner in self._grammar.rules[rule]:
                    waiting += [r for r in inner.references if is_helper(r)]

    def _words(self, alternatives: Sequence[Alternative]) -> Iterator[Literal]:
        for alternative in alternatives:
            inner = [a for r in self._helpers(alternative) for a in self._grammar.rules[r]]
            for each in (alternative, *inner):
                yield from (s for s in each.symbols if isinstance(s, Literal))

    def _sequence(self, symbols: Sequence[Symbol], keeps: bool) -> str:
        return " ".join(self._symbol(symbol, keeps) for symbol in symbols)

    def _symbol(self, symbol: Symbol, keeps: bool) -> str:
        if isinstance(symbol, Reference):
            return self._helper(symbol.rule, keeps) or self._names[symbol.rule]
        if symbol.kept and not keeps:
            return self._kept.setdefault(symbol.text, f"WORD_{len(self._kept)}")
        return _quoted(symbol.text)

    def _helper(self, rule: str, keeps: bool) -> str:
        """A group or a repetition as it is written; "" for other rules."""
        kind = helper_kind(rule)
        bodies = [alternative.symbols for alternative in self._grammar.rules[rule]]
        if kind == "group":
            return f"({' | '.join(self._sequence(body, keeps) for body in bodies)})"
        if kind == "times":
            size = len(bodies[1]) - len(bodies[0])
            counts = f"{len(bodies[0]) // size}..{len(bodies[-1]) // size}"
            return f"({self._sequence(bodies[-1][:size], keeps)}) ~ {counts}"
        if kind == "opt":
            return f"({self._sequence(bodies[1], keeps)})?"
        if kind in ("star", "plus"):
            return f"({self._sequence(bodies[1][:-1], keeps)}){'*' if kind == 'star' else '+'}"
        return ""


def _names(grammar: Grammar) -> dict[str, str]:
    """A name for every rule: its own in the file that it comes from, where no other has it."""
    found: dict[str, str] = {}
    taken: set[str] = {START}
    for rule in grammar.rules:
        if is_helper(rule):
            continue
        plain = rule.split("{")[0]
        short = plain if plain == START else _short(plain)
        candidates = [short, plain, *(f"{plain}_{n}" for n in range(2, len(grammar.rules) + 2))]
        name = START if rule == grammar.start else next(c for c in candidates if c not in taken)
        taken.add(name)
        found[rule] = name
    return found


def _short(rule: str) -> str:
    """The name without that of the file: `heads` of `mixers__heads`, `_both` of `_deep__both`."""
    last = rule.rsplit("__", 1)[-1]
    return f"_{last}" if rule.startswith("_") and not last.startswith("_") else last


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
