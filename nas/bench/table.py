"""A table of trained architectures: what a search would have measured, without the training.

Every member of a pool is trained once on each task from each seed, and measured at the rungs that a
study has. Strategies are compared by replaying them on the table.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from nas.bench.pool import Member, capped, draw_pool
from nas.errors import NasError, UsageError
from nas.grammar.expression import Value
from nas.grammar.space import Space
from nas.resources import find_space
from nas.search.setup import rungs
from nas.tasks.base import Task
from nas.tasks.recipe import Recipe
from nas.tasks.registry import load_task

WIDTH = 32
SPACE = "hybrid.lark"


@dataclass(frozen=True)
class Sized:
    """A task with a budget of the table's own.

    Args:
        name: The task, with its knobs.
        batch_size: Examples a step.
        steps: The full budget.
    """

    name: str
    batch_size: int
    steps: int

    def load(self, data: Path | None) -> Task:
        """The task, at its `small` profile.

        Raises:
            UsageError: Its data is missing.
        """
        (task,) = load_task(self.name, "small", data).tasks
        return replace(task, batch_size=self.batch_size, steps=self.steps)


TASKS = (
    Sized("char_lm/tinyshakespeare[length=32]", 32, 450),
    Sized("mqar[length=24,pairs=3]", 32, 600),
)
"""Two that ask for different things: the next character of a text, and recall."""


@dataclass(frozen=True)
class Training:
    """One training of the table.

    Args:
        hash: The architecture's.
        task: The task's name.
        seed: Of weights and data order.
        steps: Where it was measured: the rungs.
        scores: On validation at these; fewer where it failed.
        test: On test at the end; None where it failed.
        losses: `[step, mean training loss since the point before]`.
        seconds: Of the processor, measurements included.
        parameters: Of the whole model.
        error: Why it failed, or "".
    """

    hash: str
    task: str
    seed: int
    steps: tuple[int, ...]
    scores: tuple[float, ...]
    test: float | None
    losses: tuple[tuple[int, float], ...]
    seconds: float
    parameters: int
    error: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """What it is the training of."""
        return self.hash, self.task, self.seed


@dataclass(frozen=True)
class SearchTable:
    """A pool and its trainings.

    Args:
        about: What it came from: date, machine, space, seed.
        members: The pool.
        trainings: By hash, task and seed.
    """

    about: Mapping[str, Any]
    members: tuple[Member, ...]
    trainings: Mapping[tuple[str, str, int], Training]

    @classmethod
    def read(cls, folder: Path) -> "SearchTable":
        """A table as `build` wrote it, finished or not.

        Raises:
            NasError: A file is missing or damaged.
        """
        try:
            head = json.loads((folder / "pool.json").read_text(encoding="utf-8"))
            members = tuple(Member(**row) for row in head.pop("members"))
            path = folder / "trainings.jsonl"
            rows = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            trainings = [_training(row) for row in rows if row.endswith("}")]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NasError(f"{folder} holds no table of `nas bench table`: {error}") from error
        return cls(head, members, {training.key: training for training in trainings})


def build(
    folder: Path,
    *,
    count: int,
    seeds: int,
    seed: int,
    workers: int,
    data: Path | None,
    about: Mapping[str, Any],
) -> Iterator[tuple[Training, int]]:
    """Train what the table lacks.

    Args:
        folder: Where it stands, or will stand. A pool that stands there is gone on with.
        count: Members of the pool.
        seeds: Trainings of a member on a task.
        seed: Of the pool.
        workers: Trainings at a time.
        data: Folder with original data.
        about: What a new table is to say of itself.

    Yields:
        Each new training, once it stands in the file, and how many are left.

    Raises:
        UsageError: What stands there is of another pool.
        NasError: It cannot be read or written.
    """
    tasks = [sized.load(data) for sized in TASKS]
    wanted = {"space": SPACE, "width": WIDTH, "count": count, "seed": seed}
    if (folder / "pool.json").exists():
        table = SearchTable.read(folder)
        other = [f"{k} {table.about.get(k)}" for k, v in wanted.items() if table.about.get(k) != v]
        if other:
            raise UsageError(f"{folder} holds a table of {', '.join(other)}: name another folder")
    else:
        members = tuple(draw_pool(space_of(tasks), count, seed))
        table = SearchTable({**wanted, **about}, members, {})
        _write_pool(folder, table)
    # Seed by seed and member by member, so that a table that is not finished can be used.
    jobs = [
        (member.hash, member.text, sized, number, data)
        for number in range(seeds)
        for member in table.members
        for sized in TASKS
        if (member.hash, sized.name, number) not in table.trainings
    ]
    with (
        (folder / "trainings.jsonl").open("a", encoding="utf-8") as file,
        ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool,
    ):
        if file.tell():
            file.write("\n")  # the last line may have been cut off
        waiting = [pool.submit(_train, *job) for job in jobs]
        try:
            for left, done in zip(range(len(jobs) - 1, -1, -1), as_completed(waiting), strict=True):
                training = done.result()
                file.write(json.dumps(asdict(training)) + "\n")
                file.flush()
                os.fsync(file.fileno())
                yield training, left
        except OSError as error:
            raise NasError(f"cannot write {file.name}: {error.strerror}") from error
        finally:
            pool.shutdown(cancel_futures=True)


def space_of(tasks: Sequence[Task]) -> Space:
    """The space of the table: causal, and under the caps of a study."""
    lengths = tuple(sorted({task.length for task in tasks}))
    causal = any(task.causal for task in tasks)
    context: dict[str, Value] = {"L": lengths, "D": WIDTH, "causal": causal}
    return capped(Space.load(str(find_space(SPACE)), context=context))


def _train(hash_: str, text: str, sized: Sized, seed: int, data: Path | None) -> Training:
    """One training, measured at every rung."""
    import time

    import torch

    from nas.training.checkpoint import latest_checkpoint
    from nas.training.train import Held, train

    torch.set_num_threads(1)
    task = sized.load(data)
    term = Space.load(
        str(find_space(SPACE)), context={"L": (task.length,), "D": WIDTH, "causal": task.causal}
    )
    derivation = term.parse(text)
    steps = rungs(task.steps)
    scores: list[float] = []
    test: float | None = None
    start = time.process_time()
    with tempfile.TemporaryDirectory(prefix="nas-bench-") as folder:
        for step in steps:
            last = step == steps[-1]
            splits: tuple[Held, ...] = ("validation", "test") if last else ("validation",)
            result = train(
                derivation.term,
                task,
                Recipe(),
                width=WIDTH,
                seed=seed,
                until_step=step,
                resume=latest_checkpoint(Path(folder)),
                checkpoints=Path(folder),
                splits=splits,
            )
            if result.score is None:
                break
            scores.append(round(result.score, 6))
            if last:
                test = round(task.metric.score(result.evaluations["test"][0].value), 6)
    return Training(
        hash=hash_,
        task=sized.name,
        seed=seed,
        steps=steps,
        scores=tuple(scores),
        test=test,
        losses=tuple((at, round(loss, 5)) for at, loss in result.losses),
        seconds=round(time.process_time() - start, 2),
        parameters=result.parameters,
        error=result.error or "",
    )


def _training(row: str) -> Training:
    values = json.loads(row)
    values["losses"] = tuple((step, loss) for step, loss in values["losses"])
    return Training(**values | {name: tuple(values[name]) for name in ("steps", "scores")})


def _write_pool(folder: Path, table: SearchTable) -> None:
    text = json.dumps({**table.about, "members": [asdict(m) for m in table.members]}, indent=1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pool.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise NasError(f"cannot write {folder}: {error.strerror}") from error
