"""Named errors. Each message says what was expected, what came, from which file and which row.

Every error of the project derives from `CxrError`, so a command can turn it into one
clear line. `exit_code` is 2 where the user's input is at fault and 1 where work failed.
"""

from __future__ import annotations


def printable(text: object) -> str:
    """A name as it may stand in a message, a log or a table: unprintable characters are written out.

    File names may hold line breaks, terminal controls and bytes that are no UTF-8. As they are, they would
    forge lines of a log and break tables.

    Args:
        text: A path, a file's name or an id.

    Returns:
        Text that is valid UTF-8 and one line; what is printable is unchanged.
    """
    return "".join(map(_printable, str(text)))


def _printable(letter: str) -> str:
    if letter.isprintable():
        return letter
    # Python keeps a byte of a name that is no UTF-8 as a surrogate.
    if 0xDC80 <= ord(letter) <= 0xDCFF:
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()


class CxrError(Exception):
    """Base of all errors this project raises on purpose."""

    exit_code = 2


class DataError(CxrError):
    """A file or folder is missing, empty, or lacks what its name promises."""


class DiskError(CxrError):
    """The operating system refused to read or write: disk full or broken, too many open files."""

    exit_code = 1


class AnnotationError(DataError):
    """An annotation table has a missing column, an unknown class or an impossible row."""


class BoxError(CxrError):
    """An array of boxes has the wrong shape, or a box is degenerate or not finite."""


class DicomReadError(CxrError):
    """An image file cannot be read as one greyscale radiograph.

    Attributes:
        reason: A short code, stable across versions, for tables (`failures.csv`).
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[DicomReadError], tuple[str, str]]:
        return type(self), (self.reason, str(self))


class StoreError(DataError):
    """An image store is incomplete, damaged, or does not hold the image asked for."""


class ParameterError(CxrError):
    """A parameter is unknown, of the wrong type, or out of its range."""


class SubmissionError(DataError):
    """A submission file does not follow the competition's format."""


class CheckpointError(DataError):
    """A checkpoint or weights file cannot be used for what was asked."""


class TrainingError(CxrError):
    """Training cannot go on, for example because the loss is no longer finite."""

    exit_code = 1


class PausedError(CxrError):
    """Training paused where it was told to; the same call goes on from there."""

    exit_code = 1


class PredictionError(CxrError):
    """A detector gave answers that are no numbers."""

    exit_code = 1


class RunError(CxrError):
    """A notebook of the chain failed, or too many files could not be read."""

    exit_code = 1
