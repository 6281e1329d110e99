"""LRA Image: CIFAR-10 (Krizhevsky 2009) in shades of grey, its pixels row by row as tokens."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pictures
from PIL import UnidentifiedImageError

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
from nas.tasks.lra.pathfinder import picture
from nas.tasks.lra.setting import s4_setting
from nas.tasks.named import task
from nas.tasks.setting import Setting

VERSION = 1
ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR = Archive(
    ARCHIVE,
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    170_052_171,
)
MOSAICS = ("gray_train.png", "gray_test.png", "labels_train.npy", "labels_test.npy")
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32
_RECORD = 1 + 3 * SIDE * SIDE
_LARGEST = 10_000 * _RECORD
_ROW = 100  # images in a row of a mosaic
_MOST_IMAGES = 100_000


@dataclass(frozen=True)
class Image:
    """The definition of an Image data set.

    Args:
        pool: Squares of this many pixels a side are averaged into one token.
        levels: Shades of grey told apart.
        validation: Share of the original training split that is held out.
        most: Largest number of validation and of test images; None: all.
        version: Of the code that makes the arrays.
    """

    pool: int = 1
    levels: int = 256
    validation: float = 0.1
    most: int | None = None
    version: int = VERSION


PAPER = Image()
SMALL = Image(pool=4, levels=16, most=2000)


@task("lra/image", "grey CIFAR-10, pixel by pixel", data=True, archives=(CIFAR,))
def image(profile: Profile, data: Path | None) -> Task:
    """The task of a profile.

    Args:
        profile: `paper` or `small`.
        data: Folder with the original archive, or with grey mosaics of its images.

    Raises:
        MissingDataError: The images are not there.
    """
    small = profile == "small"
    of = SMALL if small else PAPER
    source = find(data)
    side = SIDE // of.pool
    return Task(
        name="lra/image",
        profile=profile,
        summary="which of ten things does a grey picture show? its pixels as tokens",
        definition=(
            f"CIFAR-10, {side} x {side} pixels of {of.levels} shades; a tenth of the training "
            "images is held out for validation"
        ),
        length=side * side,
        causal=False,
        inputs=Tokens(of.levels),
        outputs=Label(len(CLASSES)),
        batch_size=32 if small else 50,
        steps=600 if small else 180_000,
        source=lambda: load(source, of),
        decode=lambda inputs, target: (
            f"{picture(inputs.reshape(side, side) * (255 / (of.levels - 1)))}\n"
            f"= {CLASSES[int(target)]}"
        ),
        rules={"majority": majority, "brightness": lookup(lambda s: _brightness(s, of.levels))},
        setting=Setting() if small else s4_setting(512),
    )


def find(data: Path | None) -> Path:
    """The archive, or the folder of grey mosaics.

    Raises:
        MissingDataError: Neither is in the folder, its sub-folder `cifar10`, or named.
    """
    folders = data_folders(data, "cifar10")
    for folder in (*folders, download_folder()):
        if (folder / ARCHIVE).is_file():
            return folder / ARCHIVE
        if all((folder / name).is_file() for name in MOSAICS):
            return folder
    where = f"into {folders[0]}" if folders else "into a folder and name it with --data or NAS_DATA"
    raise MissingDataError(
        f"lra/image needs CIFAR-10: put {ARCHIVE} (https://www.cs.toronto.edu/~kriz/cifar.html, "
        f"the binary version) {where}; or fetch it: nas tasks lra/image --download"
    )


def load(source: Path, of: Image) -> Splits:
    """The splits, from the archive or the mosaics, kept in the cache.

    Raises:
        DamagedDataError: A file is damaged or is not what its name says.
    """
    files = [source / name for name in MOSAICS] if source.is_dir() else [source]
    origin = [fingerprint_of_file(path) for path in files]

    def make() -> dict[str, NDArray]:
        read = _mosaics if source.is_dir() else _binary
        train, test = (_tokens(images, labels, of) for images, labels in read(source))
        most = {} if of.most is None else {"validation": of.most, "test": of.most}
        held_out = round(of.validation * len(train))
        return flatten(with_validation(train, test, validation=held_out, most=most))

    return unflatten(cached("lra-image", (of, origin), make))


def grey(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma of `[..., 3, H, W]` colours, rounded as Pillow does (ITU-R 601-2)."""
    red, green, blue = (rgb[..., i, :, :].astype(np.uint32) for i in range(3))
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).astype(np.uint8)


def _tokens(images: NDArray[np.uint8], labels: NDArray, of: Image) -> Split:
    side = SIDE // of.pool
    squares = images.reshape(-1, side, of.pool, side, of.pool).astype(np.uint32)
    sums = squares.sum(axis=(2, 4)).reshape(-1, side * side)
    tokens = sums * of.levels // (256 * of.pool**2)
    return Split(tokens.astype(np.uint8), labels.astype(np.uint8))


def _binary(path: Path) -> list[tuple[NDArray[np.uint8], NDArray]]:
    """Images `[N, 32, 32]` and labels of the training and the test batches of the archive."""
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    found = {}
    for name, content in members(path, lambda n: Path(n).name in names, _LARGEST):
        if not content or len(content) % _RECORD:
            raise DamagedDataError(f"{path}: {name} is no sequence of records of {_RECORD} bytes")
        found[Path(name).name] = np.frombuffer(content, dtype=np.uint8).reshape(-1, _RECORD)
    missing = [name for name in names if name not in found]
    if missing:
        raise DamagedDataError(
            f"{path}: {', '.join(missing)} missing: cut off, or not the original"
        )
    result = []
    for batches in (names[:5], names[5:]):
        records = np.concatenate([found[name] for name in batches])
        pixels = grey(records[:, 1:].reshape(-1, 3, SIDE, SIDE))
        result.append((pixels, _labels(records[:, 0], path)))
    return result


def _mosaics(folder: Path) -> list[tuple[NDArray[np.uint8], NDArray]]:
    """The same from mosaics: 100 images of 32 x 32 a row, labels beside them."""
    return [_mosaic(folder / MOSAICS[i], folder / MOSAICS[i + 2]) for i in range(2)]


def _mosaic(pixels: Path, labels: Path) -> tuple[NDArray[np.uint8], NDArray]:
    try:
        with Pictures.open(pixels, formats=("PNG",)) as mosaic:
            width, height = mosaic.size
            if mosaic.mode != "L" or width != _ROW * SIDE or height % SIDE:
                raise DamagedDataError(
                    f"{pixels}: not a grey mosaic of {_ROW} images of {SIDE} x {SIDE} a row"
                )
            if height // SIDE * _ROW > _MOST_IMAGES:
                raise DamagedDataError(f"{pixels}: more than {_MOST_IMAGES} images")
            rows = np.asarray(mosaic).reshape(-1, SIDE, _ROW, SIDE)
        values = np.load(labels, allow_pickle=False)
    except (OSError, ValueError, UnidentifiedImageError, Pictures.DecompressionBombError) as error:
        raise DamagedDataError(f"{pixels} or {labels.name}: damaged ({error})") from error
    images = rows.swapaxes(1, 2).reshape(-1, SIDE, SIDE)
    if values.ndim != 1 or not 0 < len(values) <= len(images):
        raise DamagedDataError(f"{labels}: {values.shape} labels for {len(images)} images")
    return images[: len(values)], _labels(values, labels)


def _labels(values: NDArray, path: Path) -> NDArray:
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= len(CLASSES):
        raise DamagedDataError(f"{path}: labels must be integers from 0 to {len(CLASSES) - 1}")
    return values


def _brightness(split: Split, levels: int) -> NDArray[np.int64]:
    return bins(split.inputs.mean(axis=1), 0, levels)
