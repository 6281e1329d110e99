"""`nas train`: one architecture on one task."""

import math
import re
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli.options import (
    Data,
    Json,
    Layers,
    ProfileOption,
    Seed,
    choose_profile,
    choose_width,
    own_task,
)
from nas.report.output import figure, print_line, rounded
from nas.report.output import messages as console

if TYPE_CHECKING:
    from nas.grammar.derivation import Term
    from nas.grammar.space import Space
    from nas.tasks.base import Task
    from nas.tasks.published import Figure
    from nas.tasks.setting import Setting
    from nas.tasks.suite import Suite
    from nas.training.sweep import Trained
    from nas.training.train import Held


def train(
    architecture: Annotated[
        str, typer.Argument(help="A zoo name (hawk), a file, or an architecture's text.")
    ],
    task: Annotated[
        str,
        typer.Option(
            "--task",
            help="A task or a suite (see `nas tasks`), or one of your own: path/to/task.py:make, "
            "data.csv, data.npz, data.parquet.",
            callback=own_task,
        ),
    ],
    space: Annotated[
        str, typer.Option("--space", help="The space the text belongs to.")
    ] = "hybrid.lark",
    profile: ProfileOption = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate",
            "--lr",
            help="Peak learning rate. Default: 3e-3; with --profile paper those of the task's "
            "publication, validation choosing one.",
        ),
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option("--weight-decay", help="Default: as of --lr.", min=0)
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Stop after so many steps.", min=1)
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            "--width",
            help="Channels D. Default: 32; with --profile paper those of the task's publication, "
            "or 128.",
            min=1,
        ),
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option(
            "--depth",
            help="How often the architecture's `stack` repeats its block. Default: as its text "
            "says; with --profile paper, a system of the zoo takes the publication's depth.",
            min=1,
        ),
    ] = None,
    seed: Seed = 0,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds", help="Trainings, from --seed on: the mean, its 95% interval.", min=1
        ),
    ] = 1,
    eval_length: Annotated[
        str | None,
        typer.Option(
            "--eval-length",
            help="Measure at other lengths, too: 2x,4x of the trained one, or numbers of tokens.",
        ),
    ] = None,
    breakdown: Annotated[
        bool, typer.Option("--breakdown", help="Results by position and by difficulty, too.")
    ] = False,
    data: Data = None,
    layers: Layers = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, ...; default: a GPU if there is one.")
    ] = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            "--checkpoints",
            help="Keep checkpoints there, of each training in a folder of its own, and go on from "
            "them: nothing is trained twice.",
        ),
    ] = None,
    test: Annotated[
        bool,
        typer.Option(
            "--test",
            help="Score on the test split instead of validation. Where validation chooses among "
            "recipes, the chosen one is scored on test without being asked.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Train one architecture on a task and score it.

    With --profile paper the publication's whole setting is gone through: its widths, its learning
    rates and weight decays (validation chooses), its depth, its budget.
    """
    import torch

    from nas.errors import UsageError
    from nas.grammar.space import Space
    from nas.report import training as told
    from nas.resources import find_architecture, find_space
    from nas.tasks.published import figures
    from nas.tasks.published import told as published
    from nas.tasks.registry import load_task
    from nas.training.sweep import chosen, sweep

    if learning_rate is not None and learning_rate <= 0:
        raise UsageError(f"--learning-rate must be positive, not {learning_rate}")
    profile = choose_profile(profile)
    suite = load_task(task, profile, data)
    for message in suite.messages:
        console.print(message)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    # One thread, as in a search: two on a busy machine are many times slower, not faster.
    torch.set_num_threads(1)
    text = find_architecture(architecture)
    found_space = find_space(space)
    of_zoo = "(" not in architecture and not Path(architecture).is_file()
    longer = {part.name: _longer(part, eval_length) for part in suite.tasks}
    changed = any(value is not None for value in (learning_rate, weight_decay, steps, depth))
    scores: dict[int, dict[str, list[float]]] = {}
    for part in suite.tasks:
        setting = _setting(part, learning_rate, weight_decay, width, depth)
        widths = setting.widths or (choose_width(None, profile),)
        swept = len(setting.recipes) > 1
        splits: tuple[Held, ...] = ("test",) if test else ("validation",)
        if swept:
            splits = ("validation", "test")
        _announce(part, setting, len(widths) * len(setting.recipes) * seeds, steps)
        for each in widths:
            loaded = Space.load(
                found_space, context={"L": (part.length,), "D": each, "causal": part.causal}
            )
            trainings: list[Trained] = []
            for training in sweep(
                _term(loaded, text, depth, part.setting.depth if of_zoo else None),
                part,
                width=each,
                recipes=setting.recipes,
                seeds=range(seed, seed + seeds),
                splits=splits,
                also=longer[part.name],
                until_step=steps,
                enough=setting.enough,
                device=device,
                checkpoints=checkpoints,
                watch=_bar,
            ):
                trainings.append(training)
                if json:
                    print_line(told.row(part, each, training, breakdown=breakdown))
                    continue
                line = told.line(part, each, training, swept=swept)
                typer.echo(line if swept else f"{line}; trivial: {told.trivial(part)}")
                if breakdown and training.result.evaluations:
                    of = training.result.evaluations[splits[0]][0]
                    typer.echo("\n".join(told.breakdown_lines(of)))
            best = chosen(trainings)
            last = splits[-1]
            found = [training.result.evaluations[last] for training in best]
            values = [evaluations[0].value for evaluations in found]
            scores.setdefault(each, {})[part.name] = [part.metric.score(v) for v in values]
            beside: tuple[Figure, ...] = ()
            if last == "test" and not changed and each in (part.setting.widths or (each,)):
                beside = figures(part, each)
            if json:
                if swept:
                    print_line(told.choice_row(part, each, best, beside))
                continue
            if swept:
                typer.echo(told.choice(part, each, best[0].recipe, values))
                typer.echo(f"trivial: {told.trivial(part)}")
            for same_length in zip(*found, strict=True):
                if seeds > 1 or same_length[0].length != part.length:
                    typer.echo(told.at_length(part, last, same_length))
            if beside:
                typer.echo(f"published: {published(beside)}")
    _tell_means(suite, scores, seeds, json)


def _setting(
    task: "Task",
    learning_rate: float | None,
    weight_decay: float | None,
    width: int | None,
    depth: int | None,
) -> "Setting":
    """The setting of the task's publication, with what the call says instead."""
    setting = task.setting
    if width is not None:
        setting = replace(setting, widths=(width,))
    if depth is not None:
        setting = replace(setting, depth=depth)
    if learning_rate is not None:
        setting = setting.with_rate(learning_rate)
    if weight_decay is not None:
        setting = setting.with_decay(weight_decay)
    return setting


def _announce(task: "Task", setting: "Setting", trainings: int, steps: int | None) -> None:
    """Says, before hours pass, what is about to be trained."""
    if setting.source or trainings > 1:
        count = "1 training" if trainings == 1 else f"{trainings} trainings"
        most = min(steps or task.steps, task.steps)
        console.print(f"{task.name}: {count} of {most:,} steps", markup=False)
    if setting.source:
        console.print(f"  after {setting}", markup=False)


def _term(space: "Space", text: str, depth: int | None, usual: int | None) -> "Term":
    """The architecture, with its outermost stack as deep as asked."""
    from nas.errors import UsageError

    derivation = space.parse(text)
    wanted = depth or usual
    if wanted is None:
        return derivation.term
    written = derivation.text
    stack = re.search(r"\bstack\((\d+), ", written)
    if stack is None:
        if depth is not None:
            raise UsageError("--depth: this architecture has no stack(N, ...) to repeat its block")
        return derivation.term
    end = open_ = 0
    for end in range(stack.end(), len(written)):
        open_ += {"(": 1, ")": -1}.get(written[end], 0)
        if open_ < 0:
            break
    block = written[stack.end() : end]
    repeated = block if wanted == 1 else f"stack({wanted}, {block})"
    return space.parse(written[: stack.start()] + repeated + written[end + 1 :]).term


def _tell_means(
    suite: "Suite", scores: dict[int, dict[str, list[float]]], seeds: int, json: bool
) -> None:
    """The scores of a suite, and of those of its tasks that are one task in several settings."""
    from nas.report.training import spread

    if len(suite.tasks) == 1:
        return
    groups: dict[str, list[str]] = {}
    for name in suite.names:
        groups.setdefault(name.partition("[")[0], []).append(name)
    for width, by_task in scores.items():
        at = f" at D={width}" if len(scores) > 1 else ""
        for group, names in groups.items():
            if 1 < len(names) < len(suite.names):
                mean = statistics.fmean(statistics.fmean(by_task[name]) for name in names)
                if json:
                    print_line({"name": group, "width": width, "score": rounded(mean)})
                else:
                    typer.echo(f"{group}{at}: mean score {figure(mean)} over {len(names)} settings")
        if set(by_task) != set(suite.names):
            continue
        means = [
            suite.score({name: values[run] for name, values in by_task.items()})
            for run in range(seeds)
        ]
        if json:
            mean = statistics.fmean(means)
            print_line({"name": suite.name, "width": width, "score": rounded(mean)})
        else:
            count = len(suite.tasks)
            typer.echo(f"{suite.name}{at}: mean score {spread(means)} over {count} tasks")


def _longer(task: "Task", asked: str | None) -> tuple["Task", ...]:
    """The task at other lengths."""
    from nas.errors import UsageError

    lengths = []
    for word in filter(None, (asked or "").split(",")):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)x|(\d+)", word.strip())
        if match is None:
            raise UsageError(f"--eval-length is like 2x,4x or 512, not {word!r}")
        length = int(match[2]) if match[2] else math.ceil(float(match[1]) * task.length)
        if length < 1:
            raise UsageError(f"--eval-length: a sequence needs at least one token, not {length}")
        lengths.append(length)
    if lengths and task.longer is None:
        raise UsageError(f"{task.name} has one length, {task.length}: leave --eval-length out")
    return tuple(task.longer(length) for length in lengths if task.longer is not None)


@contextmanager
def _bar(name: str, total: int) -> Iterator[Callable[[int, float], None]]:
    """Shows progress; its function takes the step and its loss."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    line = bar.add_task(name, total=total, loss=0.0)
    with bar:
        yield lambda step, loss: bar.update(line, completed=step, loss=loss)
