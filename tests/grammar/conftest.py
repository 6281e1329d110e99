"""Small spaces, and slow obvious answers about them to compare with."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from types import SimpleNamespace

import pytest

from nas.grammar.derivation import Node, Term
from nas.grammar.errors import Location
from nas.grammar.expression import parse_expression
from nas.grammar.rules import Alternative, Grammar, Literal, Reference

ALTERNATIVE = re.compile(
    r"""(?P<body>[^@]*?) (->\s*(?P<name>\w+)\s*)?
    (//@\s* (?P<weight>.*?) (\bwhere\b(?P<where>.*?))? (\blet\b(?P<lets>.*?))?
    (?P<flags>(\b(commutative|associative|identity)\b\s*)*) )?$""",
    re.VERBOSE,
)


def build(text: str, max_depth: int | None = None) -> Grammar:
    """A grammar in a subset of the notation, read without the loader: one alternative a line.

    `rule: ...` or `!rule: ...` begins a rule, `| ...` goes on; without an alias, `?rule`, `_rule`
    and `__rule` add their parts to their parent.
    """
    rules: dict[str, list[Alternative]] = {}
    rule = mark = ""
    for number, line in enumerate(text.strip().splitlines(), 1):
        if not line.strip():
            continue
        head = re.match(r"\s*([?!]?)(\w+)\s*:", line)
        if head:
            mark, rule = head.groups()
            rules[rule] = []
        body = line[head.end() :] if head else line.strip().removeprefix("|")
        found = ALTERNATIVE.match(body.strip())
        assert found, line
        symbols = tuple(
            Literal(token[1:-1], mark == "!") if token[0] == '"' else Reference(token)
            for token in re.findall(r'"[^"]*"|\w+', found["body"])
        )
        inlined = mark == "?" or rule.startswith("_")
        lets = [item.split("=", 1) for item in (found["lets"] or "").split(",") if item.strip()]
        flags = (found["flags"] or "").split()
        rules[rule].append(
            Alternative(
                rule=rule,
                index=len(rules[rule]),
                symbols=symbols,
                name=found["name"] or (None if inlined else rule),
                weight=parse_expression((found["weight"] or "").strip() or "1"),
                where=parse_expression(found["where"]) if found["where"] else None,
                lets=tuple((name.strip(), parse_expression(value)) for name, value in lets),
                location=Location("space.lark", number),
                commutative="commutative" in flags,
                associative="associative" in flags,
                identity="identity" in flags,
            )
        )
    start = next(iter(rules))
    return Grammar(start, {rule: tuple(found) for rule, found in rules.items()}, max_depth)


def below(alternative: Alternative, context: Mapping) -> dict:
    """The context of an alternative's parts."""
    values = dict(context)
    for name, expression in alternative.lets:
        values[name] = expression.lanes(values)
    values["depth"] += 0 if alternative.rule.startswith("__") else 1
    return values


def derive(grammar: Grammar, rule: str, context: Mapping) -> list[tuple[Node, float]]:
    """All derivations of a rule by plain recursion, and how likely each is without caps."""
    if grammar.max_depth is not None and context["depth"] > grammar.max_depth:
        return []
    found = []
    for alternative in grammar.rules[rule]:
        if alternative.where is None or alternative.where.holds(context):
            inside = below(alternative, context)
            parts = [derive(grammar, r, inside) for r in alternative.references]
            trees = list(itertools.product(*parts))
            if trees:
                found.append((alternative.weight.mean(context), alternative, trees))
    total = sum(weight for weight, _, _ in found)
    derivations = []
    for weight, alternative, trees in found:
        for tree in trees:
            probability = weight / total
            for _, p in tree:
                probability *= p
            derivations.append((Node(alternative, tuple(node for node, _ in tree)), probability))
    return derivations


def count(grammar: Grammar, context: Mapping, rule: str | None = None) -> int:
    """How many derivations there are."""
    if rule is None:
        rule, context = grammar.start, {**context, "depth": 0}
    if grammar.max_depth is not None and context["depth"] > grammar.max_depth:
        return 0
    return sum(
        math.prod(count(grammar, below(a, context), r) for r in a.references)
        for a in grammar.rules[rule]
        if a.where is None or a.where.holds(context)
    )


def everything(grammar: Grammar, context: Mapping) -> list[tuple[Node, float]]:
    """All derivations of a space and their probabilities."""
    return derive(grammar, grammar.start, {**context, "depth": 0})


def cost(node: Node, context: Mapping, model, given: frozenset[str]) -> tuple[list, list[float]]:
    """What a derivation adds to the arguments of the term around it, and what it costs."""
    if "depth" not in context:
        context = {**context, "depth": 0}
    inside = below(node.alternative, context)
    children = iter(node.children)
    arguments: list = []
    total = [0.0] * len(model.measures)
    for symbol in node.alternative.symbols:
        if isinstance(symbol, Literal):
            arguments += [symbol.text] if symbol.kept else []
        else:
            more, amounts = cost(next(children), inside, model, given)
            arguments += more
            total = [a + b for a, b in zip(total, amounts, strict=True)]
    name = node.alternative.name
    if name is None:
        return arguments, total
    shown = {key: value for key, value in context.items() if key in given}
    priced = model.cost(name, tuple(arguments), shown)
    if priced is None:
        return ([None] if None in arguments else [Term(name, tuple(arguments))]), total
    own, scale = priced
    return [None], [o + s * t for o, s, t in zip(own, scale, total, strict=True)]


def finished(decisions) -> Iterator[tuple]:
    """Every derivation that decisions can lead to, with its probability: all ways are walked."""
    stack = [(decisions, 1.0)]
    while stack:
        at, probability = stack.pop()
        choice = at.current
        if choice is None:
            yield at.derivation, probability
            continue
        assert len(choice.alternatives) > 1
        assert abs(sum(choice.probabilities) - 1) < 1e-9
        for i, p in enumerate(choice.probabilities):
            branch = at.copy()
            branch.choose(i)
            stack.append((branch, probability * p))


def alternatives(node: Node) -> list[Alternative]:
    """The alternatives of a derivation in pre-order: what makes two derivations equal."""
    return [each.alternative for each in node]


@pytest.fixture(scope="session")
def oracle() -> SimpleNamespace:
    return SimpleNamespace(
        build=build,
        count=count,
        everything=everything,
        derive=derive,
        cost=cost,
        finished=finished,
        alternatives=alternatives,
    )
