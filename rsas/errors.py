"""The errors a user can meet; everything else is a defect of rsas."""

from rsas.redact import redact

__all__ = [
    "Halted",
    "InputError",
    "LeaseLost",
    "NonFiniteLoss",
    "StorageError",
    "first_line",
    "reason_of",
]


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: what is wrong, where, and what would be right; secrets in it are
    hidden. The command line prints it without a traceback and ends with exit code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class NonFiniteLoss(ArithmeticError):
    """The training or validation loss became NaN or infinite; the message names the epoch."""


class Halted(RuntimeError):
    """A sweep had to stop, such as for want of disk space; what is done is kept.

    The message is one line; the command line prints it and ends with exit code 1.
    """

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class LeaseLost(Halted):
    """Another process has taken a sweep over; this one may write no more."""


class StorageError(OSError):
    """A sweep's storage could not be read or written, for longer than a hiccup.

    The message is one line; secrets in it are hidden. The command line prints it and ends with
    exit code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


def first_line(error: BaseException) -> str:
    """The first line of its message, secrets hidden; the type's name where it has none."""
    try:
        text = str(error)
    except Exception:  # of a class of the user's, whose __str__ fails
        text = ""
    lines = redact(text).strip().splitlines()  # before a cut that would part a secret
    return lines[0] if lines else type(error).__name__


def reason_of(error: BaseException) -> str:
    """One line; with the type's name where the message alone would say too little."""
    told, name = first_line(error), type(error).__name__
    if isinstance(error, (NonFiniteLoss, InputError)) or told == name:
        return told
    return f"{name}: {told}"
