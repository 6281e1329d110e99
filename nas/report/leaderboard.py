"""Tables for people: the leaderboard of a search, and its final comparison."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from nas.report.intervals import interval
from nas.report.output import figure, print_line, tables
from nas.report.progress import headline, shorten
from nas.report.unit import Unit
from nas.search.finals import Finalist, Retraining, finalists, read_retrainings
from nas.search.standing import Standing
from nas.study.study import Study


def leaderboard(standing: Standing, rungs: Sequence[int], unit: Unit, rows: int = 10) -> Table:
    """The best trial of each architecture, best first."""
    table = Table("", unit.name, "steps", "learning rate", "trial", "architecture", box=None)
    for place, trial in enumerate(standing.architectures()[:rows], start=1):
        name = standing.zoo.get(trial.hash)
        label = f"[{name}] " if name else ""
        table.add_row(
            str(place),
            figure(unit.value(trial.score or 0.0)),
            str(rungs[trial.rung or 0]),
            f"{trial.learning_rate:g}",
            str(trial.number),
            label.replace("[", "\\[") + shorten(trial.text, 110).replace("[", "\\["),
            style="dim" if name else None,
        )
    return table


@dataclass(frozen=True)
class Final:
    """A finalist with what its retrainings gave.

    Args:
        entry: The finalist.
        scores: Test scores, one a fresh seed; failed ones are left out.
        failed: Number of retrainings that failed.
    """

    entry: Finalist
    scores: tuple[float, ...]
    failed: int

    @property
    def mean(self) -> float | None:
        """Mean test score."""
        return statistics.fmean(self.scores) if self.scores else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds (n - 1)."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def interval(self) -> float | None:
        """Half the width of the 95% interval of the mean."""
        return interval(self.scores)


def compare(entries: Sequence[Finalist], retrainings: Sequence[Retraining]) -> list[Final]:
    """What each finalist reached, best mean first; those that failed stand last."""
    finals = []
    for entry in entries:
        own = [
            r for r in retrainings if (r.hash, r.learning_rate) == (entry.hash, entry.learning_rate)
        ]
        scores = tuple(r.score for r in sorted(own, key=lambda r: r.seed) if r.score is not None)
        finals.append(Final(entry, scores, len(own) - len(scores)))
    return sorted(finals, key=lambda f: (f.mean is None, -(f.mean or 0.0)))


def gain(finals: Sequence[Final]) -> Mapping[str, float] | None:
    """By how much the winner's mean score is above the baselines' best and median, if known."""
    means = {f.entry.name: f.mean for f in finals if f.mean is not None}
    baselines = [mean for name, mean in means.items() if name != "winner"]
    if "winner" not in means or not baselines:
        return None
    return {
        "over_best": means["winner"] - max(baselines),
        "over_median": means["winner"] - statistics.median(baselines),
    }


def finals_table(finals: Sequence[Final], unit: Unit) -> Table:
    """The final comparison: mean, spread and interval of the test scores over fresh seeds."""
    head = ("", f"test {unit.name}", "± 95%", "± sd", "seeds", "validation", "learning rate")
    table = Table(*head, box=None)
    for final in finals:
        table.add_row(
            final.entry.name,
            "failed" if final.mean is None else figure(unit.value(final.mean)),
            "" if final.interval is None else figure(final.interval),
            "" if final.deviation is None else figure(final.deviation),
            f"{len(final.scores)}" + (f" ({final.failed} failed)" if final.failed else ""),
            figure(unit.value(final.entry.validation)),
            f"{final.entry.learning_rate:g}",
            style="bold" if final.entry.name == "winner" else None,
        )
    return table


def print_report(study: Study, *, json: bool = False) -> None:
    """Print what a study has found, and the commands to type next.

    Args:
        study: The study.
        json: JSON lines on standard output instead of tables.
    """
    trials = study.trials()
    standing = Standing.of([trial.observation for trial in trials], study.definition.baselines)
    finals = compare(finalists(standing), read_retrainings(study))
    measured = [final for final in finals if final.scores or final.failed]
    if json:
        for row in rows(study, standing, measured):
            print_line(row)
    else:
        _print_tables(study, standing, measured)


def rows(study: Study, standing: Standing, finals: Sequence[Final]) -> Iterator[dict[str, Any]]:
    """The same for lines of JSON: trials, finalists, and the winner's gain in score.

    `score`, `test` and `scores` are what is maximised; `value` is in the unit of `metric`.
    """
    unit, rungs = Unit.of(study.definition.score), study.definition.rungs
    for trial in standing.ranked:
        yield {
            "trial": trial.number,
            "state": trial.state,
            "score": trial.score,
            "metric": unit.name,
            "value": unit.value(trial.score or 0.0),
            "architecture": trial.text,
            "learning_rate": trial.learning_rate,
            "steps": rungs[trial.rung or 0],
            "baseline": standing.zoo.get(trial.hash),
        }
    for final in finals:
        yield {
            "final": final.entry.name,
            "test": final.mean,
            "metric": unit.name,
            "value": None if final.mean is None else unit.value(final.mean),
            "interval": final.interval,
            "deviation": final.deviation,
            "scores": list(final.scores),
            "architecture": final.entry.text,
            "learning_rate": final.entry.learning_rate,
        }
    if gained := gain(finals):
        yield {"gain": dict(gained)}


def _print_tables(study: Study, standing: Standing, finals: Sequence[Final]) -> None:
    unit = Unit.of(study.definition.score)
    tables.print(f"\n{headline(standing)}; {unit.name} on validation, best first:")
    tables.print(leaderboard(standing, study.definition.rungs, unit))
    if standing.winner is not None:
        tables.print(f"\nwinner (trial {standing.winner.number}):", markup=False)
        tables.print(standing.winner.text, markup=False, soft_wrap=True)
    if finals:
        tables.print("\nretrained from fresh seeds, measured on test:")
        tables.print(finals_table(finals, unit))
        if gained := gain(finals):
            tables.print(
                f"the winner's {unit.name} is {unit.apart(gained['over_best'])} the best "
                f"baseline's and {unit.apart(gained['over_median'])} their median"
            )
    commands = [f"nas resume {study.call} --trials +40"]
    if standing.counts.get("complete"):
        commands.append(f"nas export {study.call} --out best/")
    commands.append(f"nas show {study.call}")
    tables.print("\nnext:", markup=False)
    for command in commands:
        tables.print(f"  {command}", markup=False, soft_wrap=True)
