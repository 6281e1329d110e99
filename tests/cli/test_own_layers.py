"""The example of a layer of one's own: it is searched, trained, resumed and exported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nas.cli.main import main

FOLDER = Path(__file__).parents[2] / "search_spaces" / "examples"
LAYERS = ("--layers", str(FOLDER / "leaky.py"))
SPACE = str(FOLDER / "leaky.lark")


@pytest.fixture
def nas(process):
    """Runs the command line in a process of its own, as layers are there for all of a process."""
    return lambda *words, folder: process(main, words, folder=folder).finish()


def test_the_space_keeps_its_promises(nas, tmp_path):
    few = ("--samples", "100", "--largest", "6")
    done = nas("space", "check", SPACE, *LAYERS, *few, folder=tmp_path)
    assert done.code == 0, done.err
    text = "net(res(leaky(long)))"
    done = nas("zoo", "check", text, "--space", SPACE, *LAYERS, "--json", folder=tmp_path)
    assert done.code == 0, done.err
    assert json.loads(done.out)["works"]
    done = nas("space", "check", SPACE, folder=tmp_path)
    assert done.code == 2
    assert "no layer is called 'leaky'" in done.err


@pytest.mark.timeout(600)
def test_it_is_searched_resumed_and_exported(nas, tmp_path):
    words = ("--task", "parity", "--profile", "small", "--width", "8", "--name", "own")
    words += ("--start", "net(leaky(long))", "--max-params", "20000", "--max-flops", "1000000")
    words += ("--trials", "1", "--workers", "2", "--final-seeds", "0", "--storage", ".")
    done = nas("search", "--space", SPACE, *LAYERS, *words, folder=tmp_path)
    assert done.code == 0, done.err
    assert "net(leaky(long))" in done.out
    done = nas("resume", "own", "--trials", "+1", "--storage", ".", folder=tmp_path)
    assert done.code == 2
    assert "uses layers of leaky.py" in done.err
    done = nas("export", "own", "--out", "best", "--storage", ".", *LAYERS, folder=tmp_path)
    assert done.code == 0, done.err
    model = [sys.executable, "-I", "model.py"]
    done = subprocess.run(model, cwd=tmp_path / "best", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    source = (tmp_path / "best" / "model.py").read_text(encoding="utf-8")
    assert "class Leaky" in source
    assert "import nas" not in source
    assert "from nas" not in source
