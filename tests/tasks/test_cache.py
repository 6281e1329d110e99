import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from nas.tasks.cache import cache_folder, cached


class Maker:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, np.ndarray]:
        self.calls += 1
        return {"a": np.arange(1000), "b": np.ones((3, 4), dtype=np.float32)}


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def check(arrays) -> None:
    assert sorted(arrays) == ["a", "b"]
    assert (arrays["a"] == np.arange(1000)).all()
    assert arrays["b"].dtype == np.float32


def test_arrays_are_made_once(fresh_cache):
    make = Maker()
    check(cached("x", ("definition", 1), make))
    check(cached("x", ("definition", 1), make))
    assert make.calls == 1
    assert len(files(fresh_cache)) == 1  # no temporary file is left


def test_another_definition_never_meets_old_data(fresh_cache):
    make = Maker()
    cached("x", ("definition", 1), make)
    cached("x", ("definition", 2), make)
    assert make.calls == 2


@pytest.mark.parametrize("damage", ["empty", "cut off", "one bit", "text", "no zip end"])
def test_a_damaged_file_is_made_again(fresh_cache, damage, caplog):
    make = Maker()
    cached("x", 1, make)
    (path,) = files(fresh_cache)
    content = bytearray(path.read_bytes())
    if damage == "empty":
        content = bytearray()
    elif damage == "cut off":
        content = content[: len(content) // 2]
    elif damage == "one bit":
        content[200] ^= 4
    elif damage == "text":
        content = bytearray(b"not an archive")
    else:
        content = content[:-10]
    path.write_bytes(bytes(content))
    with caplog.at_level(logging.WARNING):
        check(cached("x", 1, make))
    assert make.calls == 2
    assert "made again" in caplog.text
    check(cached("x", 1, make))
    assert make.calls == 2


def test_a_bit_that_flips_anywhere_is_noticed(fresh_cache, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)

    def make():
        rng = np.random.default_rng(0)
        return {"a": rng.integers(0, 9, 50), "b": rng.random(20), "c": np.zeros(0, np.int16)}

    expected = make()
    cached("x", 1, make)
    (path,) = files(fresh_cache)
    content = path.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(bytes(damaged))
        arrays = cached("x", 1, make)
        assert sorted(arrays) == sorted(expected)
        for name, array in arrays.items():
            assert array.dtype == expected[name].dtype
            assert (array == expected[name]).all()


def test_pickled_objects_are_never_read(fresh_cache, tmp_path):
    make = Maker()
    cached("x", 1, make)
    (path,) = files(fresh_cache)

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    np.savez(path, a=np.array([Trap()], dtype=object))
    check(cached("x", 1, make))
    assert not (tmp_path / "executed").exists()


def test_objects_are_never_written(fresh_cache):
    with pytest.raises(ValueError, match="allow_pickle"):
        cached("x", 1, lambda: {"a": np.array([object()])})
    assert files(fresh_cache) == []


def test_a_folder_that_cannot_be_made_costs_a_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        check(cached("x", 1, Maker()))
    assert "NAS_CACHE" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_full_disk_costs_a_warning_and_leaves_no_file(fresh_cache, tmp_path):
    import subprocess

    code = (
        "import resource, signal, numpy as np\n"
        "from nas.tasks.cache import cached\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "a = cached('x', 1, lambda: {'a': np.random.default_rng(0).random(10_000)})\n"
        "print(len(a['a']))\n"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=True,
    )
    assert run.stdout.strip() == "10000"
    assert "cannot be kept" in run.stderr
    assert files(fresh_cache) == []


def test_the_folder_is_the_platforms(monkeypatch):
    monkeypatch.delenv("NAS_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == Path("/elsewhere/nas")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "nas"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == Path.home() / "Library" / "Caches" / "nas"
