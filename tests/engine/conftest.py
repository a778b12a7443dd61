"""What the tests with a real vLLM server need; `make test-engine` runs them, with the engine's environment in place."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
PYTHON = Path(__file__).parents[2] / ".venv-engine" / "bin" / "python"


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.engine)
            if not PYTHON.exists():
                item.add_marker(pytest.mark.skip(reason="vLLM is not installed: make test-engine does it"))
