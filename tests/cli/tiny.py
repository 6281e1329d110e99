"""The command line with one more task, which takes a fraction of a second.

python -m tests.cli.tiny search --task tiny ...
"""

import sys

import numpy as np

from nas.compiler.interface import Label, Tokens
from nas.tasks import registry
from nas.tasks.base import Split, Task

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


def install() -> None:
    registry.TASKS["tiny"] = registry.Entry("for tests", make)


if __name__ == "__main__":
    from nas.cli.main import main

    install()
    main(sys.argv[1:])
