"""`nas zoo`: published architectures as texts of a space."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.options import Data, Json, Layers, ProfileOption, Width, WidthOfProfile, own_tasks
from nas.report.output import messages, print_line, tables
from nas.report.zoo import outcome_line, print_verdicts, table, verdict_row

if TYPE_CHECKING:
    from nas.zoo.probes import Outcome

app = typer.Typer(no_args_is_help=True)

Names = Annotated[
    list[str] | None, typer.Argument(help="Names or files; all that are packaged by default.")
]

SpaceOption = Annotated[str, typer.Option("--space", help="The space the texts belong to.")]
Length = Annotated[int, typer.Option("--length", help="Tokens L.", min=1)]


@app.command("list")
def list_(
    space: SpaceOption = "hybrid.lark", width: Width = 64, length: Length = 128, json: Json = False
) -> None:
    """The packaged architectures: where each comes from, what it costs, how likely it is.

    Costs are of the body at one width and length, causal where the architecture allows it; the
    state is what a stream keeps after so many tokens. The log-probability is the space's.
    """
    from nas.grammar.errors import SpaceError
    from nas.zoo.published import place, spaces, zoo

    candidates = spaces(space, (length,), width)
    rows: list[dict[str, Any]] = []
    for each in zoo():
        row: dict[str, Any] = {"name": each.name, "source": each.source}
        try:
            placed = place(each.text, candidates)
        except SpaceError:
            rows.append(row)
            continue
        made = placed.architecture
        rows.append(
            row
            | {
                "causal": placed.shape.causal,
                "parameters": made.parameters,
                "flops": made.flops,
                "state": made.state,
                "log_probability": round(placed.space.log_probability(placed.derivation), 3),
            }
        )
    if json:
        for row in rows:
            print_line(row)
        return
    tables.print(table(rows, ("parameters", "flops", "state", "log_probability", "source")))


@app.command()
def check(
    names: Names = None,
    space: SpaceOption = "hybrid.lark",
    layers: Layers = None,
    width: Width = 64,
    length: Length = 128,
    causal: Annotated[
        bool | None,
        typer.Option(
            "--causal/--bidirectional", help="Default: causal where the text is, else not."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """The four conditions under which a published system counts as said by the space.

    Its text parses, and it keeps its promises (costs, gradients, causality, the same outputs token
    by token): both are tried now. A test compares it with its equations: named. It learns a task
    that it is known to solve: what it reached, from the dated file of `nas zoo probe`.

    Exit code 1 when one of them does not work.
    """
    from nas.errors import NasError
    from nas.zoo.conditions import judge, records
    from nas.zoo.published import published, spaces, zoo

    candidates = spaces(space, (length,), width)
    if causal is not None:
        candidates = candidates[:1] if causal else candidates[1:]
    wanted = [published(name) for name in names] if names else zoo()
    known = records()
    verdicts = [judge(each, candidates, known) for each in wanted]
    rows = [verdict_row(verdict) for verdict in verdicts]
    if json:
        for row in rows:
            print_line(row)
    else:
        print_verdicts(rows, length)
    broken = [str(row["name"]) for row in rows if not row["works"]]
    if broken:
        raise NasError(f"{len(broken)} of {len(rows)} do not work: {', '.join(broken)}")


@app.command()
def probe(
    names: Names = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            help="A task; may be repeated. Default: the one each text names.",
            callback=own_tasks,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="Trainings of each.", min=1)] = 1,
    steps: Annotated[
        list[int] | None,
        typer.Option("--steps", help="Budgets tried in turn until it is solved.", min=1),
    ] = None,
    learning_rate: Annotated[float, typer.Option("--learning-rate", "--lr")] = 3e-3,
    width: WidthOfProfile = None,
    profile: ProfileOption = None,
    space: SpaceOption = "hybrid.lark",
    workers: Annotated[int, typer.Option("--workers", help="Trainings at a time.", min=1)] = 1,
    data: Data = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A .json file to add to; its .md is written beside it."),
    ] = None,
    json: Json = False,
) -> None:
    """Train published systems on tasks that they are known to solve.

    What stands in the file of `--out` already (same architecture, task, seed, width and learning
    rate; solved, or trained for as long) is not trained again, so that a run that was broken off
    goes on.
    """
    from datetime import date

    import torch

    from nas.cli.options import choose_profile, choose_width
    from nas.errors import NasError, UsageError
    from nas.grammar.canonical import canonical_hash
    from nas.grammar.errors import SpaceError
    from nas.kernels.floors import machine
    from nas.tasks.own.code import task_sources
    from nas.zoo.probes import Probe, run_all, task_of
    from nas.zoo.published import place, published, spaces, zoo
    from nas.zoo.record import save, saved

    if out is not None and out.suffix != ".json":
        raise UsageError(f"--out names a .json file, not {out}")
    chosen = choose_profile(profile)
    width = choose_width(width, chosen)
    candidates = spaces(space, (64,), width)
    budgets = tuple(sorted(steps or (600, 1800)))
    outcomes = {} if out is None else {_key(outcome): outcome for outcome in saved(out)}
    known = {
        key for key, outcome in outcomes.items() if outcome.steps >= budgets[-1] or outcome.solved
    }
    probes = []
    for each in [published(name) for name in names] if names else zoo():
        asked = task or ([each.probe] if each.probe else [])
        if not asked:
            raise UsageError(f"{each.name} names no probe task: give --task")
        try:
            hash_ = canonical_hash(place(each.text, candidates).derivation)
        except SpaceError as error:
            raise NasError(f"{each.name}: {error}") from error
        for wanted in asked:
            for seed in range(seeds):
                if (hash_, wanted, seed, width, learning_rate) in known:
                    continue
                probes.append(
                    Probe(
                        name=each.name,
                        text=each.text,
                        hash=hash_,
                        task=wanted,
                        seed=seed,
                        width=width,
                        profile=chosen,
                        steps=budgets,
                        learning_rate=learning_rate,
                        space=space,
                        data=None if data is None else str(data),
                        task_files=task_sources(),
                    )
                )
    for wanted in sorted({each.task for each in probes}):
        task_of(wanted, chosen, None if data is None else str(data))
    about = {
        "date": date.today().isoformat(),
        "machine": ", ".join(
            f"{key} {value}" for key, value in machine(torch.device("cpu")).items()
        ),
    }
    for outcome in run_all(probes, workers):
        if json:
            print_line(vars(outcome))
        else:
            typer.echo(outcome_line(outcome))
        outcomes[_key(outcome)] = outcome
        if out is not None:
            save(out, outcomes.values(), about)
    if not probes:
        messages.print("nothing to train: all of it stands in the file")


def _key(outcome: "Outcome") -> tuple[str, str, int, int, float]:
    return outcome.hash, outcome.task, outcome.seed, outcome.width, outcome.learning_rate
