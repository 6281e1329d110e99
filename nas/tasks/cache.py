"""Prepared data, kept in the user's cache folder: written atomically, made again when damaged."""

import hashlib
import logging
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray]

_log = logging.getLogger(__name__)
_SALT: ContextVar[str] = ContextVar("salt", default="")


def cache_folder() -> Path:
    """Where prepared data is kept: `NAS_CACHE`, else the platform's folder for caches."""
    if folder := os.environ.get("NAS_CACHE"):
        return Path(folder).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "nas"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "nas"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nas"


@contextmanager
def salted(salt: str) -> Iterator[None]:
    """Keeps what is cached inside apart from what another salt, or none, has cached.

    Args:
        salt: Such as the hash of the code that makes it.
    """
    token = _SALT.set(salt)
    try:
        yield
    finally:
        _SALT.reset(token)


def cached(name: str, definition: object, make: Callable[[], Mapping[str, NDArray]]) -> Arrays:
    """The arrays of a definition: from the cache, else made and kept.

    Args:
        name: What the file is called, e.g. `lra-listops-small`.
        definition: All that the arrays depend on; its `repr` is part of the file's name, so that
            another definition never meets an older one's data.
        make: Makes the arrays (no objects, so nothing is ever unpickled).

    Returns:
        The arrays by name. A file that is damaged is made again; a folder that cannot be written
        costs a warning and the time to make the data again.
    """
    key = hashlib.sha256((repr(definition) + _SALT.get()).encode()).hexdigest()[:16]
    path = cache_folder() / "tasks" / f"{name}-{key}.npz"
    arrays = _read(path)
    if arrays is None:
        arrays = dict(make())
        _write(path, arrays)
    return arrays


def _read(path: Path) -> Arrays | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if archive.comment and archive.comment != _comment(names):
                raise ValueError(f"its list of arrays is {', '.join(names)}")
            return {name.removesuffix(".npy"): _array(archive, name) for name in names}
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever zipfile, zlib and NumPy make of damaged bytes
        _log.warning("%s: damaged, made again (%s)", path, error)
        return None


def _array(archive: zipfile.ZipFile, name: str) -> NDArray:
    with archive.open(name) as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        # The checksum is tested where a member ends: a damaged shape may end the array before.
        if member.read(1):
            raise ValueError(f"{name} goes on behind its array")
    return array


def _comment(members: Iterable[str]) -> bytes:
    """An archive's: the list of its members has no checksum, and may break off unnoticed."""
    return " ".join(members).encode()


def _pack(file: IO[bytes], arrays: Arrays) -> None:
    """What `np.savez_compressed` writes, compressed least: several times faster, a little larger.

    The checksum that a zip archive keeps of every array is what tells a damaged file.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.comment = _comment(f"{name}.npy" for name in arrays)
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def _write(path: Path, arrays: Arrays) -> None:
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            _pack(file, arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        temporary = None
    except OSError as error:
        _log.warning("%s: cannot be kept (%s); set NAS_CACHE to another folder", path, error)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
