"""The example of a task of one's own: it is trained, probed, searched, resumed and exported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "search_spaces" / "examples" / "reverse.py"
TASK = f"{FILE}:make[letters=4]"
FIRST = "net(res(mlp(4, gelu)))"


def nas(*words, cwd):
    command = [sys.executable, "-m", "nas", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.timeout(600)
def test_it_is_trained_and_probed(tmp_path):
    few = ("--profile", "small", "--width", "8", "--steps", "3", "--json")
    done = nas("train", FIRST, "--task", TASK, *few, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "reverse.py:make[letters=4]"
    done = nas("zoo", "probe", "mingru", "--task", TASK, "--workers", "2", *few, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["task"] == "reverse.py:make[letters=4]"
    assert row["value"] is not None


@pytest.mark.timeout(600)
def test_it_is_searched_resumed_and_exported(tmp_path):
    words = ("--task", TASK, "--profile", "small", "--width", "8", "--name", "own")
    words += ("--start", FIRST, "--max-params", "20000", "--max-flops", "1000000")
    words += ("--trials", "2", "--workers", "2", "--final-seeds", "0", "--storage", ".")
    done = nas("search", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    copy = tmp_path / "elsewhere" / "reverse.py"
    copy.parent.mkdir()
    copy.write_text(FILE.read_text(encoding="utf-8"), encoding="utf-8")
    moved = f"{copy}:make[letters=4]"
    for command in (("resume", "own", "--trials", "+0"), ("export", "own", "--out", "best")):
        done = nas(*command, "--storage", ".", cwd=tmp_path)
        assert done.returncode == 2
        assert "uses the task of reverse.py" in done.stderr
        assert "--task .../reverse.py:make[letters=4]" in done.stderr
        done = nas(*command, "--storage", ".", "--task", moved, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    model = [sys.executable, "-I", "model.py"]
    done = subprocess.run(model, cwd=tmp_path / "best", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    copy.write_text(FILE.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    done = nas("resume", "own", "--storage", ".", "--task", moved, cwd=tmp_path)
    assert done.returncode == 2
    assert "reverse.py has changed since it began" in " ".join(done.stderr.split())


@pytest.mark.timeout(600)
def test_a_table_is_searched_and_goes_on_elsewhere(tmp_path):
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
    done = nas("search", *asked, *known, cwd=here)
    assert done.returncode == 0, done.stderr
    done = nas("export", "t", "--out", "best", *known, cwd=there)
    assert done.returncode == 0, done.stderr
    (here / "d.csv").write_text("\n".join(["inputs,targets", *rows[:-1]]), encoding="utf-8")
    done = nas("resume", "t", *known, cwd=there)
    assert done.returncode == 2
    assert "is not what it began with" in " ".join(done.stderr.split())
