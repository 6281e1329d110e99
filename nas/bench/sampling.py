"""How fast architectures are sampled, and how large and how different they are."""

import math
import time
from pathlib import Path
from random import Random

from nas.compiler.costs import PrimitiveCosts
from nas.grammar.canonical import canonical_hash
from nas.grammar.expression import Value
from nas.grammar.space import Space

CONTEXT: dict[str, Value] = {"L": (256, 1024), "D": 64, "causal": False}
"""What a study on two tasks, 64 channels wide and free to look ahead, gives to its space."""


def run(
    space_path: str | Path, count: int = 10_000, seed: int = 0, max_params: int | None = None
) -> dict[str, float | int | str | None]:
    """Sample a space from scratch and measure.

    The time is that of this process on one core, with texts, from a space that is loaded but has
    not been sampled yet; whatever else the machine does is left out.

    Args:
        space_path: The space file.
        count: Number of architectures, at least 1.
        seed: Of the random stream.
        max_params: A cap of parameters to sample under.

    Returns:
        `architectures_per_s`, `nodes_per_s`; `mean_nodes` and `max_nodes` (choices of a
        derivation), `mean_characters`; `distinct_share` by canonical hash; `mean_log_probability`
        in nats; and what was asked for.

    Raises:
        SpaceError: The space is broken, or empty under the cap.
    """
    caps = {} if max_params is None else {"parameters": max_params}
    space = Space.load(str(space_path), context=CONTEXT, costs=PrimitiveCosts(), caps=caps)
    rng = Random(seed)
    characters = 0
    before = time.process_time()
    for _ in range(count):
        characters += len(space.sample(rng).text)
    seconds = time.process_time() - before
    rng = Random(seed)  # the same ones again, to be looked at
    nodes: list[int] = []
    hashes: set[str] = set()
    information = 0.0
    for _ in range(count):
        derivation = space.sample(rng)
        nodes.append(derivation.size)
        hashes.add(canonical_hash(derivation))
        information += space.log_probability(derivation)
    return {
        "space": Path(space_path).name,
        "count": count,
        "seed": seed,
        "max_params": max_params,
        "architectures_per_s": count / seconds if seconds else math.inf,
        "nodes_per_s": sum(nodes) / seconds if seconds else math.inf,
        "mean_nodes": sum(nodes) / count,
        "max_nodes": max(nodes),
        "mean_characters": characters / count,
        "distinct_share": len(hashes) / count,
        "mean_log_probability": information / count,
    }
