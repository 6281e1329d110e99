"""LRA Text: the sentiment of IMDb reviews (Maas et al. 2011), read byte by byte."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.compiler.interface import Label, Tokens
from nas.tasks.archives import (
    DamagedDataError,
    MissingDataError,
    data_folders,
    fingerprint_of_file,
    members,
    with_validation,
)
from nas.tasks.base import Profile, Split, Splits, Task, bins, lookup, majority
from nas.tasks.cache import cached
from nas.tasks.download import Archive, download_folder
from nas.tasks.generate import flatten, unflatten
from nas.tasks.lra.setting import s4_setting
from nas.tasks.named import task
from nas.tasks.setting import Setting

VERSION = 1
ARCHIVES = ("aclImdb_v1.tar.gz", "aclImdb.tar.gz", "aclImdb.tar.xz")
IMDB = Archive(
    ARCHIVES[0],
    "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
    "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",
    84_125_825,
)
_REVIEW = re.compile(r"(?:.*/)?(train|test)/(pos|neg)/(\d{1,9})_(\d{1,2})\.txt")
_LARGEST = 2**20

Review = tuple[str, int, int, bytes]
"""Split, label, number within both, text."""


@dataclass(frozen=True)
class Text:
    """The definition of a Text data set.

    Args:
        length: L; of a longer review that many bytes are kept.
        end: Whether its last bytes are kept, where its verdict often stands, not its first.
        validation: Reviews held out from the original training split.
        most: Largest number of test reviews; None: all.
        version: Of the code that makes the arrays.
    """

    length: int
    end: bool = False
    validation: int = 2500
    most: int | None = None
    version: int = VERSION


PAPER = Text(4096)
PAPER_1000 = Text(1000)
SMALL = Text(128, end=True, validation=2000, most=2000)


@task("lra/text", "the sentiment of IMDb reviews, byte by byte", data=True, archives=(IMDB,))
def text(profile: Profile, data: Path | None) -> Task:
    """The task of a profile.

    Args:
        profile: `paper` or `small`.
        data: Folder with the original archive, or with its unpacked folder.

    Raises:
        MissingDataError: The reviews are not there.
    """
    return _task("lra/text", profile, SMALL if profile == "small" else PAPER, data)


@task(
    "lra/text-1000",
    "the same at the length of LRA's public configuration",
    data=True,
    archives=(IMDB,),
)
def text_1000(profile: Profile, data: Path | None) -> Task:
    """The task at 1,000 bytes; see `text`."""
    return _task("lra/text-1000", profile, SMALL if profile == "small" else PAPER_1000, data)


def _task(name: str, profile: Profile, of: Text, data: Path | None) -> Task:
    small = profile == "small"
    source = find(data, name)
    return Task(
        name=name,
        profile=profile,
        summary="is a film review positive? its bytes as tokens",
        definition=(
            f"IMDb, the {'last' if of.end else 'first'} {of.length} bytes; {of.validation} of the "
            "25000 training reviews are held out for validation"
        ),
        length=of.length,
        causal=False,
        inputs=Tokens(256),
        outputs=Label(2),
        batch_size=64 if small else 16,
        steps=300 if small else 50_000,
        source=lambda: load(source, of),
        decode=lambda inputs, target: f"{spell(inputs)}\n= {('negative', 'positive')[int(target)]}",
        rules={"majority": majority, "length": lookup(_length)},
        setting=Setting() if small else s4_setting(),
    )


def spell(tokens: NDArray) -> str:
    """The bytes of a review as text; what is no UTF-8 (a character cut off) is replaced."""
    return bytes(int(token) for token in tokens if token).decode("utf-8", "replace")


def find(data: Path | None, name: str = "lra/text") -> Path:
    """The archive, or the unpacked folder, that holds `train/pos` and so on.

    Raises:
        MissingDataError: Neither is in the folder, its sub-folder `imdb`, or named.
    """
    folders = data_folders(data, "imdb")
    for folder in (*folders, download_folder()):
        for candidate in (folder / "aclImdb", folder):
            if (candidate / "train" / "pos").is_dir():
                return candidate
        for archive in ARCHIVES:
            if (folder / archive).is_file():
                return folder / archive
    where = f"into {folders[0]}" if folders else "into a folder and name it with --data or NAS_DATA"
    raise MissingDataError(
        f"{name} needs the IMDb reviews: put {ARCHIVES[0]} (https://ai.stanford.edu/~amaas/data/"
        f"sentiment/), or its unpacked folder aclImdb, {where}; or fetch it: "
        f"nas tasks {name} --download"
    )


def load(source: Path, of: Text) -> Splits:
    """The splits, from the archive or the unpacked folder, kept in the cache.

    Raises:
        DamagedDataError: The archive is damaged, or one of its four folders is empty.
    """
    files = _files(source) if source.is_dir() else [source]
    origin = [fingerprint_of_file(path) for path in files]

    def make() -> dict[str, NDArray]:
        reviews = _unpacked(files) if source.is_dir() else _archived(source)
        return flatten(_splits(source, reviews, of))

    return unflatten(cached("lra-text", (of, origin), make))


def _archived(path: Path) -> list[Review]:
    found = members(path, lambda name: _REVIEW.fullmatch(name) is not None, _LARGEST)
    return [_review(name, content) for name, content in found]


def _files(folder: Path) -> list[Path]:
    """The reviews of an unpacked folder; links are not followed."""
    found = []
    for part in ("train/pos", "train/neg", "test/pos", "test/neg"):
        for path in sorted((folder / part).glob("*.txt")):
            if path.is_symlink() or not path.is_file() or not _REVIEW.fullmatch(path.as_posix()):
                continue
            if path.stat().st_size > _LARGEST:
                raise DamagedDataError(f"{path}: larger than any review ({_LARGEST} bytes)")
            found.append(path)
    return found


def _unpacked(files: list[Path]) -> list[Review]:
    return [_review(path.as_posix(), path.read_bytes()) for path in files]


def _review(name: str, content: bytes) -> Review:
    match = _REVIEW.fullmatch(name)
    assert match is not None
    split, label, number, _ = match.groups()
    return split, int(label == "pos"), int(number), content


def _splits(source: Path, reviews: list[Review], of: Text) -> Splits:
    parts = {}
    for split in ("train", "test"):
        chosen = sorted((n, label, t) for s, label, n, t in reviews if s == split)
        if {label for _, label, _ in chosen} != {0, 1}:
            raise DamagedDataError(
                f"{source}: no reviews in {split}/pos or {split}/neg: cut off, or not the original"
            )
        inputs = np.zeros((len(chosen), of.length), dtype=np.uint8)
        lengths = np.zeros(len(chosen), dtype=np.int32)
        for row, (_, _, content) in enumerate(chosen):
            # Token 0 is padding; no text has that byte, but a file may.
            content = content[-of.length :] if of.end else content[: of.length]
            content = content.replace(b"\0", b" ") or b" "
            inputs[row, : len(content)] = np.frombuffer(content, dtype=np.uint8)
            lengths[row] = len(content)
        targets = np.array([label for _, label, _ in chosen], dtype=np.uint8)
        parts[split] = Split(inputs, targets, lengths)
    most = {} if of.most is None else {"validation": of.most, "test": of.most}
    return with_validation(parts["train"], parts["test"], validation=of.validation, most=most)


def _length(split: Split) -> NDArray[np.int64]:
    assert split.lengths is not None
    return bins(split.lengths, 0, split.inputs.shape[1] + 1)
