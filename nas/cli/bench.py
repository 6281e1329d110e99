"""`nas bench`: every figure this project states about itself comes from one of these."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from nas.cli.options import Data, Json, ProfileOption, Seed
from nas.report.output import print_line, tables

app = typer.Typer(no_args_is_help=True)


@app.command()
def kernels(
    family: Annotated[
        list[str] | None, typer.Argument(help="Families to measure; default: all.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu or cuda; default: a GPU if there is one.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Also write dated .json and .md files there.")
    ] = None,
    growth: Annotated[
        bool, typer.Option("--growth", help="How the time grows with the length, instead.")
    ] = False,
    json: Json = False,
) -> None:
    """Time each kernel family against its floor and its peers; what is wrong is not timed."""
    from nas.kernels.bench import main

    words = [word for name in family or [] for word in ("--family", name)]
    words += ["--device", device] if device else []
    words += ["--out", str(out)] if out else []
    words += ["--growth"] if growth else []
    words += ["--json"] if json else []
    raise typer.Exit(main(words))


@app.command()
def sampling(
    space: Annotated[str, typer.Option("--space", help="The space to sample.")] = "hybrid.lark",
    count: Annotated[int, typer.Option("--count", "-n", min=1)] = 10_000,
    seed: Seed = 0,
    max_params: Annotated[
        int | None, typer.Option("--max-params", help="Also under this cap of parameters.", min=1)
    ] = None,
    json: Json = False,
) -> None:
    """Architectures sampled a second on one core, texts included, and their sizes."""
    from nas.bench.sampling import run
    from nas.resources import find_space

    row = run(find_space(space), count=count, seed=seed, max_params=max_params)
    if json:
        print_line(row)
        return
    table = Table("figure", "value")
    for key, value in row.items():
        table.add_row(key, f"{value:,.3f}" if isinstance(value, float) else str(value))
    tables.print(table)


@app.command()
def trials(
    count: Annotated[int, typer.Option("--count", "-n", min=1)] = 200,
    workers: Annotated[int, typer.Option("--workers", min=1)] = 2,
    json: Json = False,
) -> None:
    """What a trial that trains nothing costs: proposal, record and Ray, in milliseconds."""
    from nas.bench.trials import run

    row = run(count=count, workers=workers)
    if json:
        print_line(row)
        return
    table = Table("figure", "value")
    for key, value in row.items():
        table.add_row(key, f"{value:,.1f}" if isinstance(value, float) else str(value))
    tables.print(table)


@app.command()
def tasks(
    names: Annotated[list[str], typer.Argument(help="Tasks or suites, with their knobs.")],
    profile: ProfileOption = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Examples a second that tasks make or read on one core, into an empty cache."""
    from nas.bench.tasks import run
    from nas.cli.options import choose_profile

    rows = [row for name in names for row in run(name, choose_profile(profile), data)]
    if json:
        for row in rows:
            print_line(row)
        return
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{v:,}" if isinstance(v, int | float) else v for v in row.values()))
    tables.print(table)


@app.command()
def table(
    out: Annotated[Path, typer.Option("--out", help="Folder of the table; it is gone on with.")],
    count: Annotated[int, typer.Option("--count", "-n", help="Architectures.", min=2)] = 300,
    seeds: Annotated[int, typer.Option("--seeds", help="Trainings of each.", min=1)] = 2,
    seed: Seed = 0,
    workers: Annotated[int, typer.Option("--workers", help="Trainings at a time.", min=1)] = 2,
    data: Data = None,
    json: Json = False,
) -> None:
    """Train a pool of architectures once, so that strategies can be compared on it.

    Hours of work: each training is kept as it ends, and the same command goes on where it was
    broken off.
    """
    from datetime import date

    import torch

    from nas.bench.table import build
    from nas.kernels.floors import machine

    about = {"date": date.today().isoformat(), "machine": machine(torch.device("cpu"))}
    for training, left in build(
        out, count=count, seeds=seeds, seed=seed, workers=workers, data=data, about=about
    ):
        score = training.scores[-1] if training.scores and not training.error else None
        if json:
            print_line({"hash": training.hash, "task": training.task, "seed": training.seed,
                        "score": score, "seconds": training.seconds, "left": left})  # fmt: skip
        else:
            told = "failed: " + training.error if score is None else f"{score:.4f}"
            typer.echo(f"{training.hash[:10]} {training.task} seed {training.seed}: {told}, "
                       f"{training.seconds:.0f} s; {left} left")  # fmt: skip
