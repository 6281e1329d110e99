"""The bench of strategies: what it records, and how runs become rows and files."""

import json
import math

import pytest

from nas.bench.comparison import measure, write
from nas.bench.report import bands_table, markdown
from nas.bench.search import Run, bands, compare
from nas.errors import UsageError


def made_up(strategy, seed, best, seconds=0.2):
    return Run(strategy, "planted", 0.0, seed, tuple(best), seconds)


RUNS = [
    made_up("random", 0, [0.1, 0.2, 0.2, 0.3]),
    made_up("random", 1, [0.1, 0.1, 0.1, 0.1]),
    made_up("other", 0, [0.1, 0.4, 0.5, 0.6]),
    made_up("other", 1, [0.0, 0.0, 0.0, 0.2]),
]


def test_bands_as_computed_by_hand():
    band = bands(RUNS)["planted", 0.0, "other"]
    assert band.mean == pytest.approx(0.4)
    # Student's t with one degree of freedom at 97.5%: 12.706.
    assert band.half == pytest.approx(12.706 * math.sqrt(0.08) / math.sqrt(2), rel=1e-3)
    assert band.gain == pytest.approx((0.3 + 0.1) / 2)
    assert band.until == 3  # median of 2 (0.4 is the first over 0.3) and 4
    assert band.ms == pytest.approx(50)
    assert bands(RUNS[1:2] + RUNS[3:])["planted", 0.0, "other"].until == 4
    late = [RUNS[0], made_up("other", 0, [0.1] * 4)]
    assert bands(late)["planted", 0.0, "other"].until is None


def test_rows_and_table_say_the_same():
    rows = {row["strategy"]: row for row in bands_table(RUNS)}
    text = markdown(RUNS, {"date": "today"}, "Strategies")
    assert rows["other"]["trials_to_random"] == 3
    (line,) = [line for line in text.splitlines() if "| other |" in line]
    assert "0.400 ±" in line
    assert "+0.200 ±" in line


def test_what_was_observed_best_is_scored_exactly():
    runs = list(compare(["random"], objectives=["planted"], noise=[0.0, 2.0], seeds=[0], trials=25))
    exact, noisy = runs
    assert list(exact.best) == sorted(exact.best)
    assert len(noisy.best) == 25
    # The same samples: what noise chooses among them is never better than the best.
    assert all(a <= b for a, b in zip(noisy.best, exact.best, strict=True))


def test_files_are_written_with_a_picture(tmp_path):
    write(RUNS, tmp_path, None)
    names = {path.suffix: path for path in tmp_path.iterdir()}
    assert set(names) == {".md", ".json", ".png"}
    rows = json.loads(names[".json"].read_text())
    assert [row["best"] for row in rows if row["strategy"] == "other"] == [
        list(RUNS[2].best), list(RUNS[3].best)
    ]  # fmt: skip
    assert names[".png"].read_bytes().startswith(b"\x89PNG")


def test_unknown_names_are_refused():
    settings = {"noise": (), "seeds": 1, "held_out": False, "table": None, "trials": 3,
                "workers": 1, "tell": lambda run: None}  # fmt: skip
    with pytest.raises(UsageError, match="no strategy 'evolutoin'"):
        measure(["evolutoin"], objectives=(), **settings)
    with pytest.raises(UsageError, match="no objective 'plant'"):
        measure([], objectives=["plant"], **settings)
    with pytest.raises(UsageError, match="--seeds 99"):
        measure([], objectives=(), **settings | {"seeds": 99})
