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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nas.grammar.definitions import Definitions, RuleSource, Scope, close_to
from nas.grammar.drafts import (
    Draft,
    Number,
    Part,
    Place,
    check_flags,
    fixed,
    times,
    with_numbers,
    without_numbers,
)
from nas.grammar.errors import Location, SpaceError
from nas.grammar.expression import Expression
from nas.grammar.inlining import settle
from nas.grammar.pragma import Pragma
from nas.grammar.repetition import MAX_REPEAT, MAX_VARIANTS, repetitions, variants
from nas.grammar.rules import Alternative, Literal, Reference
from nas.grammar.syntax_tree import Group, Instance, Item, Name, Option, Quoted, Repeat
from nas.grammar.terminals import NUMBER, TEXT, unquote

MAX_SYMBOLS = 256  # of an alternative
MAX_ALTERNATIVES = 20_000  # of a space
MAX_INSTANCES = 200  # of templates


@dataclass(eq=False, slots=True)
class Expander:
    """Reduces the rules that the start rule reaches, each when it is first met.

    Args:
        definitions: All rules and terminals, as written.
    """

    definitions: Definitions
    _drafts: dict[str, list[Draft]] = field(default_factory=dict)
    _waiting: deque[Callable[[], None]] = field(default_factory=deque)
    _instances: dict[str, tuple[Part, ...]] = field(default_factory=dict)
    _used: set[str] = field(default_factory=set)
    _count: int = 0

    def expand(self, start: str) -> dict[str, tuple[Alternative, ...]]:
        """Every rule that the start rule reaches, in the order it reaches them.

        Raises:
            SpaceError: Something is undefined, has no generator, or cannot be reduced.
        """
        self._rule(start)
        self._work()
        drafts = settle(self._drafts, self._case)
        rules: dict[str, tuple[Alternative, ...]] = {}
        waiting = deque([start])
        while waiting:
            name = waiting.popleft()
            if name in rules:
                continue
            rules[name] = tuple(
                replace(draft.alternative, index=i) for i, draft in enumerate(drafts[name])
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

    # Rules

    def _rule(self, name: str) -> Reference:
        if name not in self._drafts:
            self._used.add(name)
            self._drafts[name] = []
            rule = self.definitions.rules[name]
            self._waiting.append(lambda: self._reduce(name, rule, {}))
        return Reference(name)

    def _reduce(self, name: str, rule: RuleSource, bindings: Mapping[str, Part]) -> None:
        inlined = rule.name.startswith("_")
        if sum(variants(option.items) for option, _ in rule.options) > MAX_VARIANTS:
            message = f"`{rule.title}` multiplies out to over {MAX_VARIANTS} alternatives: split it"
            raise SpaceError(message, rule.location)
        for option, scope in rule.options:
            location = scope.at(option.line)
            if option.alias is not None and inlined:
                message = f"`{rule.title}` is inlined and has no alias: drop the `->`, or its `_`"
                raise SpaceError(message, location)
            alone = rule.inlines_one and option.alias is None
            if (inlined or alone) and any(isinstance(i, Group) for i in repetitions(option.items)):
                message = "Lark counts an absent `[x]` as a child here: write `(x)?` instead"
                raise SpaceError(message, location)
        self._drafts[name] = self._alternatives(
            name,
            rule.options,
            Place(name, rule.scope, rule.keeps_tokens, bindings),
            None if inlined else rule.title,
            rule.inlines_one,
        )

    def _alternatives(
        self,
        name: str,
        options: Sequence[tuple[Option, Scope]],
        place: Place,
        title: str | None,
        inlines_one: bool = False,
    ) -> list[Draft]:
        pragmas = [scope.pragmas.of.get(option) for option, scope in options]
        weighted = [pragma is not None and pragma.weight is not None for pragma in pragmas]
        if any(weighted) and not all(weighted):
            option, scope = options[weighted.index(False)]
            message = "the other alternatives have a weight: write one here too, as in `//@ 1`"
            raise SpaceError(message, scope.at(option.end_line))
        drafts: list[Draft] = []
        for (option, scope), found in zip(options, pragmas, strict=True):
            pragma = found or Pragma(scope.at(option.line))
            if pragma.repeat is not None and not any(repetitions(option.items)):
                message = "`repeat` belongs to an alternative with `*`, `+`, `?` or `[ ]`: drop it"
                raise SpaceError(message, pragma.location)
            here = replace(place, scope=scope, repeat=pragma.repeat or place.repeat)
            parts = self._sequence(option.items, here)
            bodies = with_numbers(parts, pragma.int_range, scope.at(option.line))
            weight = pragma.weight or fixed(1, scope.at(option.line))
            if len(bodies) > 1:
                weight = times(weight, f"1 / {len(bodies)}")
            for symbols in bodies:
                alternative = Alternative(
                    name,
                    0,
                    symbols,
                    option.alias or title,
                    weight,
                    pragma.where,
                    pragma.lets,
                    scope.at(option.line),
                    **dict.fromkeys(pragma.flags, True),
                )
                check_flags(alternative, pragma.location)
                inlines = inlines_one and option.alias is None
                drafts.append(Draft(alternative, option, here, inlines))
        self._count += len(drafts)
        if self._count > MAX_ALTERNATIVES:
            message = f"more than {MAX_ALTERNATIVES} alternatives in all: narrow the `int` ranges"
            raise SpaceError(message, drafts[0].alternative.location)
        return drafts

    def _case(self, items: Sequence[Item], place: Place) -> list[Part]:
        parts = self._sequence(items, place)
        self._work()
        return parts

    # What an alternative is made of

    def _sequence(self, items: Iterable[Item], place: Place) -> list[Part]:
        parts = [part for item in items for part in self._item(item, place)]
        if len(parts) > MAX_SYMBOLS:
            message = f"more than {MAX_SYMBOLS} parts in an alternative: split it"
            raise SpaceError(message, place.scope.at(next(iter(items)).line))
        return parts

    def _item(self, item: Item, place: Place) -> list[Part]:
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

    def _name(self, item: Name, place: Place, location: Location) -> Part:
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
            return Number(kept)
        raise SpaceError(_NO_GENERATOR.format(item.text), location)

    def _instance(self, item: Instance, place: Place, location: Location) -> Reference:
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

    def _helper(self, place: Place, kind: str, make: Callable[[str], list[Draft]]) -> Reference:
        number = 0
        while (name := f"__{place.rule}_{kind}_{number}") in self._drafts:
            number += 1
        self._drafts[name] = []
        self._drafts[name] = make(name)
        return Reference(name)

    def _choice(
        self,
        place: Place,
        kind: str,
        location: Location,
        bodies: Callable[[str], Iterable[tuple[Sequence[Part], Expression]]],
    ) -> Reference:
        empty = Option((), None, location.line, location.line)

        def make(name: str) -> list[Draft]:
            made = []
            for parts, weight in bodies(name):
                symbols = without_numbers(parts, location)
                plain = Alternative(name, 0, symbols, None, weight, None, (), location)
                made.append(Draft(plain, empty, place))
            return made

        return self._helper(place, kind, make)

    def _group(self, group: Group, place: Place) -> list[Part]:
        for option in group.options:
            if option.alias is not None:
                message = f"`-> {option.alias}` inside brackets: write a rule of its own"
                raise SpaceError(message, place.scope.at(option.line))
        if len(group.options) == 1:
            return self._sequence(group.options[0].items, place)
        options = [(option, place.scope) for option in group.options]
        inner = self._helper(
            place, "group", lambda name: self._alternatives(name, options, place, None)
        )
        return [inner]

    def _optional(self, parts: Sequence[Part], place: Place, location: Location) -> Reference:
        stop, more = place.odds(location)
        return self._choice(place, "opt", location, lambda _: [((), stop), (parts, more)])

    def _repeat(self, item: Repeat, place: Place, location: Location) -> list[Part]:
        inner = self._item(item.item, place)
        if item.operator == "?":
            return [self._optional(inner, place, location)]
        if item.operator in "*+":
            stop, more = place.odds(location)
            first: Sequence[Part] = inner if item.operator == "+" else ()
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
        if len(inner) * item.high > MAX_SYMBOLS:
            raise SpaceError(f"more than {MAX_SYMBOLS} parts in an alternative: split it", location)
        if item.low == item.high:
            return inner * item.low
        counts = range(item.low, item.high + 1)
        one = fixed(1, location)
        return [
            self._choice(
                place, "times", location, lambda _: [(inner * count, one) for count in counts]
            )
        ]


_NO_GENERATOR = (
    'nothing says which text `{}` stands for: write a string, as in "4", or INT with `//@ int A..B`'
)


def _shown(part: Literal | Number) -> str:
    return f'"{part.text}"' if isinstance(part, Literal) else "INT"
