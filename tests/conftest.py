"""What every test needs: no colours, a wide terminal, and nobody's credentials."""

import os
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path_factory):
    """A home of its own for each test, and no variable of the user's that could reach a service."""
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith(("KAGGLE_", "GOOGLE_", "STORAGE_", "TOOLS_")) or name.lower().endswith(
            "_proxy"
        ):
            monkeypatch.delenv(name)
    for name, value in {
        "HOME": str(home),
        "KAGGLE_CONFIG_DIR": str(home / ".kaggle"),
        "COLUMNS": "200",
        "NO_COLOR": "1",
        "TERM": "dumb",
        "PYTHONPATH": str(PROJECT),
    }.items():
        monkeypatch.setenv(name, value)
    return home


@pytest.fixture(scope="session")
def python():
    """The interpreter of the project's environment."""
    return sys.executable
