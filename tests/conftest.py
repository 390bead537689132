"""What every test needs: no colours, a wide terminal, and nobody's credentials."""

import os
import shutil
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


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


@pytest.fixture(scope="session")
def pix2pix():
    """The kernel, imported as a module."""
    sys.path.insert(0, str(PROJECT / "kernel"))
    import pix2pix

    return pix2pix


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """A small dataset of real photographs: 5 training pictures and 1 test picture a class."""
    from tools.datasets import from_sample, make_dataset

    out = tmp_path_factory.mktemp("sample") / "data"
    classes = {label: photos[:6] for label, photos in from_sample(seed=1).items()}
    make_dataset(classes, out, test_per_class=1, seed=1)
    return out


@pytest.fixture
def dataset(sample, tmp_path):
    """A copy of the sample that a test may damage."""
    return Path(shutil.copytree(sample, tmp_path / "data"))


@pytest.fixture
def run_kernel(pix2pix, capsys, monkeypatch):
    """Run the kernel's main function; return its exit code, what it printed, and its error line."""

    def run(*arguments, overrides=None):
        monkeypatch.setattr(sys, "argv", ["pix2pix.py", *map(str, arguments)])
        monkeypatch.setattr(pix2pix, "OVERRIDES", overrides or {})
        capsys.readouterr()
        code, error = 0, ""
        try:
            pix2pix.main()
        except SystemExit as stop:
            code, error = (1, stop.code) if isinstance(stop.code, str) else (stop.code or 0, "")
        printed = capsys.readouterr()
        return code, printed.out, error or printed.err

    return run
