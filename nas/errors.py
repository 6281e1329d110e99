"""Errors that a person can cause: one clear line that says what to do, and an exit code."""


class NasError(Exception):
    """The work failed: the message is one line for the person at the terminal (exit code 1)."""

    exit_code = 1


class UsageError(NasError):
    """The call was wrong: a wrong file, name, flag or shape (exit code 2)."""

    exit_code = 2
