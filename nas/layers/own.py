"""Layers of one's own: a Python file whose classes are registered as primitives of a space.

The file is executed, so only the person at the command line can name it (`--layers mine.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from nas.errors import UsageError
from nas.layers.base import PRIMITIVES
from nas.own_files import (
    OwnFile,
    hashes_of,
    load,
    read_source,
    refuse_other_files,
    sources_of,
)

PACKAGE = "nas.own"
"""The name that such modules have behind them, so that an exported model can carry their source."""


@dataclass(frozen=True)
class OwnLayers(OwnFile):
    """A file that was executed.

    Args:
        name: Its name without `.py`.
        source: Its text.
        primitives: The names that it registered.
    """

    primitives: tuple[str, ...]


LOADED: dict[str, OwnLayers] = {}
"""What this process has executed, by the name of the module it became."""


def load_layers(path: Path) -> OwnLayers:
    """Executes a file of layers; twice the same file is executed once.

    Args:
        path: The file. It imports torch, the standard library and nas alone, so that its layers
            can be trained anywhere and exported.

    Raises:
        UsageError: It cannot be read, raises an error, registers nothing, or another file of its
            name was executed before.
    """
    return load_source(path.stem, read_source(path, "--layers", "layers"), str(path))


def load_source(name: str, source: str, path: str = "") -> OwnLayers:
    """Executes the text of a file of layers.

    Args:
        name: The file's name without `.py`.
        source: Its text.
        path: Where it stands, for messages.

    Raises:
        UsageError: As `load_layers`.
    """
    path = path or f"{name}.py"
    before = set(PRIMITIVES)

    def kept(module: ModuleType) -> OwnLayers:
        new = tuple(sorted(PRIMITIVES.keys() - before))
        if new:
            return OwnLayers(name, source, new)
        raise UsageError(
            f'{path} registers no layer: put `@primitive("name")` (nas.layers.base) above a class'
        )

    try:
        return load(LOADED, f"{PACKAGE}.{name}", source, path, kept)
    except BaseException:
        for primitive in PRIMITIVES.keys() - before:
            del PRIMITIVES[primitive]
        raise


def sources() -> dict[str, str]:
    """Text of every file that this process has executed, by its name without `.py`."""
    return sources_of(LOADED)


def hashes() -> dict[str, str]:
    """Hash of every such text, by its name."""
    return hashes_of(LOADED)


def refuse_others(wanted: Mapping[str, str], study: str) -> None:
    """Make sure that a study goes on with the layers it began with.

    Args:
        wanted: Their hashes by name, as the study recorded them.
        study: Its name, for the message.

    Raises:
        UsageError: One is missing or different.
    """
    refuse_other_files(wanted, hashes(), study, what="layers", option="--layers .../{}.py")
