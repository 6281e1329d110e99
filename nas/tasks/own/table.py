"""Data of one's own from a file: `--task data.csv`, `.parquet` or `.npz`.

See `nas.tasks.own.columns` for what the columns hold. A cell of a CSV file is text, or numbers with
spaces between them (`0.5;1.2 0.1;0.9`: two channels). Nothing in a file is executed or unpickled.
"""

import csv
import lzma
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from nas.errors import UsageError
from nas.tasks.archives import MissingDataError, fingerprint_of_file
from nas.tasks.base import Profile, Task
from nas.tasks.cache import Arrays, cached
from nas.tasks.named import Entry
from nas.tasks.own.columns import MOST_ROWS, VERSION, Columns, encode
from nas.tasks.own.encoded import make_task

SUFFIXES = (".csv", ".parquet", ".npz")
KNOBS = ("causal", "text", "longest", "steps", "batch")
_LARGEST = 4 * 2**30
_LARGEST_CELL = 2**26
_BATCH = 4096
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, ValueError, EOFError, OSError, KeyError,
    RuntimeError,  # what is encrypted, or packed in a way that is not known
)  # fmt: skip


def is_table(name: str) -> bool:
    """Whether a task's name is that of a file with data."""
    return Path(name.partition("[")[0]).suffix.lower() in SUFFIXES


def find(name: str) -> Entry | None:
    """The entry of a file with data; None where a name is none."""
    return Entry("one's own data", partial(_make, name), knobs=KNOBS) if is_table(name) else None


def folder_of(name: str, data: Path | None) -> Path | None:
    """The folder below which a task's file stands, for a study that goes on elsewhere."""
    if data is not None or not is_table(name) or Path(name).is_absolute():
        return data
    return Path.cwd()


def _make(name: str, profile: Profile, data: Path | None, **knobs: Any) -> Task:
    path = Path(name) if data is None else data / name
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file; --data names the folder that {name} is in")
    return from_columns(
        name, (fingerprint_of_file(path), str(path)), lambda: read(path), profile, **knobs
    )


def from_columns(
    name: str,
    origin: object,
    columns: Any,
    profile: Profile,
    *,
    causal: float = 0,
    text: float = 0,
    longest: int | None = None,
    steps: int | None = None,
    batch: int = 64,
) -> Task:
    """The task of columns, which are kept encoded in the cache.

    Args:
        name: The task's name.
        origin: What tells these columns from others.
        columns: Reads them.
        profile: `paper` or `small`.
        causal: 1: a model may only look back.
        text: 1: inputs that are all numbers are text.
        longest: Of longer rows that many positions are kept.
        steps: Of training.
        batch: Rows a step.

    Raises:
        UsageError: The columns are not as they should be.
        ValueError: An impossible knob.
    """
    for key, value in (("causal", causal), ("text", text)):
        if value not in (0, 1):
            raise ValueError(f"{key} is 0 or 1, not {value}")
    for key, number in (("longest", longest), ("steps", steps), ("batch", batch)):
        if number is not None and (number < 1 or int(number) != number):
            raise ValueError(f"{key} is a whole number from 1, not {number}")

    def made() -> Arrays:
        return encode(columns(), text=bool(text), longest=longest)

    try:
        arrays = cached(f"own-{Path(name).stem}", (VERSION, origin, text, longest), made)
        return make_task(name, arrays, profile, causal=bool(causal), steps=steps, batch=batch)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error


def read(path: Path) -> Columns:
    """The columns of a file.

    Raises:
        UsageError: It is larger than any that is read, damaged, or lacks `inputs`.
    """
    if (size := path.stat().st_size) > _LARGEST:
        raise UsageError(f"{size} bytes; at most {_LARGEST} are read")
    reader = {".csv": _csv, ".parquet": _parquet, ".npz": _npz}[path.suffix.lower()]
    return reader(path)


def chosen(found: Mapping[str, Any]) -> Columns:
    """The columns by their names.

    Raises:
        UsageError: There are no inputs.
    """
    if "inputs" not in found:
        raise UsageError(
            "a column `inputs` (and `targets`, and `split` if you like) is needed; there are "
            f"{', '.join(map(repr, list(found)[:8])) or 'none'}"
        )
    lengths = found.get("lengths")
    return Columns(found["inputs"], found.get("targets"), found.get("split"), lengths)


def _csv(path: Path) -> Columns:
    csv.field_size_limit(_LARGEST_CELL)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            header = [name.strip() for name in next(lines, [])]
            wanted = [name for name in ("inputs", "targets", "split") if name in header]
            if "inputs" not in wanted:
                return chosen(dict.fromkeys(header))
            places = [header.index(name) for name in wanted]
            rows: list[list[str]] = []
            for line in lines:
                if not line:
                    continue
                if len(line) != len(header):
                    raise UsageError(
                        f"line {lines.line_num}: {len(line)} cells under {len(header)} names (put "
                        'cells with commas in "quotes")'
                    )
                if len(rows) >= MOST_ROWS:
                    raise UsageError(f"more than {MOST_ROWS} rows")
                rows.append([line[place] for place in places])
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read as CSV in UTF-8: {error}") from error
    columns = zip(*rows, strict=True) if rows else [[] for _ in wanted]
    return chosen({name: list(column) for name, column in zip(wanted, columns, strict=True)})


def _parquet(path: Path) -> Columns:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UsageError("a Parquet file needs pyarrow: pip install pyarrow") from error
    try:
        with parquet.ParquetFile(path) as file:
            if file.metadata.num_rows > MOST_ROWS:
                raise UsageError(f"{file.metadata.num_rows} rows; at most {MOST_ROWS} are read")
            names = file.schema_arrow.names
            wanted = [name for name in ("inputs", "targets", "split") if name in names]
            if "inputs" not in wanted:
                return chosen(dict.fromkeys(names))
            found: dict[str, list[Any]] = {name: [] for name in wanted}
            total = 0
            for batch in file.iter_batches(batch_size=_BATCH, columns=wanted):
                total += batch.nbytes
                if total > _LARGEST:
                    raise UsageError(f"unpacks to over {_LARGEST} bytes")
                for name in wanted:
                    found[name].extend(batch.column(name).to_pylist())
    except (arrow.ArrowException, OSError) as error:
        raise UsageError(f"cannot be read as Parquet: {error}") from error
    return chosen(found)


def _npz(path: Path) -> Columns:
    try:
        with zipfile.ZipFile(path) as archive:
            found = dict(_members(archive))
    except _DAMAGED as error:
        raise UsageError(
            f"cannot be read as arrays (no objects): {error}; write np.savez_compressed(path, "
            "inputs=..., targets=...)"
        ) from error
    return chosen(found)


def _members(archive: zipfile.ZipFile) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays that are wanted; what their headers say is compared with what there is."""
    total = 0
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name not in ("inputs", "targets", "split", "lengths"):
            continue
        total += member.file_size
        if total > _LARGEST:
            raise UsageError(f"unpacks to over {_LARGEST} bytes")
        with archive.open(member) as file:
            said = _said(file)
        if said > member.file_size:
            raise ValueError(f"{name} says that it has {said} bytes; it has {member.file_size}")
        with archive.open(member) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
        if array.ndim == 0 or array.dtype.kind not in "iufbUS":
            raise ValueError(f"{name} is an array of {array.dtype} with {array.ndim} axes")
        yield name, array


def _said(file: IO[bytes]) -> int:
    """Bytes of the array that a header speaks of."""
    version = np.lib.format.read_magic(file)
    reader = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, kind = reader(file)
    return int(np.prod(shape, dtype=np.float64)) * kind.itemsize
