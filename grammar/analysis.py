"""What a space is like before anything is drawn from it: does it end, how large, how many."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from nas.grammar.branching import expected_uses, spectral_radius
from nas.grammar.counting import counts_by_size, legal_alternatives
from nas.grammar.rules import Alternative
from nas.grammar.space import Space

CRITICAL = 1 - 1e-9
CLOSE = 0.9


@dataclass(frozen=True)
class Analysis:
    """The figures of a space in its context, caps left out.

    Attributes:
        spectral_radius: Factor by which the expected number of nodes grows from level to level in
            the long run, as if there were no `max_depth`.
        exact: Whether that is an eigenvalue; else it was measured on the deep levels.
        max_depth: The space's `max_depth`, or None.
        expected_size: Expected number of nodes of a derivation (`Derivation.size`), or infinity.
        neglected: Expected number of nodes in states so unlikely that what lies below them is
            missing in the expected size.
        counts_by_size: At position n the number of derivations with n nodes, exactly.
        uses: How often each alternative is expected in a derivation; empty if it may never end.
        unreachable: Alternatives that are legal in no context that can be reached.
        exhaustive: Whether all contexts were searched for them, not only the first 50,000.
    """

    spectral_radius: float
    exact: bool
    max_depth: int | None
    expected_size: float
    neglected: float
    counts_by_size: tuple[int, ...]
    uses: Mapping[Alternative, float]
    unreachable: tuple[Alternative, ...]
    exhaustive: bool

    @property
    def ends(self) -> bool:
        """Whether every derivation comes to an end, with probability 1."""
        return self.max_depth is not None or self.spectral_radius < CRITICAL

    @property
    def warning(self) -> str | None:
        """What a person should know about how derivations end, and do about it; None: all is well.

        A radius above 0.9 means sizes that vary widely; 1 or more, that nothing but `max_depth`
        ends a derivation, if anything does.
        """
        if self.spectral_radius <= CLOSE:
            return None
        if self.spectral_radius < CRITICAL:
            problem = "close to 1: sizes vary widely"
        elif self.max_depth is not None:
            problem = f"nothing but max_depth {self.max_depth} ends a derivation"
        else:
            problem = "derivations may never end, and there is no max_depth"
        return (
            f"spectral radius {self.spectral_radius:.3f}, {problem}; "
            "lower the weights of what contains itself"
        )


def analyse(space: Space, largest: int = 20) -> Analysis:
    """Compute the figures of a space.

    Args:
        space: The space; its caps are left out.
        largest: Up to which size derivations are counted.

    Raises:
        SpaceError: The space is empty in its context.
    """
    free = space.under(caps={})
    rules = free.grammar.rules.values()
    radius, exact = spectral_radius(free)
    uses: dict[Alternative, float] = {}
    size, neglected = math.inf, 0.0
    if radius < CRITICAL or free.grammar.max_depth is not None:
        uses, neglected = expected_uses(free)
        size = math.fsum(uses.values())
    met, exhaustive = legal_alternatives(free)
    return Analysis(
        spectral_radius=radius,
        exact=exact,
        max_depth=free.grammar.max_depth,
        expected_size=size,
        neglected=neglected,
        counts_by_size=counts_by_size(free, largest),
        uses=uses,
        unreachable=tuple(a for rule in rules for a in rule if a not in met),
        exhaustive=exhaustive,
    )
