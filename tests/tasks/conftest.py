import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    """One cache for the session, so that generated data is made once, and apart from the user's."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("NAS_CACHE", str(folder))
    return folder


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "fresh cache"
    monkeypatch.setenv("NAS_CACHE", str(folder))
    return folder


@pytest.fixture
def no_data(monkeypatch) -> None:
    monkeypatch.delenv("NAS_DATA", raising=False)


@pytest.fixture
def real_data() -> Path:
    """A folder with real data: NAS_DATA, or `shared/data` beside the checkout."""
    named = os.environ.get("NAS_DATA")
    folder = Path(named) if named else Path(__file__).parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data: name a folder with NAS_DATA")
    return folder
