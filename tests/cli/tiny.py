"""The command line with one more task, which takes a fraction of a second."""

import numpy as np

from nas.cli.main import main
from nas.compiler.interface import Features, Label, Tokens, Values
from nas.tasks import registry
from nas.tasks.base import Split, Task
from nas.tasks.metrics import SQUARED_ERROR

STEPS = 18


def splits() -> dict[str, Split]:
    """Is token 1 more frequent than token 2?"""
    found = {}
    for seed, name in enumerate(("train", "validation", "test")):
        inputs = np.random.default_rng(seed).integers(1, 3, size=(200, 9)).astype(np.int16)
        found[name] = Split(inputs, (inputs == 1).sum(1) > 4)
    return found


def make(profile, data) -> tuple[Task, ...]:
    return (
        Task(
            name="tiny", profile=profile, summary="", definition="", length=9, causal=False,
            inputs=Tokens(3), outputs=Label(2), batch_size=16, steps=STEPS, source=splits,
            decode=lambda x, y: "", rules={},
        ),
    )  # fmt: skip


def regression(profile, data, *, length: int = 6) -> Task:
    """The mean of real numbers, whose score is negative."""
    found = {}
    for seed, name in enumerate(("train", "validation", "test")):
        inputs = np.random.default_rng(seed).normal(size=(200, length, 1)).astype(np.float32)
        found[name] = Split(inputs, inputs.mean(axis=1))
    return Task(
        name="regression", profile=profile, summary="", definition="", length=length, causal=False,
        inputs=Features(1), outputs=Values(1), batch_size=16, steps=STEPS, source=lambda: found,
        decode=lambda x, y: "", metric=SQUARED_ERROR,
        rules={"zero": lambda s: float((s["validation"].targets**2).mean())},
    )  # fmt: skip


def install() -> None:
    """Make the task known in this process."""
    registry.TASKS["tiny"] = registry.Entry("for tests", make)


def command(words: list[str]) -> None:
    """The command line in a process of its own."""
    install()
    main(words)
