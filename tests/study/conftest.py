"""The study's scripts are imported as its command imports them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "reproduce"))


@pytest.fixture(autouse=True)
def at_the_root() -> Iterator[None]:
    """The command changes there, too: paths in the study's files are the repository's."""
    before = Path.cwd()
    os.chdir(ROOT)
    yield
    os.chdir(before)
