"""`nas space`: look at a space before searching it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from nas.cli.learn import learn
from nas.cli.options import Json, Layers, Seed, Width
from nas.report.output import messages, print_line, tables

if TYPE_CHECKING:
    from nas.grammar.analysis import Analysis
    from nas.grammar.derivation import Derivation
    from nas.grammar.expression import Value
    from nas.grammar.space import Space

app = typer.Typer(no_args_is_help=True)
app.command()(learn)

SpaceFile = Annotated[
    str, typer.Argument(metavar="SPACE", help="A .lark file, or the name of a packaged one.")
]
Architecture = Annotated[
    str, typer.Argument(metavar="ARCH", help="A text, a file, or a name of the zoo.")
]
Length = Annotated[
    list[int], typer.Option("--length", help="Tokens L; once for every task of a suite.", min=1)
]
Causal = Annotated[
    bool, typer.Option("--causal/--bidirectional", help="Whether positions see later ones.")
]
MaxParams = Annotated[
    int | None, typer.Option("--max-params", help="Parameters of the body, at most.", min=1)
]


@app.command()
def check(
    space: SpaceFile,
    length: Length = [256],  # noqa: B006 - typer copies it
    width: Width = 64,
    causal: Causal = False,
    largest: Annotated[
        int, typer.Option("--largest", help="Count derivations up to this size.", min=1)
    ] = 20,
    samples: Annotated[
        int, typer.Option("--samples", help="Samples to compare the figures with.", min=2)
    ] = 1000,
    seed: Seed = 0,
    layers: Layers = None,
    json: Json = False,
) -> None:
    """Read a space strictly; say whether derivations end, how large they get, what is never used.

    Exit code 2, with file and line, when something is wrong with it.
    """
    from nas.compiler.fit import refuse_misfits
    from nas.grammar.analysis import analyse
    from nas.grammar.errors import SpaceError

    loaded = _load(space, length, width, causal)
    found = analyse(loaded, largest)
    if not found.ends:
        start = loaded.grammar.rules[loaded.grammar.start][0]
        raise SpaceError(str(found.warning), start.location)
    refuse_misfits(loaded)
    sampled = _sampled(loaded, samples, seed)
    if json:
        _print_check_line(space, loaded, found, sampled)
    else:
        _print_check(loaded, found, sampled)


@app.command()
def sample(
    space: SpaceFile,
    number: Annotated[int, typer.Option("-n", "--number", help="How many.", min=1)] = 10,
    length: Length = [256],  # noqa: B006
    width: Width = 64,
    causal: Causal = False,
    max_params: MaxParams = None,
    seed: Seed = 0,
    layers: Layers = None,
    json: Json = False,
) -> None:
    """Draw architectures, one line each."""
    import random

    loaded = _load(space, length, width, causal, max_params)
    rng = random.Random(seed)
    for _ in range(number):
        derivation = loaded.sample(rng)
        if json:
            print_line(_row(loaded, derivation))
        else:
            typer.echo(derivation.text)


@app.command()
def parse(
    space: SpaceFile,
    architecture: Architecture,
    length: Length = [256],  # noqa: B006
    width: Width = 64,
    causal: Causal = False,
    max_params: MaxParams = None,
    layers: Layers = None,
    json: Json = False,
) -> None:
    """Read an architecture: what makes it the same as another, how likely it is, its blocks."""
    from nas.report.tree import architecture_tree, as_text

    loaded = _load(space, length, width, causal, max_params)
    derivation = _parse(loaded, architecture)
    row = _row(loaded, derivation)
    if json:
        print_line(row)
        return
    for key, value in row.items():
        typer.echo(f"{key:16}{value}")
    typer.echo(as_text(architecture_tree(derivation.term)))


@app.command()
def draw(
    space: SpaceFile,
    architecture: Annotated[
        str | None, typer.Argument(metavar="[ARCH]", help="As for parse; none: a sample.")
    ] = None,
    rules: Annotated[
        bool, typer.Option("--rules", help="Every choice of the derivation, with its probability.")
    ] = False,
    svg: Annotated[Path | None, typer.Option("--svg", help="Write an image there.")] = None,
    dot: Annotated[Path | None, typer.Option("--dot", help="Write Graphviz source there.")] = None,
    length: Length = [256],  # noqa: B006
    width: Width = 64,
    causal: Causal = False,
    seed: Seed = 0,
    layers: Layers = None,
    json: Json = False,
) -> None:
    """Draw an architecture as a tree."""
    import random
    from dataclasses import asdict

    from nas.report.tree import architecture_tree, as_dot, as_svg, as_text, derivation_tree

    loaded = _load(space, length, width, causal)
    if architecture is None:
        derivation = loaded.sample(random.Random(seed))
    else:
        derivation = _parse(loaded, architecture)
    tree = derivation_tree(loaded, derivation) if rules else architecture_tree(derivation.term)
    if json:
        print_line({"architecture": derivation.text, "tree": asdict(tree)})
    else:
        typer.echo(as_text(tree))
    for path, text in ((svg, as_svg), (dot, as_dot)):
        if path is not None:
            path.write_text(text(tree), encoding="utf-8")
            messages.print(f"wrote {escape(str(path))}")


def _load(
    space: str, length: list[int], width: int, causal: bool, max_params: int | None = None
) -> "Space":
    from nas.grammar.space import Space
    from nas.resources import find_space

    context: dict[str, Value] = {"L": tuple(length), "D": width, "causal": causal}
    path = str(find_space(space))
    if max_params is None:
        return Space.load(path, context=context)
    from nas.compiler.costs import PrimitiveCosts

    costs = PrimitiveCosts(("parameters",))
    return Space.load(path, context=context, costs=costs, caps={"parameters": max_params})


def _parse(space: "Space", architecture: str) -> "Derivation":
    from nas.resources import find_architecture

    file = None if "(" in architecture or not Path(architecture).is_file() else architecture
    return space.parse(find_architecture(architecture), file)


def _row(space: "Space", derivation: "Derivation") -> dict[str, Any]:
    from nas.grammar.canonical import canonical_hash, canonical_text

    row: dict[str, Any] = {
        "architecture": derivation.text,
        "canonical": canonical_text(derivation),
        "hash": canonical_hash(derivation),
        "log_probability": round(space.log_probability(derivation), 4),
        "nodes": derivation.size,
    }
    if space.costs is not None:
        row |= {name: int(amount) for name, amount in space.cost(derivation).items()}
    return row


def _sampled(space: "Space", samples: int, seed: int) -> dict[str, float]:
    """Mean size with its standard error, and how many architectures are different ones."""
    import math
    import random
    import statistics

    from nas.grammar.canonical import canonical_hash

    rng = random.Random(seed)
    derivations = [space.sample(rng) for _ in range(samples)]
    sizes = [derivation.size for derivation in derivations]
    return {
        "samples": samples,
        "mean_nodes": round(statistics.mean(sizes), 2),
        "standard_error": round(statistics.stdev(sizes) / math.sqrt(samples), 2),
        "max_nodes": max(sizes),
        "distinct": len({canonical_hash(derivation) for derivation in derivations}) / samples,
    }


def _print_check_line(
    name: str, space: "Space", found: "Analysis", sampled: dict[str, float]
) -> None:
    from nas.report.tree import describe

    def where(alternative: Any) -> dict[str, Any]:
        return {
            "rule": alternative.rule,
            "alternative": describe(alternative),
            "file": alternative.location.file,
            "line": alternative.location.line,
        }

    print_line(
        {
            "name": name,
            "hash": space.hash,
            "rules": len(space.grammar.rules),
            "spectral_radius": round(found.spectral_radius, 6),
            "exact": found.exact,
            "max_depth": found.max_depth,
            "warning": found.warning,
            "expected_nodes": round(found.expected_size, 3),
            **sampled,
            "counts_by_size": list(found.counts_by_size),
            "unreachable": [where(alternative) for alternative in found.unreachable],
            "certain": found.exhaustive,
            "uses": [
                {**where(a), "expected": round(found.uses.get(a, 0.0), 6)}
                for rule in space.grammar.rules.values()
                for a in rule
            ],
        }
    )


def _print_check(space: "Space", found: "Analysis", sampled: dict[str, float]) -> None:
    from nas.report.tree import describe

    table = Table("rule", "alternative", "uses per architecture", "where", title="Alternatives")
    for name, alternatives in space.grammar.rules.items():
        for alternative in alternatives:
            uses = found.uses.get(alternative, 0.0)
            shown = "[red]never legal[/]" if alternative in found.unreachable else f"{uses:.3g}"
            location = alternative.location
            place = f"{Path(location.file).name}:{location.line}"
            table.add_row(name, escape(describe(alternative)), shown, place)
            name = ""
    tables.print(table)
    counts = Table("nodes", "derivations", title="Derivations by size")
    for size, count in enumerate(found.counts_by_size):
        if count:
            counts.add_row(str(size), f"{count:,}")
    tables.print(counts)
    rules, context = len(space.grammar.rules), escape(str(space.context))
    tables.print(f"{rules} rules, context {context}, hash {space.hash[:16]}", soft_wrap=True)
    how = "exact" if found.exact else "growth of the deep levels"
    limit = "no max_depth" if found.max_depth is None else f"max_depth {found.max_depth}"
    tables.print(f"spectral radius {found.spectral_radius:.3f} ({how}), {limit}")
    tables.print(
        f"expected nodes {found.expected_size:.2f}; in {sampled['samples']:,} samples "
        f"{sampled['mean_nodes']} +- {sampled['standard_error']}, at most {sampled['max_nodes']}; "
        f"{sampled['distinct']:.1%} distinct",
        soft_wrap=True,
    )
    never = len(found.unreachable)
    sure = "" if found.exhaustive else " in the contexts that were searched"
    tables.print(f"{never or 'no'} alternatives are never legal{sure}")
    if found.warning is not None:
        messages.print(f"[yellow]warning:[/] {escape(found.warning)}", soft_wrap=True)
