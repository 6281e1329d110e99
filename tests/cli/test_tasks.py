import json
import subprocess
import sys
from pathlib import Path

import pytest

from nas.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def nas(process, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("NAS_CACHE", str(tmp_path_factory.getbasetemp() / "tasks"))
    monkeypatch.delenv("NAS_DATA", raising=False)
    return lambda *words: process(main, ("tasks", *words)).finish()


def test_the_list_names_every_task():
    command = [sys.executable, "-m", "nas", "tasks"]
    run = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    for name in ("lra", "lra/listops", "lra/text", "lra/image", "lra/pathfinder", "mqar"):
        assert name in run.stdout


def test_the_list_as_json(nas):
    rows = [json.loads(line) for line in nas("--json").out.splitlines()]
    assert {"lra", "lra/listops", "mqar"} <= {row["name"] for row in rows}
    assert all(row["summary"] for row in rows)


def test_a_task_is_described_with_three_examples(nas):
    run = nas("lra/listops", "--profile", "small")
    assert run.code == 0, run.err
    assert run.out.count(" = ") == 3
    assert "root operator" in run.out
    assert "[M" in run.out


def test_a_description_as_json(nas):
    run = nas("lra/listops", "--profile", "small", "--json")
    (row,) = [json.loads(line) for line in run.out.splitlines()]
    assert row["name"] == "lra/listops"
    assert row["profile"] == "small"
    assert len(row["examples"]) == 3
    assert set(row["baselines"]) == {"majority", "root operator"}


def test_a_picture_that_fits_a_screen_is_shown_whole_and_a_long_text_is_not(nas, tmp_path):
    """As large as Path-X's pictures are shown, and as long on one line."""
    code = (ROOT / "search_spaces/examples/reverse.py").read_text()
    examples = {"picture": '"\\n".join("#" * 64 for _ in range(32))', "text": '"#" * 2048'}
    for name, shown in examples.items():
        (tmp_path / f"{name}.py").write_text(
            f"from dataclasses import replace\n{code}\n"
            "def shown(profile: Profile) -> Task:\n"
            f"    return replace(make(profile), decode=lambda inputs, targets: {shown})\n"
        )
    whole = nas(f"{tmp_path}/picture.py:shown", "--profile", "small")
    assert whole.out.splitlines().count("#" * 64) == 3 * 32, whole.err
    cut = nas(f"{tmp_path}/text.py:shown", "--profile", "small")
    assert cut.out.count("(2048 characters in all)") == 3


@pytest.mark.parametrize("name", ["lra/listop", "lra/text", "lra/pathx[dashes=1]"])
def test_errors_are_one_line(nas, name):
    run = nas(name, "--profile", "small")
    assert run.code == 2
    assert run.err.startswith("error: ")
    assert run.err.count("\n") == 1
    assert "Traceback" not in run.err
