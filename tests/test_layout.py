"""The folders at the top are sub-packages of `nas`, in every way the project can be run."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(code: str, *, cwd: Path = ROOT, path: Path | None = None) -> str:
    command = [sys.executable, "-c", code]
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_package_is_listed_for_the_wheel():
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    found = set()
    for top, name in (("nas", "nas"), ("grammar", "nas.grammar"), ("kernels", "nas.kernels")):
        for file in (ROOT / top).rglob("*.py"):
            parts = file.parent.relative_to(ROOT / top).parts
            found.add(".".join((name, *parts)))
    assert listed == found | {"nas.search_spaces"} | {p for p in listed if "search_spaces" in p}


@pytest.mark.parametrize("folder", ["grammar", "kernels"])
def test_a_package_of_the_same_name_is_not_shadowed_from_the_checkout(tmp_path, folder):
    package = tmp_path / folder
    package.mkdir()
    (package / "__init__.py").write_text("WHOSE = 'theirs'\n")
    # Run from the checkout, whose folder stands first on the path.
    assert run(f"import {folder}; print({folder}.WHOSE)", path=tmp_path) == "theirs"


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom nas.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as done:\n    assert done.code == 0\n"
        "print([name for name in ('torch', 'ray', 'optuna') if name in sys.modules])"
    )
    assert run(code).splitlines()[-1] == "[]"


def test_grammar_and_kernels_know_neither_each_other_nor_the_rest():
    for folder, allowed in (("grammar", "nas.grammar"), ("kernels", "nas.kernels")):
        for file in (ROOT / folder).rglob("*.py"):
            for line in file.read_text().splitlines():
                words = line.split()
                if len(words) > 1 and words[0] in ("from", "import") and words[1].startswith("nas"):
                    assert words[1].startswith(allowed), f"{file}: {line}"
                if folder == "grammar" and words[:1] in (["from"], ["import"]):
                    assert words[1].split(".")[0] not in ("torch", "ray", "optuna"), (
                        f"{file}: {line}"
                    )
