"""Fixture `installation`: Tallydesk as a person has it, with a home, an embedded database and processes of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance._installation import Installation


@pytest.fixture
def installation(short_home: Path) -> Iterator[Installation]:
    made = Installation(short_home)
    yield made
    made.end()
