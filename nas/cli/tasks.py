"""`nas tasks`: what architectures can be trained on."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from nas.cli.options import Data, Json, ProfileOption, own_task
from nas.errors import UsageError
from nas.report.output import figure, messages, print_line, rounded, tables

if TYPE_CHECKING:
    from rich.progress import TaskID

_EXAMPLES = 3
_MOST = 1200  # characters of an example that are shown
_SCREEN = (80, 36)  # columns and lines: a picture that is no larger is shown whole


def tasks(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A task or a suite, or one of your own (path/to/task.py:make); none: list them.",
            callback=own_task,
        ),
    ] = None,
    profile: ProfileOption = None,
    data: Data = None,
    download: Annotated[
        bool,
        typer.Option(
            "--download",
            help="Fetch the original files of the task (of a suite: of all its parts) into the "
            "user's cache first. NAS_OFFLINE=1 forbids it.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """List the tasks, or describe one and show three of its examples."""
    if name is None:
        if download:
            raise UsageError("--download needs the name of a task or a suite")
        _list(as_json)
        return
    if download:
        _download(name)
    from nas.cli.options import choose_profile
    from nas.tasks.published import figures
    from nas.tasks.published import told as published
    from nas.tasks.registry import load_task

    suite = load_task(name, choose_profile(profile), data)
    for message in suite.messages:
        messages.print(escape(message))
    for task in suite.tasks:
        split = task.splits["train"]
        shown = min(_EXAMPLES, len(split))
        examples = [task.decode(split.inputs[i], split.targets[i]) for i in range(shown)]
        row = {
            "name": task.name,
            "profile": task.profile,
            "summary": task.summary,
            "definition": task.definition,
            "length": task.length,
            "causal": task.causal,
            "batch_size": task.batch_size,
            "steps": task.steps,
            "metric": task.metric.name,
            "baselines": {rule: rounded(score) for rule, score in task.baselines.items()},
            "data_hash": task.data_hash,
            "setting": str(task.setting),
            "published": [asdict(figure) for figure in figures(task)],
        }
        if as_json:
            print_line({**row, "examples": examples})
            continue
        row["baselines"] = ", ".join(
            f"{rule} {figure(score)}" for rule, score in task.baselines.items()
        )
        row["published"] = published(figures(task)) or "nothing at this setting"
        for key, value in row.items():
            typer.echo(f"{key:12}{value}")
        for example in examples:
            typer.echo(f"\n{_shortened(example)}")
        typer.echo()


def _shortened(example: str) -> str:
    lines = example.splitlines()
    picture = max(map(len, lines), default=0) <= _SCREEN[0] and len(lines) <= _SCREEN[1]
    if len(example) <= _MOST or picture:
        return example
    return (
        f"{example[: _MOST // 2]} ... {example[-_MOST // 2 :]}\n({len(example)} characters in all)"
    )


def _download(name: str) -> None:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from nas.tasks.download import fetch
    from nas.tasks.registry import archives_of

    for archive in archives_of(name):
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        with Progress(*columns, TimeRemainingColumn(), console=messages, transient=True) as bar:
            line = bar.add_task(archive.name, total=archive.size)

            def advance(there: int, bar: Progress = bar, line: "TaskID" = line) -> None:
                bar.update(line, completed=there)

            path = fetch(archive, progress=advance)
        messages.print(f"{archive.url}: {path}", markup=False)


def _list(as_json: bool) -> None:
    from nas.tasks.registry import TASKS

    if as_json:
        for name, entry in sorted(TASKS.items()):
            print_line({"name": name, "summary": entry.summary, "knobs": list(entry.knobs)})
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("name")
    table.add_column("what is asked")
    table.add_column("knobs")
    for name, entry in sorted(TASKS.items()):
        table.add_row(name, entry.summary, ", ".join(entry.knobs))
    tables.print(table)
