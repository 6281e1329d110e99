"""`nas space learn`: a study's good trials as a sharper space."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from nas.cli.options import RESULTS, Data, Json, Layers, Storage, TaskAgain
from nas.errors import NasError, UsageError
from nas.report.output import messages, print_line, tables

if TYPE_CHECKING:
    from nas.search.sharpen import Sharpened
    from nas.study.definition import Definition


def learn(
    study: Annotated[str, typer.Argument(help="Name of the study; see `nas studies`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .lark file to write.")],
    share: Annotated[
        float, typer.Option("--share", help="Learn from this part of the architectures, the best.")
    ] = 0.25,
    strength: Annotated[
        float | None,
        typer.Option(
            "--strength",
            help="How much the present weights count, in decisions of each rule; "
            "default: by what makes architectures likely that were left out.",
        ),
    ] = None,
    floor: Annotated[
        float,
        typer.Option("--floor", help="No probability falls below this part of what it is."),
    ] = 0.1,
    storage: Storage = RESULTS,
    data: Data = None,
    layers: Layers = None,
    task: TaskAgain = None,
    json: Json = False,
) -> None:
    """Write the study's space with weights learned from its best trials.

    The rules and conditions stay: it has the same architectures, and good ones are more likely.
    """
    from nas.grammar.analysis import analyse
    from nas.grammar.space import Space
    from nas.grammar.writing import written
    from nas.layers.own import refuse_others
    from nas.search.setup import context_of, space_of
    from nas.search.sharpen import sharpen
    from nas.study.study import Study
    from nas.tasks.own.code import refuse_other_tasks
    from nas.tasks.registry import load_task

    if not 0 < share <= 1 or not 0 <= floor < 1 or not (strength is None or strength > 0):
        raise UsageError("--share lies above 0 to 1, --floor from 0 to below 1, --strength above 0")
    found = Study.open(study, storage=storage)
    definition = found.definition
    if out.absolute() in {Path(file).absolute() for file in definition.space_files}:
        raise UsageError(f"{out} is a file of the study's space: write to another with -o")
    refuse_others(definition.layers, study)
    refuse_other_tasks(definition.task_files, study, definition.task)
    folder = data or (Path(definition.data) if definition.data else None)
    suite = load_task(definition.task, definition.profile, folder)
    space = space_of(definition, suite)
    history = [trial.observation for trial in found.trials()]
    learned = sharpen(space, history, share=share, strength=strength, floor=floor)
    context = context_of(suite, definition.width)
    if learned.grammar.max_depth is None:
        analysis = analyse(Space(learned.grammar, context=context))
        if not analysis.ends:
            raise NasError("what was learned may never end: learn less, with --strength 1000")
    out.write_text(written(learned.grammar, _head(learned, definition, study, out)), "utf-8")
    loaded = Space.load(out, context=context)
    row = {
        "study": study,
        "out": str(out),
        "hash": loaded.hash,
        "space_hash": space.hash,
        "architectures": learned.known,
        "good": learned.good,
        "strength": learned.strength,
        "held_out_before": round(learned.before.held_out, 3),
        "held_out_after": round(learned.after.held_out, 3),
        "entropy_before": round(learned.before.entropy, 3),
        "entropy_after": round(learned.after.entropy, 3),
        "nodes_before": round(learned.before.nodes, 1),
        "nodes_after": round(learned.after.nodes, 1),
    }
    if learned.after.held_out <= learned.before.held_out:
        messages.print("these trials tell no more than the grammar says: go on with the study")
    if json:
        print_line(row)
        return
    table = Table("", "before", "after", box=None)
    for name, words in (
        ("held_out", "log-probability of good architectures left out"),
        ("entropy", "entropy of an architecture"),
        ("nodes", "nodes of an architecture"),
    ):
        table.add_row(words, f"{row[f'{name}_before']}", f"{row[f'{name}_after']}")
    tables.print(table)
    tables.print(
        f"{out}: from the best {learned.good} of {learned.known} architectures, strength "
        f"{learned.strength:g}, hash {loaded.hash[:16]}",
        markup=False,
        soft_wrap=True,
    )


def _head(learned: "Sharpened", definition: "Definition", study: str, out: Path) -> list[str]:
    """What the file says of itself."""
    name = Path(definition.space).name
    lines = [
        f"{name} with weights learned from {learned.good} of {learned.known} architectures, the "
        "best,",
        f"of the study {study} ({definition.task}, {definition.profile}, width "
        f"{definition.width}): nas space learn {study} -o {shlex.quote(str(out))}",
        f"It has the architectures of {name} (hash {definition.space_hash[:16]}). Strength "
        f"{learned.strength:g};",
        f"mean log-probability of good ones that were left out {learned.after.held_out:.1f}, "
        f"before {learned.before.held_out:.1f}.",
    ]
    return [" ".join(line.split()) for line in lines]
