"""Runs through the choice points of a space and writes down the derivation that it meets."""

from bisect import bisect_right
from collections.abc import Callable
from operator import sub
from random import Random

from nas.grammar.choices import Emit, Point, Slack
from nas.grammar.derivation import Derivation, Node
from nas.grammar.network import Network


def sample(network: Network, rng: Random) -> Derivation:
    """Draw a derivation, from the start rule down: every choice by its probabilities.

    Args:
        network: The points of a space.
        rng: Source of chance: one number a choice.
    """
    if len(network.slack) > 1:
        return _sample_under_caps(network, rng)
    random = rng.random
    slack = network.slack[0] if network.slack else 0
    stack: list[Point | str] = [network.start]
    pop = stack.pop
    parts: list[str] = []
    write = parts.append
    order: list[Emit] = []
    while stack:
        top = pop()
        if isinstance(top, str):
            write(top)
            continue
        if slack < top.span:
            i = top.pick(slack, random())
        else:
            i = bisect_right(top.cumulative, random())
        slack -= top.spends[i]
        head, emits, tail, _ = top.links[i] or network.link(top, i)
        write(head)
        order += emits
        stack += tail
    return _finished(network, order, parts)


def _sample_under_caps(network: Network, rng: Random) -> Derivation:
    """As `sample`, for several caps."""
    slack = network.slack

    def choose(point: Point) -> int:
        nonlocal slack
        legal = point.affordable(slack)
        i = legal[bisect_right(point.renormalised(legal)[1], rng.random())]
        slack = spend(slack, point.deltas[i])
        return i

    return derive(network, choose)


def derive(network: Network, choose: Callable[[Point], int]) -> Derivation:
    """The derivation that follows when `choose` takes every choice, in the order of `sample`.

    Args:
        network: The points of a space.
        choose: Given a point, the index of an alternative.
    """
    stack: list[Point | str] = [network.start]
    parts: list[str] = []
    order: list[Emit] = []
    while stack:
        top = stack.pop()
        if isinstance(top, str):
            parts.append(top)
            continue
        i = 0 if top.fixed else choose(top)
        link = network.link(top, i)
        parts.append(link.head)
        order += link.emits
        stack += link.tail
    return _finished(network, order, parts)


def _finished(network: Network, order: list[Emit], parts: list[str]) -> Derivation:
    nodes: list[Node] = []  # finished, the leftmost on top
    pop = nodes.pop
    push = nodes.append
    for what, arity in reversed(order):
        if isinstance(what, Node):
            push(what)
        elif arity == 1:
            push(Node(what, (pop(),)))
        elif arity == 2:
            push(Node(what, (pop(), pop())))
        else:
            push(Node(what, tuple([pop() for _ in range(arity)])))
    derivation = Derivation(pop())
    derivation.__dict__["text"] = network.write(parts)  # what the cached property would write
    return derivation


def spend(slack: Slack, delta: Slack) -> Slack:
    """What is left of the slack."""
    return tuple(map(sub, slack, delta))
