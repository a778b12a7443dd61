"""What several test folders need."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("heed", deadline=None)  # the machine may be busy, and tests never time
settings.load_profile("heed")

SHARED_DATA = Path(__file__).parents[1] / ".." / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the project; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of real data (../shared/data) is not beside this checkout")
    return SHARED_DATA.resolve()
