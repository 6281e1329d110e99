import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def nas(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    environment = {**os.environ, "NAS_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    environment.pop("NAS_DATA", None)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "nas", "tasks", *words],
            capture_output=True, text=True, env=environment, timeout=120,
        )  # fmt: skip

    return run


def test_the_list_names_every_task(nas):
    run = nas()
    assert run.returncode == 0
    for name in ("lra", "lra/listops", "lra/text", "lra/image", "lra/pathfinder", "mqar"):
        assert name in run.stdout


def test_the_list_as_json(nas):
    rows = [json.loads(line) for line in nas("--json").stdout.splitlines()]
    assert {"lra", "lra/listops", "mqar"} <= {row["name"] for row in rows}
    assert all(row["summary"] for row in rows)


def test_a_task_is_described_with_three_examples(nas):
    run = nas("lra/listops", "--profile", "small")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count(" = ") == 3
    assert "root operator" in run.stdout
    assert "[M" in run.stdout


def test_a_description_as_json(nas):
    run = nas("lra/listops", "--profile", "small", "--json")
    (row,) = [json.loads(line) for line in run.stdout.splitlines()]
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
    assert whole.stdout.splitlines().count("#" * 64) == 3 * 32, whole.stderr
    cut = nas(f"{tmp_path}/text.py:shown", "--profile", "small")
    assert cut.stdout.count("(2048 characters in all)") == 3


@pytest.mark.parametrize("name", ["lra/listop", "lra/text", "lra/pathx[dashes=1]"])
def test_errors_are_one_line(nas, name):
    run = nas(name, "--profile", "small")
    assert run.returncode == 2
    assert run.stderr.startswith("error: ")
    assert run.stderr.count("\n") == 1
    assert "Traceback" not in run.stderr
