import io

import pytest
from rich.console import Console
from scipy import stats

from nas.report.leaderboard import compare, finals_table, gain, leaderboard
from nas.report.output import figure, rounded
from nas.report.unit import Unit
from nas.search.base import Observation
from nas.search.finals import Finalist, Retraining
from nas.search.standing import Standing

ERROR = Unit.of("negative mean squared error")


def retrained(name, *scores):
    return [Retraining(name, 0.01, seed, score, {}, 1.0) for seed, score in enumerate(scores)]


def finalist(name, validation=0.0):
    return Finalist(name, 0, name, name, 0.01, validation)


def lines(table):
    """What is printed of a table, as words."""
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return [line.split() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("scores", [(0.5, 0.9), (-0.5, -0.1), (-5.0, -3.0)])
def test_finalists_that_failed_stand_last(scores):
    entries = [finalist(name) for name in ("failed", "worse", "better")]
    runs = [Retraining("failed", 0.01, 0, None, {}, 1.0, "out of memory")]
    runs += retrained("worse", scores[0]) + retrained("better", scores[1])
    assert [f.entry.name for f in compare(entries, runs)] == ["better", "worse", "failed"]


def test_the_interval_holds_the_mean_as_often_as_it_says():
    (final,) = compare([finalist("a")], retrained("a", 0.5, 0.53, 0.52, 0.49))
    low, high = stats.ttest_1samp(final.scores, 0).confidence_interval(0.95)
    assert final.mean - final.interval == pytest.approx(low)
    assert final.mean + final.interval == pytest.approx(high)
    (alone,) = compare([finalist("a")], retrained("a", 0.5))
    assert (alone.interval, alone.deviation) == (None, None)


def test_errors_are_told_as_errors():
    finals = compare(
        [finalist("winner", -0.5), finalist("gru", -0.75), finalist("tcn", -1.0)],
        retrained("winner", -0.25, -0.75) + retrained("gru", -1.0) + retrained("tcn", -2.0, None),
    )
    head, *rows = lines(finals_table(finals, ERROR))
    assert " ".join(head) == "test mean squared error ± 95% ± sd seeds validation learning rate"
    assert rows == [
        ["winner", "0.5000", "3.1766", "0.3536", "2", "0.5000", "0.01"],
        ["gru", "1.0000", "1", "0.7500", "0.01"],
        ["tcn", "2.0000", "1", "(1", "failed)", "1.0000", "0.01"],
    ]
    gained = gain(finals)
    assert gained == {"over_best": 0.5, "over_median": 1.0}
    assert ERROR.apart(gained["over_best"]) == "0.5000 below"
    assert ERROR.apart(-0.125) == "0.1250 above"
    assert Unit.of("accuracy").apart(gained["over_best"]) == "0.5000 above"
    assert Unit.of("accuracy").apart(-0.125) == "0.1250 below"


def test_the_leaderboard_is_in_the_unit_of_the_metric():
    history = [
        Observation(number, "complete", "net(relu)", str(number), 0.01, score, 0)
        for number, score in enumerate((-0.75, -0.5))
    ]
    head, *rows = lines(leaderboard(Standing.of(history, {}), (9,), ERROR))
    assert " ".join(head).startswith("mean squared error steps")
    assert [row[:3] for row in rows] == [["1", "0.5000", "9"], ["2", "0.7500", "9"]]


def test_small_errors_keep_their_digits():
    assert [figure(x) for x in (0.91234, -0.5, 0.0, -0.0001234, 1e-9)] == [
        "0.9123", "-0.5000", "0.0000", "-0.000123", "1e-09"
    ]  # fmt: skip
    assert figure(0.25, "+") == "+0.2500"
    assert rounded(0.912345678) == 0.91235
    assert rounded(-1.23456789e-7) == -1.2346e-7
