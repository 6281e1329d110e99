"""Long Range Arena (Tay et al. 2021)."""

from nas.tasks.named import suite

_FIVE = ("lra/listops", "lra/text", "lra/retrieval", "lra/image", "lra/pathfinder")

suite(
    "lra",
    "Long Range Arena: mean accuracy over its sub-tasks that have data",
    _FIVE,
)
suite(
    "lra/six",
    "Long Range Arena with Path-X: the average of S4, S5, Mega and LRU; the Arena's leaves it out",
    (*_FIVE, "lra/pathx"),
)
