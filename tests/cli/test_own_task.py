"""The example of a task of one's own: it is trained, probed, searched, resumed and exported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nas.cli.main import main

FILE = Path(__file__).parents[2] / "search_spaces" / "examples" / "reverse.py"
TASK = f"{FILE}:make[letters=4]"
FIRST = "net(res(mlp(4, gelu)))"


@pytest.fixture
def nas(process):
    """Runs the command line in a process of its own, as tasks are there for all of a process."""
    return lambda *words, folder: process(main, words, folder=folder).finish()


@pytest.mark.timeout(600)
def test_it_is_trained_and_probed(nas, tmp_path):
    few = ("--profile", "small", "--width", "8", "--steps", "3", "--json")
    done = nas("train", FIRST, "--task", TASK, *few, folder=tmp_path)
    assert done.code == 0, done.err
    assert json.loads(done.out)["name"] == "reverse.py:make[letters=4]"
    done = nas("zoo", "probe", "mingru", "--task", TASK, "--workers", "2", *few, folder=tmp_path)
    assert done.code == 0, done.err
    row = json.loads(done.out)
    assert row["task"] == "reverse.py:make[letters=4]"
    assert row["value"] is not None


@pytest.mark.timeout(600)
def test_it_is_searched_resumed_and_exported(nas, tmp_path):
    words = ("--task", TASK, "--profile", "small", "--width", "8", "--name", "own")
    words += ("--start", FIRST, "--max-params", "20000", "--max-flops", "1000000")
    words += ("--trials", "2", "--workers", "2", "--final-seeds", "0", "--storage", ".")
    done = nas("search", *words, folder=tmp_path)
    assert done.code == 0, done.err
    copy = tmp_path / "elsewhere" / "reverse.py"
    copy.parent.mkdir()
    copy.write_text(FILE.read_text(encoding="utf-8"), encoding="utf-8")
    moved = f"{copy}:make[letters=4]"
    for command in (("resume", "own", "--trials", "+0"), ("export", "own", "--out", "best")):
        done = nas(*command, "--storage", ".", folder=tmp_path)
        assert done.code == 2
        assert "uses the task of reverse.py" in done.err
        assert "--task .../reverse.py:make[letters=4]" in done.err
        done = nas(*command, "--storage", ".", "--task", moved, folder=tmp_path)
        assert done.code == 0, done.err
    model = [sys.executable, "-I", "model.py"]
    done = subprocess.run(model, cwd=tmp_path / "best", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    copy.write_text(FILE.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    done = nas("resume", "own", "--storage", ".", "--task", moved, folder=tmp_path)
    assert done.code == 2
    assert "reverse.py has changed since it began" in " ".join(done.err.split())


@pytest.mark.timeout(600)
def test_a_table_is_searched_and_goes_on_elsewhere(nas, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    words = [f"{i % 7} {i % 5} {i % 3}" for i in range(105)]
    rows = [f"{word},{int(word[0]) % 2}" for word in words]
    (here / "d.csv").write_text("\n".join(["inputs,targets", *rows]), encoding="utf-8")
    known = ("--storage", str(tmp_path))
    asked = ("--task", "d.csv[steps=9]", "--profile", "small", "--width", "8", "--name", "t")
    asked += ("--start", FIRST, "--max-params", "20000", "--max-flops", "1000000")
    asked += ("--trials", "2", "--workers", "1", "--final-seeds", "0")
    done = nas("search", *asked, *known, folder=here)
    assert done.code == 0, done.err
    done = nas("export", "t", "--out", "best", *known, folder=there)
    assert done.code == 0, done.err
    (here / "d.csv").write_text("\n".join(["inputs,targets", *rows[:-1]]), encoding="utf-8")
    done = nas("resume", "t", *known, folder=there)
    assert done.code == 2
    assert "is not what it began with" in " ".join(done.err.split())
