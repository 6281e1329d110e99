"""`nas zoo`: published architectures as texts of a space."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.options import Json, Width
from nas.report.output import print_line, tables

if TYPE_CHECKING:
    from rich.table import Table

    from nas.grammar.space import Space

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
    from nas.grammar.expression import Value
    from nas.grammar.space import Space
    from nas.resources import find_space, packaged_architectures

    spaces: list[Space] = []
    for causal in (True, False):
        context: dict[str, Value] = {"L": (length,), "D": width, "causal": causal}
        spaces.append(Space.load(find_space(space), context=context))
    rows = [_listed(spaces, path) for path in packaged_architectures()]
    if json:
        for row in rows:
            print_line(row)
        return
    tables.print(_table(rows, ("parameters", "flops", "state", "log_probability", "source")))


def _listed(spaces: Sequence["Space"], path: Path) -> dict[str, Any]:
    from nas.compiler.architecture import Architecture
    from nas.compiler.costs import shape_of
    from nas.grammar.errors import SpaceError

    text = path.read_text(encoding="utf-8")
    first = text.splitlines()[0]
    source = first.removeprefix("//").strip() if first.startswith("//") else ""
    row: dict[str, Any] = {"name": path.stem, "source": source}
    for space in spaces:
        try:
            derivation = space.parse(text)
        except SpaceError:
            continue
        shape = shape_of(dict(space.context.items()))
        made = Architecture.from_term(derivation.term, shape)
        return row | {
            "causal": shape.causal,
            "parameters": made.parameters,
            "flops": made.flops,
            "state": made.state,
            "log_probability": round(space.log_probability(derivation), 3),
        }
    return row


@app.command()
def check(
    names: Names = None,
    space: SpaceOption = "hybrid.lark",
    width: Width = 64,
    length: Length = 128,
    causal: Annotated[bool, typer.Option("--causal/--bidirectional")] = True,
    json: Json = False,
) -> None:
    """Parse, build and run architectures: costs, gradients, causality, token by token.

    Exit code 1 when one of them does not work.
    """
    from nas.errors import NasError
    from nas.grammar.expression import Value
    from nas.grammar.space import Space
    from nas.resources import find_space, packaged_architectures

    context: dict[str, Value] = {"L": (length,), "D": width, "causal": causal}
    loaded = Space.load(find_space(space), context=context)
    wanted = names or [path.stem for path in packaged_architectures()]
    rows = [_row(loaded, name, width, length, causal) for name in wanted]
    if json:
        for row in rows:
            print_line(row)
    else:
        _print(rows)
    broken = [str(row["name"]) for row in rows if not row["works"]]
    if broken:
        raise NasError(f"{len(broken)} of {len(rows)} do not work: {', '.join(broken)}")


def _row(space: Any, name: str, width: int, length: int, causal: bool) -> dict[str, Any]:
    from nas.compiler.architecture import Architecture
    from nas.compiler.check import find_problems
    from nas.grammar.errors import SpaceError
    from nas.layers.base import Shape
    from nas.resources import find_architecture

    row: dict[str, Any] = {"name": Path(name).stem if "(" not in name else name, "works": False}
    try:
        derivation = space.parse(find_architecture(name))
    except SpaceError as error:
        return row | {"problems": [str(error)]}
    shape = Shape(length, width, causal)
    architecture = Architecture.from_term(derivation.term, shape)
    problems = find_problems(derivation.term, shape)
    return row | {
        "works": not problems,
        "parameters": architecture.parameters,
        "active_parameters": architecture.active_parameters,
        "flops": architecture.flops,
        "activations": architecture.activations,
        "state": architecture.state,
        "log_probability": round(space.log_probability(derivation), 3),
        "problems": problems,
    }


def _print(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row["verdict"] = "[green]yes[/]" if row["works"] else "[red]no[/]"
    table = _table(rows, ("verdict", "parameters", "flops", "state", "log_probability"))
    table.columns[1].header = "works"
    tables.print(table)
    for row in rows:
        for problem in row["problems"]:
            tables.print(f"{row['name']}: {problem}", soft_wrap=True, markup=False)


def _table(rows: list[dict[str, Any]], keys: tuple[str, ...]) -> "Table":
    from rich.table import Table

    table = Table("name", box=None, pad_edge=False)
    for key in keys:
        numbers = all(isinstance(row.get(key, 0), int | float) for row in rows)
        table.add_column(key.replace("_", " "), justify="right" if numbers else "left")
    for row in rows:
        cells = [row.get(key, "") for key in keys]
        table.add_row(row["name"], *(c if isinstance(c, str) else f"{c:,}" for c in cells))
    return table
