"""`nas train`: one architecture on one task."""

from pathlib import Path
from typing import Annotated

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
from nas.report.output import messages as console


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
    from nas.report.bar import bar
    from nas.report.teller import Teller
    from nas.resources import find_architecture, find_space
    from nas.tasks.registry import load_task
    from nas.training.depth import at_depth
    from nas.training.plan import plan
    from nas.training.sweep import chosen, sweep

    if learning_rate is not None and learning_rate <= 0:
        raise UsageError(f"--learning-rate must be positive, not {learning_rate}")
    profile = choose_profile(profile)
    suite = load_task(task, profile, data)
    for message in suite.messages:
        console.print(message)
    # One thread, as in a search: two on a busy machine are many times slower, not faster.
    torch.set_num_threads(1)
    text = find_architecture(architecture)
    found_space = find_space(space)
    of_zoo = "(" not in architecture and not Path(architecture).is_file()
    plans = [
        plan(
            part,
            usual_width=choose_width(None, profile),
            seeds=range(seed, seed + seeds),
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            steps=steps,
            width=width,
            depth=depth,
            lengths=eval_length,
            test=test,
        )
        for part in suite.tasks
    ]
    teller = Teller(suite, json=json, breakdown=breakdown)
    for each in plans:
        teller.announce(each)
        part, usual = each.task, each.task.setting.depth if of_zoo else None
        for d in each.widths:
            loaded = Space.load(
                found_space, context={"L": (part.length,), "D": d, "causal": part.causal}
            )
            trainings = []
            for training in sweep(
                at_depth(loaded, text, depth, usual),
                part,
                width=d,
                recipes=each.setting.recipes,
                seeds=each.seeds,
                splits=each.splits,
                also=each.also,
                until_step=each.until,
                enough=each.setting.enough,
                device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
                checkpoints=checkpoints,
                watch=bar,
            ):
                trainings.append(training)
                teller.training(each, d, training)
            teller.choice(each, d, chosen(trainings))
    teller.means()
