"""The benches are scripts, not a package: their folder is put where their modules are looked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "bench"))


@pytest.fixture(scope="session")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reward model that several suites pay by, fitted once for all of them: asking for its labels takes seconds."""
    import given_rm

    return given_rm.fitted(tmp_path_factory.mktemp("given") / "given-rm.pickle", 120)
