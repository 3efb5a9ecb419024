"""Data for the tests: a phantom and a run, made once for all processes that test, and real radiographs."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from smoke_run import make_smoke_run

from cxr import phantom

REAL = Path(__file__).resolve().parents[2] / "shared" / "real"


@pytest.fixture(scope="module")
def shared_readers() -> Iterator[None]:
    """Reading processes that outlive a run: starting one costs a second, and some files have many runs."""
    from cxr.preprocess import batch, workers

    class SharedReaders(batch.ReaderPool):
        def close(self) -> None:
            pass

    shared = SharedReaders()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "ReaderPool", lambda: shared)
        yield
    batch.ReaderPool.close(shared)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest files, so that no process is left alone with one at the end.

    The first of those that need the finished run makes it; the others come when it is there.
    """
    ranks: dict[Path, int] = {}
    for item in items:
        rank = 1 if item.get_closest_marker("slow") else 3
        if item.get_closest_marker("chain"):
            rank = 0 if item.path.stem == "test_notebooks" else 2
        ranks[item.path] = min(rank, ranks.get(item.path, rank))
    items.sort(key=lambda item: ranks[item.path])


@contextmanager
def _shared(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """A folder of this session that all its processes see, held by one of them at a time."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


@pytest.fixture(scope="session")
def phantom_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom data set of 16 training and 6 test images of 256 px."""
    with _shared(tmp_path_factory, "shared-phantom") as folder:
        if not (folder / "data").exists():
            phantom.make_phantom(folder / "data", images=16, test_images=6, size=256, seed=3, jobs=1)
    return folder / "data"


@pytest.fixture(scope="session")
def smoke(phantom_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished smoke run and the data folder it was made from."""
    with _shared(tmp_path_factory, "shared-run") as folder:
        if not (folder / "finished").exists():
            make_smoke_run(phantom_dir, folder / "smoke")
            (folder / "finished").touch()
    return folder / "smoke", phantom_dir


@pytest.fixture(scope="session")
def real_dir() -> Path:
    """Real radiographs beside the checkout; tests that use them are skipped where there are none."""
    if not REAL.is_dir():
        pytest.skip("no real radiographs beside this checkout")
    return REAL
