"""The four conditions under which a published system counts as one that the space can say.

1. Its text parses. 2. A test compares it with its equations. 3. It keeps its promises: costs,
gradients, causality, one token at a time. 4. It learns a task that it is known to solve, as
`nas.zoo.learned` says.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nas.compiler.check import find_problems
from nas.grammar.canonical import canonical_hash
from nas.grammar.errors import SpaceError
from nas.grammar.space import Space
from nas.zoo.learned import is_learned
from nas.zoo.probes import Outcome
from nas.zoo.published import Placed, Published, place
from nas.zoo.record import mean, saved


@dataclass(frozen=True)
class Verdict:
    """What was found of one system.

    Args:
        published: The text.
        placed: The text as its space reads it; None where it does not parse.
        problems: One line a broken promise of conditions 1 and 3.
        equations: The test of condition 2, or "".
        trained: Outcomes of its probe task, of this very architecture: of
            each seed the longest.
        records: The names of the files that these stand in.
    """

    published: Published
    placed: Placed | None
    problems: tuple[str, ...]
    equations: str = ""
    trained: tuple[Outcome, ...] = ()
    records: tuple[str, ...] = ()

    @cached_property
    def value(self) -> float | None:
        """What its trainings reached, see `nas.zoo.record.mean`."""
        return mean(self.trained) if self.trained else None

    @property
    def works(self) -> bool:
        """Conditions 1 and 3, which were tried now."""
        return self.placed is not None and not self.problems

    @property
    def learned(self) -> bool:
        """Condition 4."""
        if self.value is None:
            return False
        of = self.trained[0]
        return is_learned(of.metric, of.higher, self.value, of.trivial)


def judge(
    published: Published, candidates: Sequence[Space], records: Iterable[Path] = ()
) -> Verdict:
    """Tries conditions 1 and 3, and looks up the others.

    Args:
        published: The system.
        candidates: Spaces in their contexts; the first that allows the text is taken.
        records: Files of `nas zoo probe`.
    """
    try:
        placed = place(published.text, candidates)
    except SpaceError as error:
        return Verdict(published, None, (str(error),), published.test)
    problems = tuple(find_problems(placed.derivation.term, placed.shape))
    wanted = (published.probe, canonical_hash(placed.derivation))
    found: dict[int, tuple[str, Outcome]] = {}
    for path in records:
        for of in saved(path):
            if (of.task, of.hash) != wanted:
                continue
            if of.seed not in found or of.steps >= found[of.seed][1].steps:
                found[of.seed] = (path.name, of)
    return Verdict(
        published,
        placed,
        problems,
        published.test,
        tuple(outcome for _, outcome in found.values()),
        tuple(sorted({name for name, _ in found.values()})),
    )


def records() -> list[Path]:
    """The dated files of `nas zoo probe` beside the source; none in a wheel."""
    return sorted((Path(__file__).parents[2] / "results").glob("zoo-*.json"))
