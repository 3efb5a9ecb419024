"""Data for the tests: a small phantom made once a session, and the real radiographs where they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr import phantom

REAL = Path(__file__).resolve().parents[2] / "shared" / "real"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest files, so that no process is left alone with one at the end."""
    ranks: dict[Path, int] = {}
    for item in items:
        rank = 0 if item.get_closest_marker("chain") else 1 if item.get_closest_marker("slow") else 2
        ranks[item.path] = min(rank, ranks.get(item.path, rank))
    items.sort(key=lambda item: ranks[item.path])


@pytest.fixture(scope="session")
def phantom_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom data set of 16 training and 6 test images of 256 px."""
    folder = tmp_path_factory.mktemp("phantom") / "data"
    return phantom.make_phantom(folder, images=16, test_images=6, size=256, seed=3, jobs=1)


@pytest.fixture(scope="session")
def real_dir() -> Path:
    """Real radiographs beside the checkout; tests that use them are skipped where there are none."""
    if not REAL.is_dir():
        pytest.skip("no real radiographs beside this checkout")
    return REAL
