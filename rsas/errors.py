"""The two errors a user can meet; everything else is a defect of rsas."""

__all__ = ["InputError", "NonFiniteLoss"]


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: what is wrong, where, and what would be right. The command line
    prints it without a traceback and ends with exit code 2.
    """


class NonFiniteLoss(ArithmeticError):
    """The training loss became NaN or infinite; the message names epoch and step."""
