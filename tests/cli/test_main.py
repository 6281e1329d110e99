"""The command line as a person meets it: results, exit codes, one line for every mistake."""

import json
import os
import re
import signal
import sqlite3
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from nas.cli.main import main
from nas.cli.search import parse_duration, parse_trials
from nas.errors import UsageError
from nas.report.output import figure
from nas.tasks import registry
from tests.cli import tiny
from tests.processes import limit_files

SEARCH = ["search", "--task", "tiny", "--workers", "1", "--width", "16", "--name", "s",
          "--start", "transformer", "--start", "mingru", "--strategy", "random",
          "--profile", "small", "--final-seeds", "1"]  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """In an empty folder, with the tiny task."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(registry.TASKS, "tiny", registry.Entry("for tests", tiny.make))
    return tmp_path


@pytest.fixture
def nas(capsys):
    """Runs the command line; returns exit code, standard output and standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(words)
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return run


def complaint(code: int, err: str, expected: int) -> str:
    """The one line that says what is wrong."""
    assert code == expected, err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    assert err.splitlines()[-1] == lines[0]
    return lines[0]


def test_search_show_report_resume_export(nas, here):
    code, out, err = nas(*SEARCH, "--trials", "5", "--json")
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    trials = [row for row in rows if "trial" in row]
    assert sorted(row["trial"] for row in trials) == list(range(5))
    assert {row["baseline"] for row in trials} >= {"transformer", "mingru"}
    finals = {row["final"]: row["test"] for row in rows if "final" in row}
    assert set(finals) >= {"transformer", "mingru"}
    assert "study s" in err

    code, out, _ = nas("show", "s", "--json")
    assert [json.loads(line)["trial"] for line in out.splitlines()] == list(range(5))
    code, out, _ = nas("show", "s", "0")
    assert code == 0
    assert out.startswith("net(")
    code, out, _ = nas("report", "s")
    assert "nas export s --out best/" in out
    code, out, _ = nas("studies")
    assert "tiny" in out

    code, _, err = nas("resume", "s", "--trials", "+2", "--workers", "1", "--final-seeds", "0")
    assert code == 0, err
    assert len(nas("show", "s", "--json")[1].splitlines()) == 7

    code, _, err = nas("export", "s", "--out", "best")
    assert code == 0, err
    assert {p.name for p in (here / "best").iterdir()} == {
        "model.py", "model.safetensors", "config.json", "README.md",
    }  # fmt: skip
    line = complaint(*pick(nas("export", "s", "--out", "best")), 2)
    assert "best exists already" in line


def test_errors_are_scores_below_zero(nas, here, monkeypatch):
    entry = registry.Entry("for tests", tiny.regression, knobs=("length",))
    monkeypatch.setitem(registry.TASKS, "regression", entry)
    name = "regression[length=6]"
    code, out, err = nas("train", "mingru", "--task", name, "--profile", "small")
    assert code == 0, err
    assert "mean squared error" in out
    assert "accuracy" not in out
    words = [name if word == "tiny" else word for word in SEARCH]
    code, out, err = nas(*words, "--trials", "6", "--final-seeds", "2", "--json")
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    scores = {row["trial"]: row["score"] for row in rows if row.get("state") == "complete"}
    assert all(score < 0 for score in scores.values())
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    finals = [row for row in rows if "final" in row]
    assert len(finals) >= 2
    for row in finals:
        assert row["metric"] == "mean squared error"
        assert row["value"] == -row["test"] == -sum(row["scores"]) / 2 > 0
        # Student's quantile for one degree of freedom is 12.706; half the difference is s / sqrt 2.
        assert row["interval"] == pytest.approx(12.7062 * abs(np.diff(row["scores"])[0]) / 2)
    out = nas("report", "s")[1]
    assert "negative" not in out
    assert not re.search(r"-\d", out.partition("next:")[0])
    (better,) = (row["gain"]["over_best"] for row in rows if "gain" in row)
    side = "below" if better > 0 else "above"
    assert f"mean squared error is {figure(abs(better))} {side} the best baseline's" in out
    assert figure(finals[0]["interval"]) in out
    best = next(iter(scores))
    out = nas("show", "s", str(best))[1]
    assert "negative mean squared error" in out
    assert f"{name} -" in out
    assert name in nas("studies")[1]
    code, _, err = nas("export", "s", "--out", "best")
    assert code == 0, err
    metrics = json.loads((here / "best" / "config.json").read_text())["metrics"]
    assert metrics["validation mean squared error"] == -scores[best]


def pick(result: tuple[int, str, str]) -> tuple[int, str]:
    return result[0], result[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search", "--task", "lra/listop", "--trials", "1"], "did you mean lra/listops"),
        (["search", "--task", "tiny", "--trials", "1", "--space", "no.lark"], "no space file no"),
        (["search", "--task", "tiny", "--trials", "1", "--strategy", "luck"], "random"),
        (["search", "--task", "tiny"], "--time 20m"),
        (["search", "--task", "tiny", "--time", "soon"], "no duration"),
        (["search", "--task", "tiny", "--trials", "0"], "--trials"),
        (["search", "--task", "tiny", "--trials", "1", "--profile", "big"], "paper or small"),
        (["search", "--task", "tiny", "--trials", "1", "--start", "hwak"], "hawk"),
        (["search", "--task", "tiny", "--trials", "1", "--max-params", "10"], "--max-params"),
        (["search", "--task", "tiny", "--trials", "1", "--name", "../x"], "is no name"),
        (["search", "--task", "tiny", "--trial", "1"], "--trial"),
        (["resume", "nothing"], "no study nothing"),
        (["show", "nothing"], "no study nothing"),
        (["export", "nothing", "--out", "x"], "no study nothing"),
        (["train", "net(res(mlp(4, gelu))", "--task", "tiny"], "column 22"),
        (["train", "hawk", "--task", "tiny", "--lr", "-1"], "positive"),
        (["nonsense"], "nonsense"),
    ],
)
def test_a_wrong_call_is_one_line(nas, words, message):
    profile = ["--profile", "small"] if words[0] in ("search", "train") else []
    if "--profile" in words:
        profile = []
    line = complaint(*pick(nas(*words, *profile)), 2)
    assert message in line
    assert not list(Path("results").glob("*.db")) if Path("results").exists() else True


def test_a_broken_space_is_named_with_its_line(nas, here):
    text = '//@ version 1\nstart: "net" "(" blok ")"\n%import common.WS\n%ignore WS\n'
    (here / "mine.lark").write_text(text)
    line = complaint(*pick(nas(*SEARCH, "--trials", "1", "--space", "mine.lark")), 2)
    assert "mine.lark:2" in line


def test_a_study_that_exists_is_not_touched(nas):
    assert nas(*SEARCH, "--trials", "1", "--final-seeds", "0")[0] == 0
    before = Path("results/s.db").read_bytes()
    line = complaint(*pick(nas(*SEARCH, "--trials", "1")), 2)
    assert "exists already" in line
    assert "nas resume s" in line
    assert Path("results/s.db").read_bytes() == before


OWN = """
start: "net" "(" block ")" -> net
?block: "res" "(" layer ")" -> res  //@ 0.5
      | layer                       //@ 0.5
?layer: "linear" -> linear | "relu" -> relu
%import common.WS
%ignore WS
"""


def test_a_space_without_the_zoo_is_searched_from_its_own_starts(nas, here):
    (here / "own.lark").write_text(OWN)
    words = ["search", "--task", "tiny", "--workers", "1", "--width", "16", "--profile", "small",
             "--space", "own.lark", "--trials", "3", "--final-seeds", "0"]  # fmt: skip
    line = complaint(*pick(nas(*words, "--name", "a")), 2)
    assert "no architecture of the zoo is in own.lark" in line
    assert "--start" in line
    code, _, err = nas(*words, "--name", "b", "--max-params", "900", "--max-flops", "9000")
    assert code == 0, err
    assert "no baselines: transformer, mingru" in err
    assert "mamba" not in err
    line = complaint(*pick(nas(*words, "--name", "d", "--start", "zoo")), 2)
    assert "no architecture of the zoo is in own.lark" in line
    code, _, err = nas(*words, "--name", "c", "--start", "net(linear)")
    assert code == 0, err
    assert "no baselines" not in err


def test_a_study_keeps_its_space_and_its_final_seeds(nas, here):
    (here / "own.lark").write_text(OWN)
    words = ["search", "--task", "tiny", "--workers", "1", "--width", "16", "--profile", "small",
             "--space", "own.lark", "--start", "net(linear)", "--trials", "2", "--name", "s",
             "--final-seeds", "0", "--storage", "elsewhere"]  # fmt: skip
    code, out, err = nas(*words)
    assert code == 0, err
    called = "s --storage sqlite:///elsewhere/s.db"
    assert f"nas export {called} --out best/" in out
    (here / "own.lark").unlink()
    code, out, err = nas("resume", *called.split(), "--trials", "+1", "--workers", "1")
    assert code == 0, err
    assert "final comparison" not in err
    code, out, err = nas("export", *called.split(), "--out", "best", "--json")
    assert code == 0, err
    assert json.loads(out)["out"] == "best"
    assert Path("best/model.py").is_file()


def test_a_space_changed_since_is_refused(nas, here):
    (here / "mine.lark").write_text(
        '//@ version 1\nstart: "net" "(" block ")" -> net\n'
        'block: "linear" -> linear //@ 1\n     | "relu" -> relu //@ 1\n'
        "%import common.WS\n%ignore WS\n"
    )
    search = [*SEARCH, "--trials", "1", "--space", "mine.lark", "--final-seeds", "0"]
    search = [w for w in search if w not in ("--start", "transformer", "mingru")]
    code, _, err = nas(*search, "--start", "net(linear)")
    assert code == 0, err
    (here / "mine.lark").write_text(
        (here / "mine.lark").read_text().replace("relu //@ 1", "relu //@ 2")
    )
    line = complaint(*pick(nas("resume", "s", "--trials", "+1")), 2)
    assert "the space mine.lark has changed" in line


def test_a_damaged_database_is_one_line(nas):
    assert nas(*SEARCH, "--trials", "1", "--final-seeds", "0")[0] == 0
    path = Path("results/s.db")
    data = bytearray(path.read_bytes())
    data[5000:60000] = os.urandom(55000)
    path.write_bytes(data)
    for name in ("s.db-wal", "s.db-shm"):
        Path("results", name).unlink(missing_ok=True)
    line = complaint(*pick(nas("resume", "s", "--trials", "+1", "--workers", "1")), 1)
    assert "s.db" in line


def test_a_results_folder_that_cannot_be_written_is_one_line(nas, here):
    (here / "results").write_text("a file stands where the folder should be")
    line = complaint(*pick(nas(*SEARCH, "--trials", "1")), 1)
    assert "results" in line


def test_a_damaged_checkpoint_is_said_and_left_aside(nas, here):
    assert nas(*SEARCH, "--trials", "1", "--final-seeds", "0")[0] == 0
    (state,) = here.glob("results/studies/s/trial-000000/*/tiny/step-*/state.safetensors")
    state.write_bytes(state.read_bytes()[:-7])
    line = complaint(*pick(nas("export", "s", "--out", "best")), 1)
    assert "damaged checkpoint" in line
    assert not (here / "best").exists()


def test_a_full_disk_is_one_line_and_nothing_is_lost(here, process):
    # Files of this process may not grow over a limit: the database hits it after some trials.
    code, _, err = process(tiny.command, [*SEARCH, "--trials", "3", "--final-seeds", "0"]).finish()
    assert code == 0, err
    size = sum(
        Path(f"results/s.db{end}").stat().st_size
        for end in ("", "-wal")
        if Path(f"results/s.db{end}").exists()
    )
    resume = ["resume", "s", "--workers", "1", "--final-seeds", "0", "--trials"]
    limited = partial(limit_files, size + 20_000)
    code, _, err = process(tiny.command, [*resume, "+400"], prepare=limited).finish()
    line = complaint(code, err, 1)
    assert "full" in line or "large" in line or "write" in line
    code, _, err = process(tiny.command, [*resume, "+0"]).finish()
    assert code == 0, err
    with sqlite3.connect("results/s.db") as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        states = [row[0] for row in database.execute("select state from trials order by number")]
    assert len(states) >= 3
    assert set(states) <= {"COMPLETE", "PRUNED"}


def test_ctrl_c_keeps_the_state(here, process):
    search = process(tiny.command, [*SEARCH, "--trials", "500", "--final-seeds", "0"])
    database = Path("results/s.db")
    search.wait(lambda _: database.exists() and count(database) >= 3)
    search.signal(signal.SIGINT)
    code, _, err = search.finish(60)
    assert code == 130
    assert err.splitlines()[-1] == "interrupted; nothing is lost: nas resume s"
    again = ["resume", "s", "--trials", "+1", "--workers", "1", "--final-seeds", "0"]
    code, _, err = process(tiny.command, again).finish()
    assert code == 0, err


def count(database: Path) -> int:
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            return connection.execute(
                "select count(*) from trials where state in ('COMPLETE', 'PRUNED')"
            ).fetchone()[0]
    except sqlite3.Error:
        return 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("20m", 1200), ("1h30m", 5400), ("2d", 172800), ("1h5s", 3605)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-5m", "5 minutes", "0m", "1.5h"])
def test_what_is_no_duration(text):
    with pytest.raises(UsageError):
        parse_duration(text)


def test_numbers_of_trials():
    assert parse_trials("40", 7) == 40
    assert parse_trials("+40", 7) == 47
    with pytest.raises(UsageError):
        parse_trials("many", 7)


def test_version(nas):
    code, out, _ = nas("--version")
    assert code == 0
    assert out.startswith("nas 0.")
