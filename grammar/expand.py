"""Reduces rules as they are written to plain alternatives.

A group of alternatives and every repetition becomes a helper rule, whose name begins with `__`:

    x*  becomes  __h: | x __h         x+  becomes  __h: x | x __h
    x?  becomes  __h: | x             x ~ 2..4  becomes  __h: x x | x x x | x x x x

The probability of the alternative with more is `repeat p`, 0.5 unless said; numbers of `~` are
equally likely. `INT` becomes one alternative for each number, which share the weight equally. A
template becomes a rule for each list of arguments it is used with. `[x]` is `x?`: Lark's tree would
hold None where it is absent, a term holds nothing.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, product

from nas.grammar.arithmetic import constant
from nas.grammar.definitions import Definitions, RuleSource, Scope, close_to
from nas.grammar.errors import Location, SpaceError
from nas.grammar.expression import Expression, parse_expression
from nas.grammar.pragma import IntRange, Pragma
from nas.grammar.rules import Alternative, Literal, Reference, Symbol
from nas.grammar.syntax_tree import Group, Instance, Item, Name, Option, Quoted, Repeat
from nas.grammar.terminals import NUMBER, TEXT, unquote

MAX_REPEAT = 64  # of `x ~ n..m`
MAX_SYMBOLS = 256  # of an alternative
MAX_VARIANTS = 1_000  # of a rule, once Lark has multiplied its groups out
MAX_ALTERNATIVES = 20_000  # of a space
MAX_INSTANCES = 200  # of templates
MAX_CASES = 64  # of an alternative of a `?rule`
REPEAT = 0.5


@dataclass(frozen=True, slots=True)
class _Number:
    """A terminal that stands for a number, until `int A..B` says which."""

    kept: bool


_Part = Symbol | _Number


@dataclass(frozen=True, slots=True)
class _Place:
    """Where items stand: what their names mean, and what their alternative says."""

    rule: str
    scope: Scope
    keeps_tokens: bool
    bindings: Mapping[str, _Part]
    repeat: Expression | None = None


@dataclass(eq=False, slots=True)
class _Draft:
    """An alternative whose rule may still turn out to be inlined."""

    alternative: Alternative
    option: Option
    place: _Place
    inlines_one: bool = False


@dataclass(eq=False, slots=True)
class Expander:
    """Reduces the rules that the start rule reaches, each when it is first met.

    Args:
        definitions: All rules and terminals, as written.
    """

    definitions: Definitions
    _drafts: dict[str, list[_Draft]] = field(default_factory=dict)
    _waiting: deque[Callable[[], None]] = field(default_factory=deque)
    _instances: dict[str, tuple[_Part, ...]] = field(default_factory=dict)
    _used: set[str] = field(default_factory=set)

    def expand(self, start: str) -> dict[str, tuple[Alternative, ...]]:
        """Every rule that the start rule reaches, in the order it reaches them.

        Raises:
            SpaceError: Something is undefined, has no generator, or cannot be reduced.
        """
        self._rule(start)
        self._work()
        self._settle_inlined()
        rules: dict[str, tuple[Alternative, ...]] = {}
        waiting = deque([start])
        while waiting:
            name = waiting.popleft()
            if name in rules:
                continue
            drafts = self._drafts[name]
            rules[name] = tuple(
                replace(draft.alternative, index=i) for i, draft in enumerate(drafts)
            )
            for alternative in rules[name]:
                waiting.extend(alternative.references)
        return rules

    @property
    def used(self) -> frozenset[str]:
        """Rules as written, templates included, that were reached."""
        return frozenset(self._used)

    def _work(self) -> None:
        while self._waiting:
            self._waiting.popleft()()
            if sum(map(len, self._drafts.values())) > MAX_ALTERNATIVES:
                raise SpaceError(f"more than {MAX_ALTERNATIVES} alternatives in all")

    # Rules

    def _rule(self, name: str) -> Reference:
        if name not in self._drafts:
            self._used.add(name)
            self._drafts[name] = []
            rule = self.definitions.rules[name]
            self._waiting.append(lambda: self._reduce(name, rule, {}))
        return Reference(name)

    def _reduce(self, name: str, rule: RuleSource, bindings: Mapping[str, _Part]) -> None:
        inlined = rule.name.startswith("_")
        variants = sum(_variants(option.items) for option, _ in rule.options)
        if variants > MAX_VARIANTS:
            message = f"`{rule.title}` multiplies out to {variants} alternatives: split it"
            raise SpaceError(message, rule.location)
        for option, scope in rule.options:
            if option.alias is not None and inlined:
                message = (
                    f"`{rule.title}` is inlined: it cannot have an alias, drop `->` or the `_`"
                )
                raise SpaceError(message, scope.at(option.line))
        self._drafts[name] = self._alternatives(
            name,
            rule.options,
            _Place(name, rule.scope, rule.keeps_tokens, bindings),
            None if inlined else rule.title,
            rule.inlines_one,
        )

    def _alternatives(
        self,
        name: str,
        options: Sequence[tuple[Option, Scope]],
        place: _Place,
        title: str | None,
        inlines_one: bool = False,
    ) -> list[_Draft]:
        pragmas = [scope.pragmas.of.get(option) for option, scope in options]
        weighted = [pragma is not None and pragma.weight is not None for pragma in pragmas]
        if any(weighted) and not all(weighted):
            option, scope = options[weighted.index(False)]
            message = "the other alternatives have a weight: write one here too, as in `//@ 1`"
            raise SpaceError(message, scope.at(option.end_line))
        drafts: list[_Draft] = []
        for (option, scope), found in zip(options, pragmas, strict=True):
            pragma = found or Pragma(scope.at(option.line))
            if pragma.repeat is not None and not _has_repetition(option.items):
                message = "`repeat` belongs to an alternative with `*`, `+`, `?` or `[ ]`: drop it"
                raise SpaceError(message, pragma.location)
            here = replace(place, scope=scope, repeat=pragma.repeat or place.repeat)
            parts = self._sequence(option.items, here)
            for symbols, share in _with_numbers(parts, pragma.int_range, scope, option):
                weight = pragma.weight or _fixed(1, scope.at(option.line))
                alternative = Alternative(
                    name,
                    0,
                    symbols,
                    option.alias or title,
                    _times(weight, f"1 / {share}" if share > 1 else None),
                    pragma.where,
                    pragma.lets,
                    scope.at(option.line),
                    **dict.fromkeys(pragma.flags, True),
                )
                _check_flags(alternative, pragma.location)
                inlines = inlines_one and option.alias is None
                drafts.append(_Draft(alternative, option, here, inlines))
        return drafts

    # What an alternative is made of

    def _sequence(self, items: Iterable[Item], place: _Place) -> list[_Part]:
        parts = [part for item in items for part in self._item(item, place)]
        if len(parts) > MAX_SYMBOLS:
            message = f"more than {MAX_SYMBOLS} parts in an alternative: split it"
            raise SpaceError(message, place.scope.at(next(iter(items)).line))
        return parts

    def _item(self, item: Item, place: _Place) -> list[_Part]:
        location = place.scope.at(item.line)
        if isinstance(item, Quoted):
            return [Literal(unquote(item, location), place.keeps_tokens)]
        if isinstance(item, Name):
            return [self._name(item, place, location)]
        if isinstance(item, Instance):
            return [self._instance(item, place, location)]
        if isinstance(item, Repeat):
            return self._repeat(item, place, location)
        if isinstance(item, Group):
            inner = self._group(item, place)
            return [self._optional(inner, place, location)] if item.optional else inner
        raise SpaceError(_NO_GENERATOR.format(item.text), location)

    def _name(self, item: Name, place: _Place, location: Location) -> _Part:
        bound = place.bindings.get(item.text)
        if bound is not None:
            if isinstance(bound, Reference):
                return bound
            return replace(bound, kept=bound.kept or place.keeps_tokens)
        name = place.scope.qualify(item.text)
        if not item.is_terminal:
            rule = self.definitions.rules.get(name)
            if rule is None:
                near = close_to(item.text, (r.title for r in self.definitions.rules.values()))
                raise SpaceError(f"rule `{item.text}` is not defined{near}", location)
            if rule.parameters:
                message = f"`{item.text}` is a template: write `{item.text}{{...}}`"
                raise SpaceError(message, location)
            return self._rule(name)
        terminal = self.definitions.terminals.get(name)
        if terminal is None:
            near = close_to(item.text, self.definitions.terminals)
            raise SpaceError(f"terminal `{item.text}` is not defined{near}", location)
        kept = place.keeps_tokens or not name.startswith("_")
        if terminal.kind == TEXT:
            return Literal(terminal.text, kept)
        if terminal.kind == NUMBER:
            return _Number(kept)
        raise SpaceError(_NO_GENERATOR.format(item.text), location)

    def _instance(self, item: Instance, place: _Place, location: Location) -> Reference:
        name = place.scope.qualify(item.name)
        rule = self.definitions.rules.get(name)
        if rule is None or not rule.parameters:
            problem = "is not defined" if rule is None else "is no template: drop the `{...}`"
            raise SpaceError(f"template `{item.name}` {problem}", location)
        if len(item.arguments) != len(rule.parameters):
            wanted = ", ".join(rule.parameters)
            raise SpaceError(f"`{item.name}` takes the arguments {{{wanted}}}", location)
        arguments = tuple(self._sequence(item.arguments, place))
        shown = ",".join(a.rule if isinstance(a, Reference) else _shown(a) for a in arguments)
        instance = f"{name}{{{shown}}}"
        if instance not in self._instances:
            if len(self._instances) >= MAX_INSTANCES or len(instance) > MAX_SYMBOLS:
                raise SpaceError(f"template `{item.name}` is used in too many ways", location)
            self._used.add(name)
            self._instances[instance] = arguments
            self._drafts[instance] = []
            bindings = dict(zip(rule.parameters, arguments, strict=True))
            self._waiting.append(lambda: self._reduce(instance, rule, bindings))
        elif self._instances[instance] != arguments:
            message = f"`{instance}` is used in a rule with `!` and in one without: Lark mixes them"
            raise SpaceError(message, location)
        return Reference(instance)

    # Groups and repetitions

    def _helper(self, place: _Place, kind: str, make: Callable[[str], list[_Draft]]) -> Reference:
        number = 0
        while (name := f"__{place.rule}_{kind}_{number}") in self._drafts:
            number += 1
        self._drafts[name] = []
        self._drafts[name] = make(name)
        return Reference(name)

    def _choice(
        self,
        place: _Place,
        kind: str,
        location: Location,
        bodies: Callable[[str], Iterable[tuple[Sequence[_Part], Expression]]],
    ) -> Reference:
        def make(name: str) -> list[_Draft]:
            return [
                _Draft(
                    Alternative(name, 0, _plain(parts, location), None, weight, None, (), location),
                    Option((), None, location.line, location.line),
                    place,
                )
                for parts, weight in bodies(name)
            ]

        return self._helper(place, kind, make)

    def _group(self, group: Group, place: _Place) -> list[_Part]:
        for option in group.options:
            if option.alias is not None:
                message = f"`-> {option.alias}` inside brackets: write a rule of its own"
                raise SpaceError(message, place.scope.at(option.line))
        if len(group.options) == 1 and group.options[0] not in place.scope.pragmas.of:
            return self._sequence(group.options[0].items, place)
        options = [(option, place.scope) for option in group.options]
        inner = self._helper(
            place, "group", lambda name: self._alternatives(name, options, place, None)
        )
        return [inner]

    def _odds(self, place: _Place, location: Location) -> tuple[Expression, Expression]:
        """Weights of stopping and of going on."""
        p = place.repeat or _fixed(REPEAT, location)
        return parse_expression(f"1 - ({p})", p.location), p

    def _optional(self, parts: Sequence[_Part], place: _Place, location: Location) -> Reference:
        stop, more = self._odds(place, location)
        return self._choice(place, "opt", location, lambda _: [((), stop), (parts, more)])

    def _repeat(self, item: Repeat, place: _Place, location: Location) -> list[_Part]:
        inner = self._item(item.item, place)
        if item.operator == "?":
            return [self._optional(inner, place, location)]
        if item.operator in "*+":
            stop, more = self._odds(place, location)
            first: Sequence[_Part] = inner if item.operator == "+" else ()
            kind = "plus" if item.operator == "+" else "star"
            return [
                self._choice(
                    place,
                    kind,
                    location,
                    lambda name: [(first, stop), ([*inner, Reference(name)], more)],
                )
            ]
        if not 0 <= item.low <= item.high <= MAX_REPEAT or item.high == 0:
            message = f"`~ {item.low}..{item.high}`: from 0 to {MAX_REPEAT}, the smaller one first"
            raise SpaceError(message, location)
        if item.low == item.high:
            return inner * item.low
        if len(inner) * item.high > MAX_SYMBOLS:
            raise SpaceError(f"more than {MAX_SYMBOLS} parts in an alternative: split it", location)
        counts = range(item.low, item.high + 1)
        one = _fixed(1, location)
        return [
            self._choice(
                place, "times", location, lambda _: [(inner * count, one) for count in counts]
            )
        ]

    # `?rule`: inlined when it has one child

    def _settle_inlined(self) -> None:
        counts = self._child_counts()
        for name in list(self._drafts):
            settled: list[_Draft] = []
            for draft in self._drafts[name]:
                settled += self._settle(name, draft, counts)
            self._drafts[name] = settled

    def _settle(
        self, name: str, draft: _Draft, counts: Mapping[str, frozenset[int]]
    ) -> list[_Draft]:
        found = _sums(draft.alternative, counts)
        if not draft.inlines_one or 1 not in found:
            return [draft]
        if found == {1}:
            draft.alternative = replace(draft.alternative, name=None)
            return [draft]
        # Sometimes one child, sometimes more: one alternative for each case.
        alternative, place = draft.alternative, draft.place
        repeat = place.repeat or _fixed(REPEAT, alternative.location)
        message = f"whether `?{name}` has one child is not plain here: write it without `?`"
        if repeat.names & {let for let, _ in alternative.lets}:
            raise SpaceError(message, alternative.location)
        variants = list(islice(_cases(draft.option.items, str(repeat)), MAX_CASES + 1))
        if len(variants) > MAX_CASES:
            raise SpaceError(message, alternative.location)
        cases = []
        for items, odds in variants:
            parts = _plain(self._sequence(items, place), alternative.location)
            weight = _times(alternative.weight, odds)
            case = replace(alternative, symbols=parts, weight=weight)
            cases.append(_Draft(case, draft.option, place))
        self._work()
        counts = self._child_counts()
        for case_draft in cases:
            found = _sums(case_draft.alternative, counts)
            if found == {1}:
                case_draft.alternative = replace(case_draft.alternative, name=None)
            elif 1 in found:
                raise SpaceError(message, alternative.location)
        return cases

    def _child_counts(self) -> dict[str, frozenset[int]]:
        """How many children each rule gives its parent: 0, 1, or 2 for more."""
        counts: dict[str, frozenset[int]] = dict.fromkeys(self._drafts, frozenset())
        changed = True
        while changed:
            changed = False
            for name, drafts in self._drafts.items():
                found = counts[name].union(
                    *(
                        {1} if d.inlines_one or d.alternative.name else _sums(d.alternative, counts)
                        for d in drafts
                    )
                )
                changed |= found != counts[name]
                counts[name] = found
        return counts


_NO_GENERATOR = (
    'nothing says which text `{}` stands for: write a string, as in "4", or INT with `//@ int A..B`'
)


def _shown(part: Literal | _Number) -> str:
    return f'"{part.text}"' if isinstance(part, Literal) else "INT"


def _fixed(value: float, location: Location) -> Expression:
    return Expression(constant(value), location)


def _times(weight: Expression, factor: str | None) -> Expression:
    if factor is None:
        return weight
    return parse_expression(f"({weight}) * ({factor})", weight.location)


def _sums(alternative: Alternative, counts: Mapping[str, frozenset[int]]) -> frozenset[int]:
    totals = {0}
    for symbol in alternative.symbols:
        if isinstance(symbol, Reference):
            each: Iterable[int] = counts[symbol.rule]
        else:
            each = (int(symbol.kept),)
        totals = {min(total + more, 2) for total in totals for more in each}
    return frozenset(totals)


def _plain(parts: Sequence[_Part], location: Location) -> tuple[Symbol, ...]:
    symbols = tuple(part for part in parts if not isinstance(part, _Number))
    if len(symbols) != len(parts):
        message = "INT inside brackets: write a rule of its own, as in `n: INT  //@ int 1..8`"
        raise SpaceError(message, location)
    return symbols


def _with_numbers(
    parts: Sequence[_Part], numbers: IntRange | None, scope: Scope, option: Option
) -> Iterator[tuple[tuple[Symbol, ...], int]]:
    """The alternative once for each number it may hold, with how many share its weight."""
    places = [i for i, part in enumerate(parts) if isinstance(part, _Number)]
    location = scope.at(option.line)
    if not places:
        if numbers is not None:
            raise SpaceError("`int` belongs to an alternative with an INT: drop it", location)
        yield _plain(parts, location), 1
        return
    if numbers is None:
        message = "nothing says which numbers INT stands for: write `//@ int A..B` behind it"
        raise SpaceError(message, location)
    if len(places) > 1:
        message = "two INT in one alternative: write a rule for each, as in `n: INT  //@ int 1..8`"
        raise SpaceError(message, location)
    (place,) = places
    kept = parts[place].kept  # type: ignore[union-attr]
    for value in numbers.values:
        whole = [*parts[:place], Literal(str(value), kept), *parts[place + 1 :]]
        yield _plain(whole, location), len(numbers.values)


def _check_flags(alternative: Alternative, location: Location) -> None:
    if alternative.name is None and (
        alternative.commutative or alternative.associative or alternative.identity
    ):
        raise SpaceError("what is inlined has no order of its own: drop the word", location)
    blocks = len(alternative.references)
    for word in ("commutative", "associative"):
        if getattr(alternative, word) and blocks < 2:
            raise SpaceError(f"`{word}` needs two parts to put in order: drop it", location)
    if alternative.identity and blocks:
        raise SpaceError("`identity` computes nothing, so it has no parts: drop it", location)


def _repetitions(items: Iterable[Item]) -> Iterator[Item]:
    for item in items:
        if isinstance(item, Repeat):
            if item.operator != "~":
                yield item
            yield from _repetitions([item.item])
        elif isinstance(item, Group):
            if item.optional:
                yield item
            for option in item.options:
                yield from _repetitions(option.items)


def _has_repetition(items: Iterable[Item]) -> bool:
    return any(True for _ in _repetitions(items))


def _variants(items: Iterable[Item]) -> int:
    """How many alternatives Lark makes of one when it multiplies its groups out."""
    total = 1
    for item in items:
        total = min(total * _item_variants(item), MAX_VARIANTS + 1)
    return total


def _item_variants(item: Item) -> int:
    if isinstance(item, Group):
        inner = sum(_variants(option.items) for option in item.options)
        return inner + item.optional
    if isinstance(item, Repeat):
        inner = _item_variants(item.item)
        if item.operator == "~":
            counts = range(max(item.low, 0), min(item.high, MAX_REPEAT) + 1)
            return sum(min(inner**count, MAX_VARIANTS + 1) for count in counts) or 1
        return {"?": inner + 1, "*": 2, "+": 1}[item.operator]
    return 1


def _cases(items: Sequence[Item], p: str) -> Iterator[tuple[list[Item], str | None]]:
    """An alternative with every optional part absent or there, and the probability of each."""
    choices: list[list[tuple[list[Item], str | None]]] = []
    for item in items:
        if isinstance(item, Group) and item.optional:
            there: Item = replace(item, optional=False)
            choices.append([([], f"1 - ({p})"), ([there], p)])
        elif isinstance(item, Repeat) and item.operator in "?*":
            more = item.item if item.operator == "?" else replace(item, operator="+")
            choices.append([([], f"1 - ({p})"), ([more], p)])
        elif isinstance(item, Repeat) and item.operator == "+":
            choices.append([([item.item], f"1 - ({p})"), ([item.item, item], p)])
        else:
            choices.append([([item], None)])
    for case in product(*choices):
        odds = [f"({factor})" for _, factor in case if factor is not None]
        yield [item for part, _ in case for item in part], " * ".join(odds) or None
