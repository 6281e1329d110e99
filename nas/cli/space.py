"""`nas space`: check a space, sample it, parse its texts, draw its derivations."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli.options import Json, Seed, Width
from nas.errors import NasError
from nas.grammar.derivation import Term
from nas.report.output import messages, print_line, tables
from nas.resources import find_architecture, find_space

if TYPE_CHECKING:
    from nas.grammar.space import Space

app = typer.Typer(no_args_is_help=True)

SpaceFile = Annotated[str, typer.Argument(help="Space file, or the name of a packaged one.")]
Text = Annotated[str, typer.Argument(help="An architecture's text, its file, or a zoo name.")]
Length = Annotated[
    list[int] | None,
    typer.Option("--length", min=1, help="Length L of the sequences (repeat for several)."),
]
Causal = Annotated[bool, typer.Option("--causal", help="For tasks that may not look ahead.")]
MaxParams = Annotated[
    int | None, typer.Option("--max-params", min=1, help="Most parameters of an architecture.")
]


@app.command()
def check(
    file: SpaceFile,
    length: Length = None,
    width: Width = 64,
    causal: Causal = False,
    json: Json = False,
) -> None:
    """Check a space strictly, and tell what it is like before anything is drawn from it."""
    from rich.table import Table

    from nas.grammar.analysis import analyse

    space = load(file, length, width, causal)
    found = analyse(space)
    rules = len(space.grammar.rules)
    alternatives = sum(map(len, space.grammar.rules.values()))
    unreachable = [f"{a.location}: {a.rule}, alternative {a.index + 1}" for a in found.unreachable]
    if json:
        print_line(
            {
                "name": file,
                "rules": rules,
                "alternatives": alternatives,
                "hash": space.hash,
                "spectral_radius": found.spectral_radius,
                "expected_size": found.expected_size,
                "max_depth": found.max_depth,
                "counts_by_size": list(found.counts_by_size),
                "unreachable": unreachable,
                "warning": found.warning,
            }
        )
        return
    table = Table("", "", show_header=False, box=None)
    table.add_row("rules, alternatives", f"{rules}, {alternatives}")
    table.add_row("context", str(space.context))
    table.add_row("hash", space.hash[:16])
    table.add_row("spectral radius", f"{found.spectral_radius:.3f}")
    table.add_row("max_depth", "none" if found.max_depth is None else str(found.max_depth))
    table.add_row("expected size", f"{found.expected_size:.1f} nodes")
    sizes = [(n, count) for n, count in enumerate(found.counts_by_size) if count]
    shown = ", ".join(f"{n}: {_compact(count)}" for n, count in sizes[-8:])
    table.add_row("derivations by size", shown or "none so small")
    tables.print(table)
    for line in unreachable:
        messages.print(f"never legal here: {line}", markup=False)
    if found.warning:
        messages.print(f"warning: {found.warning}", markup=False, style="yellow")


@app.command()
def sample(
    file: SpaceFile,
    count: Annotated[int, typer.Option("--count", "-n", min=1)] = 10,
    seed: Seed = 0,
    length: Length = None,
    width: Width = 64,
    causal: Causal = False,
    max_params: MaxParams = None,
    json: Json = False,
) -> None:
    """Draw architectures."""
    import random

    from nas.grammar.canonical import canonical_hash

    space = load(file, length, width, causal, max_params)
    rng = random.Random(seed)
    for _ in range(count):
        derivation = space.sample(rng)
        if json:
            print_line(
                {
                    "architecture": derivation.text,
                    "nodes": derivation.size,
                    "hash": canonical_hash(derivation),
                    "log_probability": space.log_probability(derivation),
                }
            )
        else:
            typer.echo(derivation.text)


@app.command()
def parse(
    file: SpaceFile,
    text: Text,
    length: Length = None,
    width: Width = 64,
    causal: Causal = False,
    max_params: MaxParams = None,
    json: Json = False,
) -> None:
    """Parse an architecture's text under the space's conditions."""
    from nas.grammar.canonical import canonical_hash, canonical_text

    space = load(file, length, width, causal, max_params)
    derivation = space.parse(find_architecture(text))
    row = {
        "architecture": derivation.text,
        "canonical": canonical_text(derivation),
        "hash": canonical_hash(derivation),
        "nodes": derivation.size,
        "log_probability": space.log_probability(derivation),
    }
    if json:
        print_line(row)
        return
    for key, value in row.items():
        typer.echo(f"{key.replace('_', ' ')}: {value}")


@app.command()
def draw(
    file: SpaceFile,
    text: Text,
    length: Length = None,
    width: Width = 64,
    causal: Causal = False,
    dot: Annotated[
        Path | None, typer.Option("--dot", help="Write the dataflow graph for Graphviz there.")
    ] = None,
) -> None:
    """Draw a derivation as a tree, or (--dot) its architecture as a graph."""
    from rich.tree import Tree

    space = load(file, length, width, causal)
    derivation = space.parse(find_architecture(text))
    if dot is not None:
        try:
            dot.write_text(_dot(space, derivation.term), encoding="utf-8")
        except OSError as error:
            raise NasError(f"cannot write {dot}: {error.strerror}") from error
        messages.print(f"wrote {dot}: dot -Tsvg {dot} draws it", markup=False)
        return
    tree = Tree(_label(derivation.term))
    stack = [(derivation.term, tree)]
    while stack:
        term, branch = stack.pop()
        for argument in term.arguments:
            if isinstance(argument, Term) and not _is_parameter(argument):
                stack.append((argument, branch.add(_label(argument))))
    tables.print(tree)


def load(
    file: str,
    length: list[int] | None,
    width: int,
    causal: bool,
    max_params: int | None = None,
) -> "Space":
    """A space in a context, under a cap if there is one."""
    from nas.grammar.space import Space

    context = {"L": tuple(length or (256,)), "D": width, "causal": causal}
    if max_params is None:
        return Space.load(str(find_space(file)), context=context)
    from nas.compiler.costs import PrimitiveCosts

    costs = PrimitiveCosts(("parameters",))
    caps = {"parameters": max_params}
    return Space.load(str(find_space(file)), context=context, costs=costs, caps=caps)


def _label(term: Term) -> str:
    """A term's name with its parameters, its blocks left out."""
    values = [
        argument if isinstance(argument, str) else str(argument.arguments[0])
        for argument in term.arguments
        if isinstance(argument, str) or _is_parameter(argument)
    ]
    return f"{term.name}({', '.join(values)})" if values else term.name


def _is_parameter(term: Term) -> bool:
    return len(term.arguments) == 1 and isinstance(term.arguments[0], str)


def _dot(space: "Space", term: Term) -> str:
    from nas.compiler.architecture import Architecture
    from nas.compiler.costs import shape_of

    graph = Architecture.from_term(term, shape_of(dict(space.context.items()))).graph
    names = {node: f"n{i}" for i, node in enumerate(graph.nodes)}
    lines = ["digraph architecture {", "  node [shape=box];"]
    for node, data in graph.nodes(data=True):
        layer = data.get("layer")
        label = str(node) if layer is None else f"{layer}\\n{layer.cost.parameters:,} parameters"
        lines.append(f'  {names[node]} [label="{label}"];')
    lines += [f"  {names[a]} -> {names[b]};" for a, b in graph.edges]
    return "\n".join([*lines, "}", ""])


def _compact(count: int) -> str:
    return str(count) if count < 100_000 else f"{count:.1e}"
