"""What goes into a model and what comes out of it: the contract between tasks and models."""

from dataclasses import dataclass


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """Tokens of a vocabulary."""

    vocabulary: int

    def __post_init__(self) -> None:
        _positive("vocabulary", self.vocabulary)


@dataclass(frozen=True, slots=True)
class _Classes:
    """Logits of classes."""

    classes: int

    def __post_init__(self) -> None:
        _positive("classes", self.classes)

    @property
    def size(self) -> int:
        """Numbers that the head makes: a logit a class."""
        return self.classes


class Tokens(_Vocabulary):
    """Inputs are integers `[B, L]`, each in `0 .. vocabulary - 1`.

    Args:
        vocabulary: Number of different tokens, padding included.
    """

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Features:
    """Inputs are real numbers `[B, L, channels]`.

    Args:
        channels: Numbers per position.
    """

    channels: int

    def __post_init__(self) -> None:
        _positive("channels", self.channels)


class Pairs(_Vocabulary):
    """Inputs are two sequences of tokens that are compared: integers `[B, 2, L]`.

    Args:
        vocabulary: Number of different tokens, padding included.
    """

    __slots__ = ()


class Label(_Classes):
    """One class per sequence: logits `[B, classes]`, targets `[B]`.

    Args:
        classes: Number of classes.
    """

    __slots__ = ()


class TokenLabels(_Classes):
    """One class per position: logits `[B, L, classes]`, targets `[B, L]`, -100 where not asked.

    Args:
        classes: Number of classes.
    """

    __slots__ = ()


class Reconstruction(_Classes):
    """One class per position, all from the vector of the last one: logits `[B, L, classes]`.

    What is told about a sequence must pass through that one vector.

    Args:
        classes: Number of classes.
    """

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Values:
    """Real numbers per sequence: `[B, numbers]`, targets alike.

    Args:
        numbers: How many.
        mean: Of each; (): they are about 0 and of deviation 1 as they are.
        deviation: With `mean`: of all. The head says by how many deviations a number differs from
            its mean, and the loss is in deviations: targets of any unit are learned alike, and
            the loss is proportional to the squared error in that unit.
    """

    numbers: int
    mean: tuple[float, ...] = ()
    deviation: float = 1.0

    def __post_init__(self) -> None:
        _positive("numbers", self.numbers)
        if self.mean and len(self.mean) != self.numbers:
            raise ValueError(f"{len(self.mean)} means of {self.numbers} numbers")
        if not self.deviation > 0:
            raise ValueError(f"deviation must be positive, not {self.deviation}")
        if self.deviation != 1 and not self.mean:
            raise ValueError("a deviation is one from means, and there are none")

    @property
    def size(self) -> int:
        """Numbers that the head makes."""
        return self.numbers


Inputs = Tokens | Features | Pairs
Outputs = Label | TokenLabels | Reconstruction | Values
