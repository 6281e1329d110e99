import json
from pathlib import Path

import pytest

from nas.errors import NasError
from nas.zoo.probes import Outcome
from nas.zoo.record import mean, save, saved

RESULTS = Path(__file__).parents[2] / "results"


def outcome(name, value, seed=0, metric="mean squared error", task="adding"):
    return Outcome(
        name=name, hash=name, task=task, seed=seed, width=8, profile="small", learning_rate=0.003,
        metric=metric, higher=metric == "accuracy", value=value, trivial=0.1749, steps=3,
        seconds=1.0, parameters=1000, state=0, error="" if value is not None else "out of memory",
    )  # fmt: skip


def rows(path):
    """The cells of a table's lines, without head and rule."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines if line[:1] == "|"]
    return [row for row in found if row[0] not in ("task", "---")]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("zoo-*.json")), ids=lambda path: path.stem)
def test_the_files_there_are_are_read_and_written_as_they_were(path, tmp_path):
    outcomes = saved(path)
    written = json.loads(path.read_text(encoding="utf-8"))["outcomes"]
    assert len(outcomes) == len(written) > 0
    for of, row in zip(outcomes, written, strict=True):
        assert (of.name, of.metric, of.higher) == (row["name"], "accuracy", True)
        assert (of.value, of.trivial) == (row["accuracy"], row["trivial"])
        assert of.solved == (row["accuracy"] >= 0.95)
    copy = tmp_path / "copy.json"
    save(copy, outcomes, {})
    assert saved(copy) == sorted(
        outcomes, key=lambda o: (o.task, o.name, o.seed, o.width, o.learning_rate)
    )
    assert rows(copy.with_suffix(".md")) == rows(path.with_suffix(".md"))


def test_each_metric_has_its_table_and_the_best_stands_first(tmp_path):
    outcomes = [
        outcome("worse", 0.09), outcome("better", 1.25e-5), outcome("better", 0.75e-5, seed=1),
        outcome("broken", 0.0, seed=0), outcome("broken", None, seed=1),
        outcome("exact", 1.0, 0, "accuracy", "parity"),
        outcome("half", 0.9, 0, "accuracy", "parity"),
        outcome("half", None, 1, "accuracy", "parity"),
    ]  # fmt: skip
    path = tmp_path / "probes.json"
    save(path, outcomes, {"date": "today"})
    assert sorted(saved(path), key=str) == sorted(outcomes, key=str)
    assert [row[1:5] for row in rows(path.with_suffix(".md"))] == [
        ["exact", "1.000", "1", "0.175"],
        ["half", "0.450 ± 0.636", "2", "0.175"],
        ["better", "1e-05 ± 3.54e-06", "2", "0.1749"],
        ["worse", "0.0900", "1", "0.1749"],
        ["broken", "failed", "2", "0.1749"],
    ]
    text = path.with_suffix(".md").read_text(encoding="utf-8")
    assert text.index("| task | system | accuracy |") < text.index("| mean squared error |")


def test_a_failed_training_counts_as_the_worst_there_is():
    assert mean([outcome("a", 0.9, 0, "accuracy"), outcome("a", None, 1, "accuracy")]) == 0.45
    assert mean([outcome("a", 0.25), outcome("a", 0.75, 1)]) == 0.5
    assert mean([outcome("a", 0.25), outcome("a", None, 1)]) is None


@pytest.mark.parametrize("text", ["[]", "{", '{"outcomes": [3]}', '{"outcomes": [{"value": 1}]}'])
def test_what_is_no_such_file_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(NasError, match="holds no outcomes of `nas zoo probe`"):
        saved(tmp_path / "x.json")
