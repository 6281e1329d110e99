"""What `nas zoo` says of systems, as tables for people and rows of JSON."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.table import Table

from nas.report.output import figure, tables

if TYPE_CHECKING:
    from nas.zoo.conditions import Verdict
    from nas.zoo.probes import Outcome


def table(rows: list[dict[str, Any]], keys: tuple[str, ...]) -> Table:
    """A line a system; columns that hold numbers alone are aligned to the right."""
    made = Table("name", box=None, pad_edge=False)
    for key in keys:
        numbers = all(isinstance(row.get(key, 0), int | float) for row in rows)
        made.add_column(key.replace("_", " "), justify="right" if numbers else "left")
    for row in rows:
        cells = [row.get(key, "") for key in keys]
        made.add_row(row["name"], *(c if isinstance(c, str) else f"{c:,}" for c in cells))
    return made


def verdict_row(verdict: "Verdict") -> dict[str, Any]:
    """What `nas zoo check` found of one system, for a line of JSON."""
    first = verdict.trained[0] if verdict.trained else None
    row: dict[str, Any] = {
        "name": verdict.published.name,
        "works": verdict.works,
        "parses": verdict.placed is not None,
        "equations": verdict.equations,
        "promises": not verdict.problems,
        "probe": verdict.published.probe,
        "metric": first.metric if first else None,
        "value": verdict.value,
        "trivial": first.trivial if first else None,
        "learned": verdict.learned,
        "records": list(verdict.records),
        "problems": list(verdict.problems),
    }
    if verdict.placed is None:
        return row
    made = verdict.placed.architecture
    return row | {
        "causal": verdict.placed.shape.causal,
        "parameters": made.parameters,
        "active_parameters": made.active_parameters,
        "flops": made.flops,
        "activations": made.activations,
        "state": made.state,
        "log_probability": round(
            verdict.placed.space.log_probability(verdict.placed.derivation), 3
        ),
    }


def print_verdicts(rows: list[dict[str, Any]], length: int) -> None:
    """Prints what `nas zoo check` found.

    Args:
        rows: See `verdict_row`.
        length: L, at which promises were tried.
    """
    shown = []
    for row in rows:
        promises = "[green]kept[/]" if row["promises"] else "[red]broken[/]"
        if row["parses"] and not row["causal"]:
            promises += ", looks ahead"
        shown.append(
            {
                "name": row["name"],
                "parses": "[green]yes[/]" if row["parses"] else "[red]no[/]",
                "equations": row["equations"].removeprefix("tests/") or "[yellow]none[/]",
                "promises": promises if row["parses"] else "",
                "learns": _learns(row),
            }
        )
    tables.print(table(shown, ("parses", "equations", "promises", "learns")))
    for row in rows:
        for problem in row["problems"]:
            tables.print(f"{row['name']}: {problem}", soft_wrap=True, markup=False)
    counts = Counter(
        key for row in rows for key in ("parses", "equations", "promises", "learned") if row[key]
    )
    tables.print(
        f"{len(rows)} systems: {counts['parses']} parse, {counts['equations']} are compared with "
        f"their equations by a test, {counts['promises']} keep their promises at {length} tokens, "
        f"{counts['learned']} have learned a task they are known for"
    )
    files = sorted({record for row in rows for record in row["records"]})
    if files:
        tables.print(
            f"trained by `nas zoo probe`: {', '.join(f'results/{file}' for file in files)}"
        )


def _learns(row: dict[str, Any]) -> str:
    if row["metric"] is None:
        return "[yellow]not trained[/]"
    colour = "green" if row["learned"] else "red"
    if row["value"] is None:
        return f"[{colour}]{row['probe']} failed[/]"
    if row["metric"] == "accuracy":
        return f"[{colour}]{row['probe']} {row['value']:.3f}[/] (trivial {row['trivial']:.3f})"
    told = f"{row['probe']} {row['metric']} {figure(row['value'])}"
    return f"[{colour}]{told}[/] (trivial {figure(row['trivial'])})"


def outcome_line(outcome: "Outcome") -> str:
    """What a training of `nas zoo probe` came to."""
    of = f"{outcome.name} {outcome.task} seed {outcome.seed}"
    if outcome.value is None:
        return f"{of}: failed: {outcome.error}"
    return (
        f"{of}: {outcome.metric} {figure(outcome.value)} after {outcome.steps} steps, "
        f"{outcome.seconds:.0f} s (trivial {figure(outcome.trivial)})"
    )
