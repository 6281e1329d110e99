"""What is wrong with a space file or an architecture's text, and where."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Location:
    """Where something stands in a space file (`line` counts from 1)."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class SpaceError(ValueError):
    """A space file, or a text of its language, that cannot be used.

    The message is one line that says what is wrong and what to write instead.

    Args:
        message: What is wrong.
        location: Where it stands in a space file; None when no file is to blame.
    """

    def __init__(self, message: str, location: Location | None = None) -> None:
        super().__init__(message if location is None else f"{location}: {message}")
        self.message = message
        self.location = location

    @property
    def file(self) -> str | None:
        """The file to blame, or None."""
        return self.location.file if self.location else None

    @property
    def line(self) -> int | None:
        """The line to blame, counted from 1, or None."""
        return self.location.line if self.location else None
