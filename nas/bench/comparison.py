"""What `nas bench search` does: runs of strategies, kept as dated files."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path

import torch

from nas.bench.objectives import OBJECTIVES
from nas.bench.replay import replay
from nas.bench.report import markdown, picture
from nas.bench.search import DEVELOPMENT, HELD_OUT, NOISE, Run, compare
from nas.bench.table import TASKS, SearchTable, space_of
from nas.errors import NasError, UsageError
from nas.kernels.floors import machine
from nas.search.strategy import STRATEGIES


def measure(
    strategies: Sequence[str],
    *,
    objectives: Sequence[str],
    noise: Sequence[float],
    seeds: int | None,
    held_out: bool,
    table: Path | None,
    trials: int,
    workers: int,
    tell: Callable[[Run], None],
) -> list[Run]:
    """Run strategies, and random search beside them.

    Args:
        strategies: Names; (): all.
        objectives: Names of `OBJECTIVES`; (): all.
        noise: Levels; (): `NOISE`.
        seeds: How many; None: all that there are.
        held_out: Take those that nothing was tuned on.
        table: A table to replay instead of objectives.
        trials: Of each run.
        workers: Runs at a time.
        tell: Called with each run as it ends.

    Raises:
        UsageError: A name is unknown, or there are not so many seeds.
        NasError: The table cannot be read, or is not finished.
    """
    for kind, names, known in (
        ("strategy", strategies, STRATEGIES),
        ("objective", objectives, OBJECTIVES),
    ):
        for name in names:
            if name not in known:
                raise UsageError(f"no {kind} {name!r}: choose among {', '.join(known)}")
    chosen = list(dict.fromkeys(["random", *(strategies or STRATEGIES)]))
    numbers = HELD_OUT if held_out else DEVELOPMENT
    if seeds is not None and seeds > len(numbers):
        raise UsageError(f"--seeds {seeds}: there are {len(numbers)}")
    numbers = numbers[:seeds]
    runs = []
    if table is not None:
        tasks = [sized.load(None) for sized in TASKS]
        try:
            found = replay(
                SearchTable.read(table), space_of(tasks), chosen, seeds=numbers, trials=trials
            )
            for run in found:
                tell(run)
                runs.append(run)
        except ValueError as error:
            raise NasError(str(error)) from error
        return runs
    for run in compare(
        chosen,
        objectives=objectives or tuple(OBJECTIVES),
        noise=noise or NOISE,
        seeds=numbers,
        trials=trials,
        workers=workers,
    ):
        tell(run)
        runs.append(run)
    return runs


def write(runs: Sequence[Run], folder: Path, table: Path | None) -> None:
    """Keep runs as `search-DATE.md`, `.json` and `.png` (`search-replay-DATE` of a table).

    Raises:
        NasError: They cannot be written.
    """
    today = date.today().isoformat()
    about = {
        "date": today,
        "machine": ", ".join(f"{k} {v}" for k, v in machine(torch.device("cpu")).items()),
        "seeds": ", ".join(map(str, sorted({run.seed for run in runs}))),
        "trials": max(len(run.best) for run in runs),
    }
    name = f"search-{'replay-' if table else ''}{today}"
    heading = "Strategies on a table of trained architectures" if table else "Strategies"
    rows = [
        {**asdict(run), "best": [round(b, 5) for b in run.best]}
        for run in sorted(runs, key=lambda r: (r.objective, r.noise, r.strategy, r.seed))
    ]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.md").write_text(markdown(runs, about, heading), encoding="utf-8")
        text = "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise NasError(f"cannot write into {folder}: {error.strerror}") from error
    picture(runs, folder / f"{name}.png")
