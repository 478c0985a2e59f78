"""The errors that a user can cause or has to act on; any other error is a defect of rsas."""

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
    """Input of the user is invalid.

    The message is one line: what is wrong, where, and what would be right. Secrets in the message
    are hidden. The command line prints the message without a traceback and ends with exit code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class NonFiniteLoss(ArithmeticError):
    """The training or validation loss became NaN or infinite; the message names the epoch."""


class Halted(RuntimeError):
    """A sweep had to stop, such as for lack of disk space; its results are kept.

    The message is one line. The command line prints the message and ends with exit code 1.
    """

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class LeaseLost(Halted):
    """Another process has taken a sweep over, so this process must not write any more."""


class StorageError(OSError):
    """A sweep's storage could not be read or written, and retries did not help.

    The message is one line; secrets in the message are hidden. The command line prints the message
    and ends with exit code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


def first_line(error: BaseException) -> str:
    """Return the first line of the error's message, secrets hidden.

    An error without a message gives the name of its type.
    """
    try:
        text = str(error)
    except Exception:  # the __str__ of a user's class may fail
        text = ""
    lines = redact(text).strip().splitlines()  # redacted first, since a secret may span lines
    return lines[0] if lines else type(error).__name__


def reason_of(error: BaseException) -> str:
    """Return one line on an error, which begins with the type's name.

    The messages of ``NonFiniteLoss`` and ``InputError`` are complete without the type's name.
    """
    message, name = first_line(error), type(error).__name__
    if isinstance(error, (NonFiniteLoss, InputError)) or message == name:
        return message
    return f"{name}: {message}"
