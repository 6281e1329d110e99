import json
from dataclasses import replace

import pytest

from nas.cli.main import main


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("NAS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def run(capsys, *words):
    with pytest.raises(SystemExit) as exit_:
        main(("train", *words, "--profile", "small", "--width", "16"))
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()] if "--json" in words else []
    return exit_.value.code, rows, captured


SHORT = ("mingru", "--task", "parity[length=18]", "--steps", "2")


def test_seeds_and_lengths_and_a_breakdown(capsys):
    words = (*SHORT, "--seeds", "2", "--seed", "5", "--eval-length", "2x,25", "--breakdown")
    code, rows, _ = run(capsys, *words, "--json")
    assert code == 0
    assert [row["seed"] for row in rows] == [5, 6]
    for row in rows:
        assert row["name"] == "parity[length=18]"
        assert list(row["lengths"]) == ["18", "36", "25"]
        assert row["value"] == row["score"] == row["lengths"]["18"]
        assert list(row["positions"]) == [str(t) for t in range(0, 18, 2)]
        mean = sum(row["positions"].values()) / 9
        assert row["value"] == pytest.approx(mean, abs=1e-4)
    code, _, captured = run(capsys, *words)
    mean = sum(row["value"] for row in rows) / 2
    # Student's quantile for one degree of freedom is 12.706; half the difference is s / sqrt 2.
    half = 12.7062 * abs(rows[0]["value"] - rows[1]["value"]) / 2
    assert f"at 18 tokens: accuracy {mean:.4f} ± {half:.4f} (95%, 2 seeds)" in captured.out
    assert "at 36 tokens, not trained: accuracy" in captured.out
    assert "by position: 0: " in captured.out


def test_what_is_trained_does_not_depend_on_what_else_is_measured(capsys):
    _, (alone,), _ = run(capsys, *SHORT, "--json")
    _, (more,), _ = run(capsys, *SHORT, "--json", "--eval-length", "3x", "--breakdown")
    assert alone["value"] == more["value"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--task", "lra/pathfinder", "--eval-length", "2x"), "lra/pathfinder has one length, 72"),
        (("--task", "parity", "--eval-length", "twice"), "is like 2x,4x or 512, not 'twice'"),
        (("--task", "parity", "--eval-length", "0"), "at least one token"),
        (("--task", "parity[pairs=2]"), "parity has no knob 'pairs'; its knobs: length"),
        (("--task", "parity[length=many]"), "length is a whole number, not 'many'"),
        (("--task", "parity[length=20.5]"), "length is a whole number, not '20.5'"),
        (("--task", "mqar[length=8,pairs=4]"), "mqar[length=8,pairs=4]: 4 pairs"),
        (("--task", "parity[length=18"), "unknown task 'parity[length=18'"),
    ],
)
def test_a_wrong_call_is_one_line(capsys, words, said):
    code, _, captured = run(capsys, "mingru", *words)
    assert code == 2
    (line,) = captured.err.strip().splitlines()
    assert said in line


def test_a_task_of_which_there_are_too_few_examples_is_one_line(capsys):
    code, _, captured = run(capsys, "mingru", "--task", "parity[length=6]", "--steps", "2")
    assert code == 1
    (line,) = captured.err.strip().splitlines()
    assert "there are no 22000 different examples of this task" in line


SWEPT = ("gru", "--task", "reproduced", "--steps", "3", "--json")


@pytest.fixture
def reproduced(monkeypatch):
    """Parity as if it were published with two rates, two widths and one layer."""
    from nas.tasks.named import TASKS, Entry
    from nas.tasks.registry import load_task
    from nas.tasks.setting import Setting

    setting = Setting(source="Somebody", depth=1, widths=(8, 12), learning_rates=(1e-3, 1e-2))
    of = replace(load_task("parity[length=18]", "small").tasks[0], setting=setting)
    monkeypatch.setitem(TASKS, "reproduced", Entry("", lambda profile, data: of))


def test_a_setting_is_gone_through(capsys, reproduced):
    with pytest.raises(SystemExit):
        main(("train", *SWEPT, "--profile", "small"))
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert "4 trainings of 3 steps" in captured.err
    assert "after Somebody; depth 1; width 8 12; learning rate 0.001 0.01;" in captured.err
    for width in (8, 12):
        first, second, choice = (row for row in rows if row["width"] == width)
        assert (first["learning_rate"], second["learning_rate"]) == (1e-3, 1e-2)
        assert first["split"] == second["split"] == "validation"
        better = max((first, second), key=lambda row: row["score"])
        assert choice["chosen"]["learning_rate"] == better["learning_rate"]
        assert choice["split"] == "test"
    # The text of `gru` has more layers than one; a text of one's own is left as it is.
    deeper, *_ = run(capsys, *SWEPT, "--lr", "1e-3", "--depth", "3")[1]
    text = "net(stack(3, res(recurrent(gru, 1, sequential, direct, plain, forward))))"
    own, *_ = run(capsys, text, *SWEPT[1:], "--lr", "1e-3")[1]
    swept, *_ = run(capsys, *SWEPT, "--lr", "1e-3")[1]
    assert swept["parameters"] < deeper["parameters"] == own["parameters"]
    assert own["width"] == swept["width"] == 16


def test_depth_needs_a_stack(capsys):
    code, _, captured = run(capsys, "net(res(mlp(2, gelu)))", *SHORT[1:], "--depth", "2")
    assert code == 2
    assert "no stack(N, ...)" in captured.err
