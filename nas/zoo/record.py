"""The dated file of `nas zoo probe`: outcomes as JSON and, beside it, as a Markdown table."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nas.errors import NasError
from nas.report.output import figure
from nas.tasks.metrics import ACCURACY
from nas.zoo.learned import SOLVED, SOLVED_SHARE
from nas.zoo.probes import Outcome


def saved(path: Path) -> list[Outcome]:
    """The outcomes of a file that `save` wrote; none if there is no such file.

    Raises:
        NasError: It cannot be read.
    """
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["outcomes"]
        return [Outcome(**_renamed(row)) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NasError(f"{path} holds no outcomes of `nas zoo probe`: {error}") from error


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    """A row as it is written now; older files have accuracies only, under that name."""
    if "accuracy" not in row:
        return row
    rest = {key: value for key, value in row.items() if key != "accuracy"}
    return {**rest, "metric": ACCURACY.name, "higher": True, "value": row["accuracy"]}


def save(path: Path, outcomes: Iterable[Outcome], about: Mapping[str, object]) -> None:
    """Writes outcomes as JSON and, beside it, as a Markdown table; whole or not at all.

    Args:
        path: The JSON file.
        outcomes: In any order.
        about: What they came from (date, machine), for the head of both.

    Raises:
        NasError: It cannot be written; what stood there stands there still.
    """
    ordered = sorted(outcomes, key=lambda o: (o.task, o.name, o.seed, o.width, o.learning_rate))
    written = {**about, "outcomes": [asdict(outcome) for outcome in ordered]}
    _write(path, json.dumps(written, indent=1) + "\n")
    lines = [
        "# Systems of the zoo on tasks they are known for",
        "",
        *(f"- {key}: {value}" for key, value in about.items()),
        "- command of a row: `nas zoo probe SYSTEM --task TASK --seeds SEEDS --steps STEPS "
        "--width D --lr LR --profile PROFILE`",
        "",
        "On the test split, mean and standard deviation over seeds. Where a shorter training ended",
        f"with an accuracy below {SOLVED}, or an error above {SOLVED_SHARE} of the best trivial",
        "rule's, a longer one was run from the same seed, and counts.",
    ]
    for metric in sorted({outcome.metric for outcome in ordered}):
        lines += [
            "",
            f"| task | system | {metric} | seeds | trivial | steps | D | lr | profile | parameters "
            "| state | seconds |",
            f"|{'---|' * 12}",
            *map(_row, _groups([outcome for outcome in ordered if outcome.metric == metric])),
        ]
    _write(path.with_suffix(".md"), "\n".join(lines) + "\n")


def mean(outcomes: Iterable[Outcome]) -> float | None:
    """The mean over seeds.

    A failed training counts 0 where more is better. No error is too large to be reached: None
    where one failed.
    """
    values = _values(outcomes)
    return None if values is None else statistics.fmean(values)


def _values(outcomes: Iterable[Outcome]) -> list[float] | None:
    values = [0.0 if of.value is None and of.higher else of.value for of in outcomes]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None


def _groups(outcomes: list[Outcome]) -> list[list[Outcome]]:
    """Trainings of one metric that differ in their seeds alone; of each task the best first."""
    groups: dict[object, list[Outcome]] = {}
    for of in outcomes:
        alike = (of.task, of.name, of.hash, of.width, of.profile, of.learning_rate)
        groups.setdefault(alike, []).append(of)

    def place(group: list[Outcome]) -> tuple[str, float, str]:
        value, first = mean(group), group[0]
        worse = math.inf if value is None else -value if first.higher else value
        return first.task, worse, first.name

    return sorted(groups.values(), key=place)


def _row(group: list[Outcome]) -> str:
    first, values = group[0], _values(group)
    reached = "failed" if values is None else _told(first, statistics.fmean(values))
    if values is not None and len(values) > 1:
        reached += f" ± {_told(first, statistics.stdev(values))}"
    cells = (
        *(first.task, first.name, reached, len(group), _told(first, first.trivial)),
        *(max(outcome.steps for outcome in group), first.width, first.learning_rate),
        *(first.profile, f"{first.parameters:,}", f"{first.state:,}"),
        round(statistics.fmean(outcome.seconds for outcome in group)),
    )
    return f"| {' | '.join(map(str, cells))} |"


def _told(of: Outcome, value: float) -> str:
    """Three places of an accuracy; the digits of an error, which may be small."""
    return f"{value:.3f}" if of.higher else figure(value)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise NasError(f"cannot write {path}: {error.strerror}") from error
