"""Files that stand under their name only when complete, and the hash kept beside a file."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import re
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cxr.errors import CxrError, DataError, DiskError

_HEX = re.compile(r"[0-9a-f]{64}")
_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space, then give the same command again",
    errno.EDQUOT: "your share of the disk is used up; free some space, then give the same command again",
    errno.EFBIG: "the file is larger than this system allows; see `ulimit -f`",
    errno.EROFS: "the disk is read-only; give another path",
    errno.EACCES: "no permission; give another path, or change the permissions",
    errno.EPERM: "no permission; give another path, or change the permissions",
    errno.EMFILE: "too many open files; raise the limit (`ulimit -n`) or let fewer processes work",
    errno.ENFILE: "too many open files on this machine; end other programs or let fewer processes work",
    errno.ENOMEM: "not enough memory; let fewer processes work",
    errno.ESTALE: "the network drive has lost the file; give the same command again",
    errno.EIO: "the disk reports an error in reading or writing; check it before going on",
    errno.ENAMETOOLONG: "the name is too long for this disk; give another path",
}
_STEM = 40  # letters of a file's name that its temporary name keeps; a disk allows 255 bytes
_OF_THE_USER = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}


def named_error(error: OSError, path: Path | str | None = None) -> CxrError:
    """What the operating system refused, as one line with the file and what to do about it.

    Args:
        error: As it was raised.
        path: The file, where the error does not name it or names a temporary one.
    """
    where = path if path is not None else error.filename
    what = _ADVICE.get(error.errno or 0) or error.strerror or str(error)
    text = what if where is None else f"{where}: {what}"
    named = isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError | FileExistsError)
    if named or error.errno in _OF_THE_USER:
        return DataError(text if error.errno in _ADVICE else f"{text}; give another path")
    return DiskError(text)


@contextmanager
def replacing(path: Path, *, hashed: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends well.

    So a file stands under its name only when it is complete and on the disk, whatever stops the process
    or the machine. What processes killed earlier left beside it is removed.

    Args:
        path: The file to write; its folder is made.
        hashed: Also write the file's hash beside it, see `sidecar`.

    Raises:
        DiskError: The disk is full or broken.
        DataError: The file may not be written there.
    """
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            if hashed:
                publish_hashed(temporary, path)
            else:
                publish(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        # An error that names another file is not of this one.
        if error.errno in _ADVICE and error.filename in (None, str(path), str(path.parent), str(temporary)):
            raise named_error(error, path) from error
        raise


def write_bytes(path: Path, *parts: bytes, hashed: bool = False) -> None:
    """Write a file, complete or not at all; the parts one after the other. See `replacing`."""
    with replacing(path, hashed=hashed) as temporary, open(temporary, "wb") as file:
        file.writelines(parts)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, complete or not at all. See `replacing`."""
    write_bytes(path, text.encode("utf-8"))


def temporary_beside(path: Path) -> Path:
    """A new name beside `path`, hidden and with its suffix; leftovers of dead processes are removed.

    The name tells machine and process, so that what a living process writes is left alone.
    """
    start = f".{path.stem[:_STEM]}.{machine()}-"
    for leftover in path.parent.glob(f"{glob.escape(start)}*.tmp{glob.escape(path.suffix)}"):
        process = leftover.name.removeprefix(start).split("-")[0]
        if not (process.isdecimal() and lives(int(process))):
            leftover.unlink(missing_ok=True)
    return path.with_name(f"{start}{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp{path.suffix}")


def is_temporary(path: Path) -> bool:
    """Whether a file's name is one that `temporary_beside` makes."""
    return re.fullmatch(r"\..+\.[0-9a-f]{8}-\d+-[0-9a-f]{8}\.tmp(\..*)?", path.name) is not None


def publish(unfinished: Path, path: Path) -> None:
    """Give a finished file its name, once its content is on the disk."""
    _sync(unfinished)
    os.replace(unfinished, path)
    _sync_folder(path.parent)


def publish_hashed(unfinished: Path, path: Path) -> str:
    """Give a finished file its name and write its hash beside it; the hash never is of another file.

    Returns:
        The SHA-256, hexadecimal.
    """
    digest = sha256(unfinished)
    sidecar(path).unlink(missing_ok=True)
    publish(unfinished, path)
    write_text(sidecar(path), f"{digest}  {path.name}\n")
    return digest


def times_stay(folder: Path) -> bool:
    """Whether a folder's files keep their modification times from one look to the next.

    On a read-only file system (Kaggle's inputs, for example) they may be those of the mount, and the
    files cannot have changed.
    """
    return not os.statvfs(folder).f_flag & os.ST_RDONLY


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sidecar(path: Path) -> Path:
    """Where a file's hash is kept: beside it, in the format of `sha256sum`."""
    return path.with_name(path.name + ".sha256")


def recorded_sha256(path: Path, *, error: type[CxrError] = DataError) -> str:
    """The hash beside a file; empty where there is none.

    Args:
        path: The file, not the one with its hash.
        error: What to raise.

    Raises:
        error: What lies beside it is no hash.
    """
    try:
        words = sidecar(path).read_bytes()[:1000].decode("ascii", "replace").lower().split()
    except FileNotFoundError:
        return ""
    if not words or not _HEX.fullmatch(words[0]):
        raise error(f"{sidecar(path)}: expected a SHA-256 of 64 hexadecimal digits; the file is damaged")
    return words[0]


def check_sha256(path: Path, expected: str = "", *, error: type[CxrError] = DataError) -> str:
    """The hash of a file, after comparing it with the one expected.

    Args:
        path: The file.
        expected: Hash to hold it to; "" takes the one beside it, if any.
        error: What to raise.

    Returns:
        The SHA-256, hexadecimal.

    Raises:
        error: No such file; or its hash is another one, so that it was changed or damaged.
    """
    if not path.is_file():
        raise error(f"{path}: no such file")
    digest = sha256(path)
    expected = expected or recorded_sha256(path, error=error)
    if expected and digest != expected.lower():
        raise error(f"{path}: expected SHA-256 {expected}, got {digest}; the file was changed or damaged")
    return digest


def machine() -> str:
    """A short code of this machine, for names of files that belong to one of its processes."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def lives(process: int) -> bool:
    """Whether a process of this machine is still there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(path: Path) -> None:
    """The rename itself must reach the disk, too; some network drives cannot be asked for that."""
    with contextlib.suppress(OSError):
        _sync(path)
