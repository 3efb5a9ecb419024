"""Files that are complete or not there, and the hash beside a file."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cxr import files
from cxr.errors import CheckpointError, DataError, DiskError

DEAD = 999_999_999


def temporary_of(path: Path, process: int) -> Path:
    return path.with_name(files.temporary_beside(path).name.replace(f"-{os.getpid()}-", f"-{process}-"))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path: Path):
    path = tmp_path / "table[1].csv"
    dead, other, living = (
        temporary_of(path, DEAD),
        temporary_of(tmp_path / "other.csv", DEAD),
        temporary_of(path, os.getppid()),
    )
    for leftover in (dead, other, living):
        leftover.touch()
        assert files.is_temporary(leftover)
    with files.replacing(path) as temporary:
        temporary.write_text("whole")
    assert sorted(tmp_path.iterdir()) == sorted([other, living, path])
    assert not files.is_temporary(path)


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path):
    path = tmp_path / "table.csv"
    with files.replacing(path) as first, files.replacing(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first", "the last to end"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_as_long_as_a_disk_allows(tmp_path: Path):
    path = tmp_path / ("ä" * 125 + ".png")
    files.write_text(path, "x")
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(DataError, match=r"the name is too long for this disk"):
        files.write_text(tmp_path / ("a" * 300), "x")


def test_content_and_name_reach_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A rename before the content is on the disk leaves an empty file when the power goes."""
    steps: list[str] = []
    fsync, rename = os.fsync, os.replace

    def seen(handle: int) -> None:
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "content")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", seen)
    monkeypatch.setattr(os, "replace", lambda a, b: (steps.append("rename"), rename(a, b)))
    files.write_bytes(tmp_path / "a", b"1", b"2")
    assert (tmp_path / "a").read_bytes() == b"12"
    assert steps == ["content", "rename", "folder"]


def test_the_hash_beside_a_file_is_that_of_sha256sum(tmp_path: Path):
    path = tmp_path / "model.ubj"
    files.write_bytes(path, b"trees", hashed=True)
    digest = hashlib.sha256(b"trees").hexdigest()
    assert (tmp_path / "model.ubj.sha256").read_text() == f"{digest}  model.ubj\n"
    assert files.check_sha256(path) == files.recorded_sha256(path) == digest
    assert files.check_sha256(path, digest.upper()) == digest
    path.write_bytes(b"trees!")
    with pytest.raises(
        CheckpointError, match=r"model\.ubj: expected SHA-256 \w+, got \w+; the file was chan"
    ):
        files.check_sha256(path, error=CheckpointError)
    with pytest.raises(DataError, match="nothing: no such file"):
        files.check_sha256(tmp_path / "nothing")
    with files.replacing(path, hashed=True) as temporary:
        temporary.write_bytes(b"other")
    assert files.check_sha256(path) == hashlib.sha256(b"other").hexdigest()


@pytest.mark.parametrize("content", [b"", b"\xff\x00\x80", b"abc  model\n", b" \n"])
def test_a_hash_file_that_holds_none_is_named(tmp_path: Path, content: bytes):
    path = tmp_path / "a"
    path.touch()
    assert files.recorded_sha256(path) == ""
    files.sidecar(path).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.sha256: expected a SHA-256 of 64 hexadecimal digits"):
        files.check_sha256(path, error=CheckpointError)


@pytest.mark.parametrize(
    ("number", "kind", "text"),
    [
        (errno.ENOSPC, DiskError, "the disk is full; free some space"),
        (errno.EMFILE, DiskError, "too many open files; raise the limit"),
        (errno.ESTALE, DiskError, "the network drive has lost the file"),
        (errno.EROFS, DataError, "the disk is read-only; give another path"),
        (errno.EACCES, DataError, "no permission; give another path"),
    ],
)
def test_what_the_system_refuses_is_said_with_path_and_advice(
    tmp_path: Path, number: int, kind: type[Exception], text: str
):
    path = tmp_path / "table.csv"
    with pytest.raises(kind, match=rf"table\.csv: {text}"), files.replacing(path) as temporary:
        temporary.touch()
        raise OSError(number, os.strerror(number))
    assert not list(tmp_path.iterdir())


def test_an_error_of_another_file_is_passed_on(tmp_path: Path):
    with pytest.raises(FileNotFoundError), files.replacing(tmp_path / "a"):
        open(tmp_path / "nothing").close()
    with pytest.raises(PermissionError), files.replacing(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "Permission denied", "/other")


def test_a_file_that_outgrows_its_limit_leaves_nothing(tmp_path: Path):
    """The system's own refusal in the middle of a write, as a full disk gives it."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from cxr import errors, files\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: files.write_bytes(Path(sys.argv[1]), b'x' * 5000)\n"
        "except errors.DiskError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a"], capture_output=True, text=True, check=False
    )
    assert f"{tmp_path / 'a'}: the file is larger than this system allows" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


def test_a_killed_writer_s_leftover_goes_with_the_next_write(tmp_path: Path):
    code = (
        "import os, signal, sys; from pathlib import Path; from cxr import files\n"
        "with files.replacing(Path(sys.argv[1])) as t: t.touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.csv"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    files.write_text(tmp_path / "a.csv", "")
    assert list(tmp_path.iterdir()) == [tmp_path / "a.csv"]
