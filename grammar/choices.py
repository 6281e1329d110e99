"""Choice points linked into a network that sampling runs through without looking anything up.

A `Point` is a rule in a context, compiled: the cumulative probabilities of its alternatives and,
for each of them, the text it writes and the points that follow. Points are made when they are first
met and then stay, so that a derivation costs a few hundred nanoseconds a node.
"""

from bisect import bisect_right
from itertools import accumulate
from random import Random

from nas.grammar.context import Context
from nas.grammar.derivation import Derivation, Node
from nas.grammar.options import Options, OptionTable
from nas.grammar.rules import Alternative, Grammar
from nas.grammar.spelling import fragments, join, words_can_meet

Emit = tuple[Alternative, int]  # an alternative and the number of its children


class Point:
    """A rule in a context, compiled for sampling.

    Attributes:
        options: The legal alternatives and their probabilities.
        cumulative: Where in [0, 1) the second, third, ... alternative begins.
        heads: For each alternative, the text up to its first part.
        emits: For each alternative, what it adds to the derivation before its first part.
        tails: For each alternative, the points and texts that follow, last one first; None until
            the alternative is first chosen.
    """

    __slots__ = ("cumulative", "emits", "heads", "network", "options", "tails")

    def __init__(self, network: "Network", options: Options) -> None:
        self.network = network
        self.options = options
        self.cumulative = list(accumulate(options.probabilities))[:-1]
        self.heads = [network.texts(a)[0] for a in options.alternatives]
        self.emits = [((a, len(network.texts(a)) - 1),) for a in options.alternatives]
        self.tails: list[tuple[Point | str, ...] | None] = [None] * len(options.alternatives)

    def link(self, index: int) -> "tuple[Point | str, ...]":
        """Make, once, what follows an alternative."""
        alternative = self.options.alternatives[index]
        below = self.options.contexts[index]
        tail: list[Point | str] = []
        texts = self.network.texts(alternative)[1:]
        for rule, text in zip(alternative.references, texts, strict=True):
            tail.append(self.network.point(rule, below))
            if text:
                tail.append(text)
        made = self.tails[index] = tuple(reversed(tail))
        return made


class Network:
    """The points of a space.

    Args:
        grammar: The rules.
        options: Their options.
    """

    def __init__(self, grammar: Grammar, options: OptionTable) -> None:
        self._options = options
        self._start = grammar.start
        self._write = join if words_can_meet(grammar) else "".join
        self._points: dict[tuple[str, Context], Point] = {}
        self._texts: dict[Alternative, tuple[str, ...]] = {}

    def texts(self, alternative: Alternative) -> tuple[str, ...]:
        """The text before, between and after the parts of an alternative."""
        found = self._texts.get(alternative)
        if found is None:
            found = self._texts[alternative] = fragments(alternative)
        return found

    def point(self, rule: str, context: Context) -> Point:
        """The point of a rule in a context."""
        key = (rule, context)
        found = self._points.get(key)
        if found is None:
            found = self._points[key] = Point(self, self._options(rule, context))
        return found

    def sample(self, root: Context, rng: Random) -> Derivation:
        """Draw a derivation: every alternative with its probability, from the start rule down."""
        random = rng.random
        stack: list[Point | str] = [self.point(self._start, root)]
        pop = stack.pop
        parts: list[str] = []
        write = parts.append
        order: list[Emit] = []
        while stack:
            top = pop()
            if isinstance(top, str):
                write(top)
                continue
            i = bisect_right(top.cumulative, random())
            order += top.emits[i]
            write(top.heads[i])
            tail = top.tails[i]
            stack += top.link(i) if tail is None else tail
        return self._finished(order, parts)

    def replay(self, root: Context, indices: list[int]) -> Derivation:
        """The derivation that follows from the index of every choice, in the order of sampling."""
        stack: list[Point | str] = [self.point(self._start, root)]
        parts: list[str] = []
        order: list[Emit] = []
        chosen = iter(indices)
        while stack:
            top = stack.pop()
            if isinstance(top, str):
                parts.append(top)
                continue
            i = next(chosen)
            order += top.emits[i]
            parts.append(top.heads[i])
            tail = top.tails[i]
            stack += top.link(i) if tail is None else tail
        return self._finished(order, parts)

    def _finished(self, order: list[Emit], parts: list[str]) -> Derivation:
        nodes: list[Node] = []  # finished, the leftmost on top
        pop = nodes.pop
        for alternative, arity in reversed(order):
            if arity == 0:
                nodes.append(Node(alternative))
            elif arity == 1:
                nodes.append(Node(alternative, (pop(),)))
            elif arity == 2:
                nodes.append(Node(alternative, (pop(), pop())))
            else:
                nodes.append(Node(alternative, tuple([pop() for _ in range(arity)])))
        derivation = Derivation(pop())
        derivation.__dict__["text"] = self._write(parts)  # what the cached property would write
        return derivation
