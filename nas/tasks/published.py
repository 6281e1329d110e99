"""Published figures, to stand beside ours where the setting is the same, and nowhere else."""

from collections.abc import Iterable
from dataclasses import dataclass

from nas.tasks.base import Task


@dataclass(frozen=True)
class Figure:
    """What somebody has published.

    Args:
        system: As the publication calls it.
        value: In the task's metric; accuracy in [0, 1].
        source: Who reports it.
        width: D, where the publication ties the figure to one; None: its own choice.
    """

    system: str
    value: float
    source: str
    width: int | None = None

    def __str__(self) -> str:
        at = "" if self.width is None else f" at width {self.width}"
        return f"{self.system}{at} {self.value:.4g}"


LRA = ("lra/listops", "lra/text", "lra/retrieval", "lra/image", "lra/pathfinder", "lra/pathx")
ARENA = "Tay et al. 2021, Long Range Arena's table"

# Percent, in the order of `LRA`; None where it was not reported or was at chance.
_LRA: dict[tuple[str, str], tuple[float | None, ...]] = {
    ("Transformer", ARENA): (36.37, 64.27, 57.46, 42.44, 71.40, None),
    ("BigBird", ARENA): (36.05, 64.02, 59.29, 40.83, 74.87, None),
    ("Linformer", ARENA): (35.70, 53.94, 52.27, 38.56, 76.34, None),
    ("Performer", ARENA): (18.01, 65.40, 53.82, 42.77, 77.05, None),
    ("S4", "Gu et al. 2022, revised"): (59.5, 86.5, 91.0, 88.5, 94.0, 96.0),
    ("S5", "Smith et al. 2023"): (62.15, 89.31, 91.40, 88.00, 95.33, 98.58),
    ("Mega", "Ma et al. 2023"): (63.14, 90.43, 91.25, 90.44, 96.01, 97.98),
    ("LRU", "Orvieto et al. 2023"): (60.2, 89.4, 89.9, 89.0, 95.1, 94.2),
}

ZOOLOGY = "Arora et al. 2023, Zoology"
_MQAR: dict[str, tuple[Figure, ...]] = {
    "mqar/512": (
        Figure("Attention", 1.0, ZOOLOGY, 512),
        Figure("BaseConv", 0.71, ZOOLOGY, 512),
        Figure("RWKV", 0.37, ZOOLOGY, 512),
        Figure("Hyena", 0.17, ZOOLOGY, 512),
        Figure("H3", 0.08, ZOOLOGY, 512),
    ),
}


# Test examples of the original data: with fewer, or others, it is another test.
_TESTED = {"lra/image": 10_000, "lra/text": 25_000, "lra/retrieval": 17_437}


def figures(task: Task, width: int | None = None) -> tuple[Figure, ...]:
    """The published figures of a task, where it is what they were measured on.

    Args:
        task: A task; only its `paper` profile, no knob set and all of the original's test examples
            there, is the published definition.
        width: D of the model that is compared; figures tied to another width are left out.
            None: all of them.
    """
    if task.profile != "paper":
        return ()
    if task.name in _TESTED and len(task.splits["test"]) != _TESTED[task.name]:
        return ()
    found = list(_MQAR.get(task.name, ()))
    if task.name in LRA:
        column = LRA.index(task.name)
        for (system, source), row in _LRA.items():
            percent = row[column]
            if percent is not None:
                found.append(Figure(system, percent / 100, source))
    return tuple(f for f in found if width is None or f.width in (None, width))


def told(found: Iterable[Figure]) -> str:
    """Figures for people, by who reports them."""
    by_source: dict[str, list[Figure]] = {}
    for each in found:
        by_source.setdefault(each.source, []).append(each)
    return "; ".join(f"{', '.join(map(str, of))} ({source})" for source, of in by_source.items())
