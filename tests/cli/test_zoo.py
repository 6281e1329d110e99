import json
from functools import partial
from pathlib import Path

import pytest

from nas.cli.main import main
from nas.tasks.registry import TASKS
from nas.zoo.published import zoo
from tests.processes import limit_files

ROOT = Path(__file__).parents[2]


def run(capsys, *words):
    with pytest.raises(SystemExit) as exit_:
        main(words)
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()] if "--json" in words else []
    return exit_.value.code, rows, captured


def test_list_names_every_system_and_its_source(capsys):
    code, rows, _ = run(capsys, "zoo", "list", "--json")
    assert code == 0
    sources = {row["name"]: row["source"] for row in rows}
    assert {"transformer", "mingru", "hawk", "griffin", "tcn", "moe_transformer"} <= sources.keys()
    assert sources["mingru"].startswith("Feng et al. 2024")
    for row in rows:
        assert row["parameters"] > 0
        assert -120 < row["log_probability"] < 0, row["name"]
    transformer = next(row for row in rows if row["name"] == "transformer")
    assert transformer["causal"] is True
    # Keys and values of 128 tokens in two layers
    assert transformer["state"] == 2 * 2 * 128 * 64


@pytest.mark.parametrize("mode", ["--causal", "--bidirectional"])
def test_check_of_some_in_both_modes(capsys, mode):
    words = ("zoo", "check", "griffin", "transformer", "--json", "--width", "32", "--length", "20")
    code, rows, _ = run(capsys, *words, mode)
    assert code == 0
    assert [(row["name"], row["works"]) for row in rows] == [
        ("griffin", True),
        ("transformer", True),
    ]
    griffin = next(row for row in rows if row["name"] == "griffin")
    # Two scans, two convolutions of width 4, and 20 keys and values of one head of four
    state = 2 * 32 + 2 * 3 * 32 + 2 * 20 * 32 // 4
    assert griffin["state"] == (state if mode == "--causal" else 0)
    assert griffin["log_probability"] < 0
    assert griffin["parameters"] == griffin["active_parameters"] > 0


def test_check_of_a_text_of_ones_own_that_does_not_fit(capsys):
    text = "net(conv(dense, 3, 1, centred))"
    words = ("zoo", "check", text, "--json", "--length", "9")
    code, rows, captured = run(capsys, *words, "--causal")
    assert code == 1
    assert rows[0]["works"] is False
    assert "not causal" in rows[0]["problems"][0]
    assert captured.err.strip().startswith("error: 1 of 1 do not work")
    code, rows, _ = run(capsys, *words)
    assert code == 0
    assert rows[0]["causal"] is False


def test_check_of_an_unknown_name_is_a_wrong_call(capsys):
    code, _, captured = run(capsys, "zoo", "check", "grifin")
    assert code == 2
    assert "did you mean griffin.arch" in captured.err


def test_check_prints_a_table(capsys):
    code, _, captured = run(capsys, "zoo", "check", "tcn", "--width", "32", "--length", "9")
    assert code == 0
    assert "tcn" in captured.out
    assert "yes" in captured.out


def test_check_reads_what_has_been_learned_from_the_dated_files(capsys):
    names = ("slstm", "tcn")
    words = ("zoo", "check", *names, "--json", "--width", "32", "--length", "12")
    code, rows, _ = run(capsys, *words)
    assert code == 0
    slstm, tcn = rows
    # 1.000 at 600 steps from each seed; the best trivial rule knows one parity in two
    assert (slstm["probe"], slstm["value"], slstm["learned"]) == ("parity", 1.0, True)
    assert "zoo-separations-2026-11-21.json" in slstm["records"]
    assert (tcn["probe"], tcn["records"]) == ("copy_memory", ["zoo-probes-2026-11-21.json"])
    assert tcn["learned"]


def test_every_text_names_a_test_and_a_task():
    for each in zoo():
        path, _, name = each.test.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), each.name
        assert each.probe in TASKS, each.name


def test_probe_trains_what_is_not_in_its_file_yet(capsys, tmp_path):
    out = tmp_path / "probes.json"
    words = ("zoo", "probe", "tcn", "--task", "parity", "--steps", "3", "--steps", "5", "--seeds")
    words = (*words, "2", "--profile", "small", "--width", "16", "--out", str(out), "--json")
    code, rows, _ = run(capsys, *words)
    assert code == 0
    assert [(row["name"], row["seed"], row["steps"]) for row in rows] == [
        ("tcn", 0, 5),
        ("tcn", 1, 5),
    ]
    assert all(0 < row["value"] < 1 for row in rows)
    written = json.loads(out.read_text(encoding="utf-8"))
    assert written["outcomes"] == rows
    assert written["date"] < "3000"
    table = out.with_suffix(".md").read_text(encoding="utf-8")
    assert "| parity | tcn | 0." in table
    assert "| 5 | 16 | 0.003 | small |" in table
    code, rows, captured = run(capsys, *words)
    assert (code, rows) == (0, [])
    assert "nothing to train" in captured.err


def test_an_error_is_probed_and_has_its_column(capsys, tmp_path):
    out = tmp_path / "probes.json"
    words = ("zoo", "probe", "mingru", "--task", "adding", "--steps", "2", "--profile", "small")
    words = (*words, "--width", "16", "--out", str(out))
    code, (row,), _ = run(capsys, *words, "--json")
    assert code == 0
    assert (row["metric"], row["higher"], row["steps"]) == ("mean squared error", False, 2)
    assert row["value"] > 0.05
    assert row["trivial"] == pytest.approx(1 / 6, rel=0.1)
    table = out.with_suffix(".md").read_text(encoding="utf-8")
    assert "| task | system | mean squared error |" in table
    code, _, captured = run(capsys, *words, "--seeds", "2")
    assert code == 0
    assert captured.out.startswith("mingru adding seed 1: mean squared error 0.")


def test_probe_refuses_what_it_cannot_do(capsys, tmp_path):
    code, _, captured = run(capsys, "zoo", "probe", "tcn", "--out", str(tmp_path / "x.md"))
    assert code == 2
    assert "names a .json file" in captured.err
    damaged = tmp_path / "x.json"
    damaged.write_text("[]", encoding="utf-8")
    words = ("zoo", "probe", "tcn", "--profile", "small", "--out", str(damaged))
    code, _, captured = run(capsys, *words)
    assert code == 1
    assert "holds no outcomes" in captured.err
    code, _, captured = run(capsys, "zoo", "probe", "net(relu)", "--profile", "small")
    assert code == 2
    assert "names no probe task" in captured.err
    words = ("zoo", "probe", "tcn", "--profile", "small", "--task", "lra")
    code, _, captured = run(capsys, *words)
    assert code == 2
    assert "choose one of lra/listops" in captured.err


def test_probe_says_why_a_training_failed(capsys):
    text = "net(conv(dense, 3, 1, centred))"
    words = ("zoo", "probe", text, "--task", "copying", "--profile", "small", "--steps", "1")
    code, _, captured = run(capsys, *words)
    assert code == 0
    assert "failed: copying: " in captured.out
    assert "not causal" in captured.out


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, process):
    """Tried with a real limit on the size of files, in a process of its own."""
    out = tmp_path / "probes.json"
    words = ["zoo", "probe", "tcn", "--task", "parity", "--out", str(out)]
    words += ["--steps", "1", "--profile", "small", "--width", "16"]
    assert process(main, words).finish().code == 0
    before = out.read_bytes()
    limited = partial(limit_files, len(before) + 10)
    code, text, err = process(main, [*words, "--seeds", "2"], prepare=limited).finish()
    assert code == 1
    assert text.startswith("tcn parity seed 1: accuracy 0.")
    assert f"cannot write {out}: File too large" in err
    assert out.read_bytes() == before
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".json", ".md"]
