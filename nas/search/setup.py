"""From what a person asks for to a study's definition, and from a definition back to a search."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nas.compiler.architecture import Architecture
from nas.compiler.costs import PrimitiveCosts, shape_of
from nas.compiler.fit import refuse_misfits
from nas.errors import UsageError
from nas.grammar.analysis import analyse
from nas.grammar.canonical import canonical_hash
from nas.grammar.derivation import Derivation
from nas.grammar.errors import SpaceError
from nas.grammar.space import Space
from nas.layers.own import hashes
from nas.resources import find_architecture, find_space, packaged_architectures
from nas.search.strategy import STRATEGIES
from nas.study.definition import Definition
from nas.tasks.own.code import task_hashes
from nas.tasks.recipe import Recipe
from nas.tasks.suite import Suite

BASELINES = ("transformer", "mingru", "hawk", "griffin", "tcn", "moe_transformer")
"""Of the zoo: what a study begins with and is compared with, unless it is told otherwise. Few, as
all are trained at several learning rates first, and retrained at the end."""

WHOLE_ZOO = "zoo"
"""As a starting architecture: all of the zoo."""

RUNGS = 3
"""Number of rungs, the full budget included."""

ETA = 3
"""One trial in so many goes on from a rung; rungs are that far apart."""


def define(
    suite: Suite,
    *,
    space: str,
    strategy: str,
    width: int,
    seed: int,
    max_params: int | None = None,
    max_flops: int | None = None,
    start: Sequence[str] | None = None,
    final_seeds: int = 3,
    data: Path | None = None,
) -> Definition:
    """The definition of a new study.

    Unless they are given, the caps are the costs of the dearest starting architecture, so that
    nothing wins by being larger than what it is compared with.

    Args:
        suite: The tasks there are data for; they are frozen in the study.
        space: Path or bare name of the space file.
        strategy: One of `STRATEGIES`.
        width: D.
        seed: Of everything random.
        max_params: Most parameters of an architecture's body; embedding and head are the same for
            all and do not count.
        max_flops: Most FLOPs of the body for one sequence of the longest task.
        start: Architectures measured first: zoo names, files or texts, or `zoo` for all of the
            zoo that is in the space; None: of `BASELINES` those that are in the space.
        final_seeds: Fresh seeds of the final comparison.
        data: Folder with real data.

    Raises:
        SpaceError: The space is wrong, speaks of layers that there are not, or a starting
            architecture that was asked for is not in it.
        UsageError: A name is unknown, a starting architecture is over a cap, or there is none and
            no cap either.
    """
    if strategy not in STRATEGIES:
        raise UsageError(f"unknown strategy {strategy!r}: choose one of {', '.join(STRATEGIES)}")
    loaded = Space.load(str(find_space(space)), context=context_of(suite, width))
    if loaded.grammar.max_depth is None:
        found = analyse(loaded)
        if not found.ends:
            raise SpaceError(
                str(found.warning), loaded.grammar.rules[loaded.grammar.start][0].location
            )
    refuse_misfits(loaded)
    zoo = {_hash(loaded, path.stem): path.stem for path in packaged_architectures()}
    names = _names(start, [name for key, name in zoo.items() if key is not None])
    texts = [_parse(loaded, name).text for name in names]
    costs = [_architecture(loaded, text) for text in texts]
    if not costs and not (max_params and max_flops):
        raise UsageError(
            f"no architecture of the zoo is in {space}: name one of its own with --start, or the "
            "sizes to stay under with --max-params and --max-flops"
        )
    caps = {
        "parameters": max_params or max(cost.parameters for cost in costs),
        "flops": max_flops or max(cost.flops for cost in costs),
    }
    for text, cost in zip(texts, costs, strict=True):
        for measure, cap in caps.items():
            if getattr(cost, measure) > cap:
                flag = "--max-params" if measure == "parameters" else "--max-flops"
                raise UsageError(
                    f"the starting architecture {text} has {getattr(cost, measure):,} {measure}, "
                    f"over the cap of {cap:,}: raise {flag}, or choose others with --start"
                )
    steps = max(task.steps for task in suite.tasks)
    recipe = Recipe().as_dict()
    del recipe["learning_rate"]
    return Definition(
        space=space,
        space_files=dict(loaded.grammar.files),
        space_hash=loaded.hash,
        task=suite.name,
        tasks=suite.names,
        profile=suite.profile,
        data_hashes={task.name: task.data_hash for task in suite.tasks},
        width=width,
        caps=caps,
        strategy=strategy,
        seed=seed,
        rungs=rungs(steps),
        eta=ETA,
        recipe=recipe,
        start=tuple(texts),
        final_seeds=final_seeds,
        layers=hashes(),
        task_files=task_hashes(),
        baselines=_baselines(loaded, texts, zoo),
        score=suite.score_name,
        data=None if data is None else str(data.absolute()),
    )


def left_out_baselines(definition: Definition, start: Sequence[str] | None) -> list[str]:
    """Names of the zoo's texts that a study would begin with, were they in its space."""
    named = set(definition.baselines.values())
    wanted = _names(start, [path.stem for path in packaged_architectures()])
    return [] if start and WHOLE_ZOO not in start else [n for n in wanted if n not in named]


def redefine(definition: Definition, suite: Suite, data: Path | None) -> Definition:
    """A study's definition made again from the files and data as they are now, to compare."""
    context = context_of(suite, definition.width)
    try:
        loaded = Space.load(str(find_space(definition.space)), context=context)
    except UsageError:  # its file has moved: the study has it
        loaded = _recorded(definition, context=context)
    return replace(
        definition,
        space_hash=loaded.hash,
        tasks=suite.names,
        profile=suite.profile,
        score=suite.score_name,
        data_hashes={task.name: task.data_hash for task in suite.tasks},
        data=definition.data if data is None else str(data.absolute()),
    )


def space_of(definition: Definition, suite: Suite) -> Space:
    """The space of a study, in its context and under its caps, as the study has recorded it."""
    costs = PrimitiveCosts(tuple(definition.caps))
    context = context_of(suite, definition.width)
    return _recorded(definition, context=context, costs=costs, caps=definition.caps)


def _recorded(definition: Definition, **keywords: Any) -> Space:
    """Load the space as it was when the study began, wherever its files are now."""
    with suppress(SpaceError):
        loaded = Space.load(next(iter(definition.space_files)), **keywords)
        if dict(loaded.grammar.files) == dict(definition.space_files):
            return loaded
    files = {Path(path).absolute(): text for path, text in definition.space_files.items()}
    above = os.path.commonpath([path.parent for path in files])
    with TemporaryDirectory() as folder:
        copies = [Path(folder, path.relative_to(above)) for path in files]
        for copy, text in zip(copies, files.values(), strict=True):
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(text, encoding="utf-8")
        return Space.load(str(copies[0]), **keywords)


def start_of(definition: Definition, space: Space) -> list[Derivation]:
    """A study's starting architectures."""
    return [space.parse(text) for text in definition.start]


def context_of(suite: Suite, width: int) -> Mapping[str, tuple[int, ...] | int | bool]:
    """What a study's tasks and width give to the space."""
    return {"L": suite.lengths, "D": width, "causal": suite.causal}


def rungs(steps: int) -> tuple[int, ...]:
    """Steps of the rungs of a full budget: thirds of thirds."""
    found = {max(1, round(steps / ETA**k)) for k in range(RUNGS)}
    return tuple(sorted(found))


def _names(start: Sequence[str] | None, zoo: Sequence[str]) -> list[str]:
    """The starting architectures that were asked for, of the zoo those that there are."""
    if not start:
        return [name for name in BASELINES if name in zoo]
    return [name for word in start for name in (zoo if word == WHOLE_ZOO else [word])]


def _baselines(space: Space, texts: Sequence[str], zoo: Mapping[str | None, str]) -> dict[str, str]:
    """Names by canonical hash: of all the zoo's texts, as none of them may count as found here.

    Starting architectures of one's own are named by their position.
    """
    hashes = [canonical_hash(space.parse(text)) for text in texts]
    named = {key: name for key, name in zoo.items() if key is not None}
    return {key: f"start {i}" for i, key in enumerate(hashes, start=1)} | named


def _hash(space: Space, name: str) -> str | None:
    """Canonical hash of a zoo text; None when it is not in this space."""
    try:
        return canonical_hash(_parse(space, name))
    except SpaceError:
        return None


def _parse(space: Space, name: str) -> Derivation:
    try:
        return space.parse(find_architecture(name))
    except SpaceError as error:
        raise SpaceError(f"{name} is not an architecture of this space: {error}") from error


def _architecture(space: Space, text: str) -> Architecture:
    derivation = space.parse(text)
    return Architecture.from_term(derivation.term, shape_of(dict(space.context.items())))
