"""The one exception that every reader raises for input it cannot use, that of writers, and the reader of texts."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path

_WRAPPERS = ("Failed to ", "applying transform ")


class BadInput(ValueError):
    """An input that is refused, as one sentence: which file, what it holds, what was expected.

    Attributes:
        path: the file or folder at fault.
        reason: what is wrong with it, without the path (the `reason` column of `excluded.csv`).
    """

    def __init__(self, path: str | PathLike[str], reason: str) -> None:
        # Both go into `args`, so that the exception survives the trip back from a worker process.
        super().__init__(fspath(path), reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        """Return the sentence `PATH: REASON.`."""
        return f"{self.args[0]}: {self.reason.rstrip('.')}."  # a Path would make s3:/ of s3://


class DiskFailure(Exception):  # noqa: N818
    """A file that could not be written, as one sentence; no fault of any input, so that it ends all work.

    Attributes:
        path: the file or folder that is not written.
        reason: why not, without the path.
    """

    def __init__(self, path: str | PathLike[str], reason: str) -> None:
        super().__init__(fspath(path), reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        """Return the sentence `PATH: REASON.`."""
        return f"{self.args[0]}: {self.reason}."


def first_error(error: BaseException) -> BaseException:
    """The error that MONAI wrapped in a RuntimeError, as it does with what fails in a configuration or a transform."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None and str(error).startswith(_WRAPPERS):
        error = error.__cause__
    return error


def read_text(path: str | PathLike[str], expected: str) -> str:
    """The text of a UTF-8 file, with or without a byte order mark; line ends stay as they are.

    Args:
        path: the file.
        expected: what it should be, for the sentence about one that cannot be read: "a report".

    Raises:
        BadInput: if it cannot be read, or is no UTF-8.
    """
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise BadInput(path, f"cannot be read ({error.strerror}), expected {expected}") from error
    except UnicodeDecodeError as error:
        raise BadInput(path, f"is not UTF-8 text (byte {error.start})") from error
