"""LRA Retrieval: do two papers of the ACL Anthology cite one another? (Radev et al. 2013; LRA).

Two texts, as bytes, are read by the same body one by one, and their means are compared
(`nas.compiler.interface.Pairs`). The pairs are those of LRA's own release and cannot be made again.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.compiler.interface import Label, Pairs
from nas.tasks.archives import (
    DamagedDataError,
    MissingDataError,
    data_folders,
    fingerprint_of_file,
)
from nas.tasks.base import SPLITS, Profile, Split, Splits, Task, bins, lookup, majority
from nas.tasks.cache import cached
from nas.tasks.generate import flatten, unflatten
from nas.tasks.lra.setting import s4_setting
from nas.tasks.named import task
from nas.tasks.setting import Setting

VERSION = 1
FILES = {
    "train": "new_aan_pairs.train.tsv",
    "validation": "new_aan_pairs.eval.tsv",
    "test": "new_aan_pairs.test.tsv",
}
_LARGEST = 1 << 24  # bytes of one text: no paper is a hundredth of that


@dataclass(frozen=True)
class Retrieval:
    """The definition of a data set.

    Args:
        length: Bytes of each text, from its beginning.
        most: Largest number of pairs of a split; None: all.
        version: Of the reader's code.
    """

    length: int
    most: int | None = None
    version: int = VERSION


PAPER = Retrieval(4000)
SMALL = Retrieval(256, 4000)


@task("lra/retrieval", "does one of two papers cite the other? byte by byte", data=True)
def retrieval(profile: Profile, data: Path | None) -> Task:
    """The task of a profile.

    Args:
        profile: `paper` or `small`.
        data: Folder with the three files of LRA's release, or with its `lra_release` folder.

    Raises:
        MissingDataError: The files are not there.
    """
    small = profile == "small"
    of = SMALL if small else PAPER
    source = find(data)
    return Task(
        name="lra/retrieval",
        profile=profile,
        summary="does one of two papers cite the other? their bytes as tokens",
        definition=f"pairs of LRA's release, the first {of.length} bytes of each text",
        length=of.length,
        causal=False,
        inputs=Pairs(256),
        outputs=Label(2),
        batch_size=32 if small else 64,
        steps=300 if small else 46_000,  # 20 epochs of 147,086 pairs
        source=lambda: load(source, of),
        decode=lambda inputs, target: (
            f"{_spell(inputs[0])}\n--\n{_spell(inputs[1])}\n= {('no', 'yes')[int(target)]}"
        ),
        rules={"majority": majority, "difference of lengths": lookup(_difference)},
        setting=Setting() if small else s4_setting(),
    )


def find(data: Path | None) -> Path:
    """The folder with the three files.

    Raises:
        MissingDataError: They are not in the folder, nor where the release has them.
    """
    folders = data_folders(data, "lra_release")
    for folder in folders:
        for candidate in (folder, folder / "lra_release", folder / "tsv_data"):
            for place in (candidate, candidate / "tsv_data"):
                if all((place / name).is_file() for name in FILES.values()):
                    return place
    where = f"into {folders[0]}" if folders else "into a folder and name it with --data or NAS_DATA"
    raise MissingDataError(
        "lra/retrieval needs the pairs of LRA's release (https://github.com/google-research/"
        f"long-range-arena, lra_release.gz): put {', '.join(FILES.values())} {where}"
    )


def load(folder: Path, of: Retrieval) -> Splits:
    """The splits, from the files, kept in the cache.

    Raises:
        DamagedDataError: A line is not a label, two numbers and two texts.
    """
    origin = [fingerprint_of_file(folder / name) for name in FILES.values()]

    def make() -> dict[str, NDArray]:
        return flatten({name: read(folder / FILES[name], of) for name in SPLITS})

    return unflatten(cached("lra-retrieval", (of, origin), make))


def read(path: Path, of: Retrieval) -> Split:
    """The pairs of one file, in its order.

    Raises:
        DamagedDataError: See `load`.
    """
    texts, lengths, labels = bytearray(), [], []
    csv.field_size_limit(_LARGEST)
    try:
        with open(path, encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.reader(file, delimiter="\t"), start=1):
                if len(row) != 5 or row[0] not in ("0", "1", "0.0", "1.0"):
                    raise DamagedDataError(
                        f"{path}:{number}: not a label 0 or 1, two numbers and two texts"
                    )
                pair = [text.encode()[: of.length] for text in row[3:]]
                texts += b"".join(text.ljust(of.length, b"\0") for text in pair)
                lengths.append([max(1, len(text)) for text in pair])
                labels.append(int(float(row[0])))
                if len(labels) == of.most:
                    break
    except (UnicodeDecodeError, csv.Error) as error:
        raise DamagedDataError(f"{path}: damaged ({error})") from error
    if not labels:
        raise DamagedDataError(f"{path}: holds no pairs")
    inputs = np.frombuffer(bytes(texts), dtype=np.uint8).reshape(-1, 2, of.length)
    return Split(inputs, np.array(labels, dtype=np.int8), np.array(lengths))


def _spell(tokens: NDArray) -> str:
    return bytes(int(token) for token in tokens if token).decode("utf-8", "replace")


def _difference(split: Split) -> NDArray[np.int64]:
    assert split.lengths is not None
    ratio = np.log(split.lengths[:, 0] / split.lengths[:, 1])
    return bins(ratio, -2.0, 2.0)
