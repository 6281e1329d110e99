"""`nas zoo`: published architectures as texts of a space."""

from pathlib import Path
from typing import Annotated, Any

import typer

from nas.cli.options import Json, Width
from nas.report.output import print_line, tables

app = typer.Typer(no_args_is_help=True)

Names = Annotated[
    list[str] | None, typer.Argument(help="Names or files; all that are packaged by default.")
]


@app.command("list")
def list_(json: Json = False) -> None:
    """The packaged architectures and where each comes from."""
    from nas.resources import packaged_architectures

    for path in packaged_architectures():
        text = path.read_text(encoding="utf-8")
        first = text.splitlines()[0]
        source = first.removeprefix("//").strip() if first.startswith("//") else ""
        if json:
            print_line({"name": path.stem, "source": source})
        else:
            tables.print(f"[bold]{path.stem}[/]  {source}", soft_wrap=True)


@app.command()
def check(
    names: Names = None,
    space: Annotated[
        str, typer.Option("--space", help="The space the texts belong to.")
    ] = "hybrid.lark",
    width: Width = 64,
    length: Annotated[int, typer.Option("--length", help="Tokens L.", min=1)] = 128,
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
    from rich.table import Table

    keys = ("parameters", "flops", "state", "log_probability")
    table = Table("name", "works", *(key.replace("_", " ") for key in keys))
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        works = "[green]yes[/]" if row["works"] else "[red]no[/]"
        table.add_row(row["name"], works, *(f"{row[k]:,}" if k in row else "" for k in keys))
    tables.print(table)
    for row in rows:
        for problem in row["problems"]:
            tables.print(f"{row['name']}: {problem}", soft_wrap=True, markup=False)
