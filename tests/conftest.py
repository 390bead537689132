"""What every test needs: no colours, a wide terminal, and nobody's credentials."""

import hashlib
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.project import PROJECT, SCRIPT, Done

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it for its background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path_factory):
    """A home of its own for each test, and no variable of the user's that could reach a service."""
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        services = ("KAGGLE_", "GOOGLE_", "STORAGE_", "DRIVE_", "CLOUDSDK_", "TOOLS_", "XDG_")
        if name.startswith(services) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name, value in {
        "HOME": str(home),
        "KAGGLE_CONFIG_DIR": str(home / ".kaggle"),
        "CLOUDSDK_CONFIG": str(home / "gcloud"),
        "NO_GCE_CHECK": "true",
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


@pytest.fixture
def server(monkeypatch):
    """A Kaggle of this test's own, with its variables set."""
    from tests.peers.kaggle import KaggleServer

    with KaggleServer() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("TOOLS_TIMEOUT", "20")
        monkeypatch.setenv("TOOLS_RETRY_SECONDS", "5")
        monkeypatch.setattr("tools.patience.FIRST_PAUSE", 0.01)
        for name in ("LOOKING", "DOUBT"):
            monkeypatch.setattr(f"tools.submitter.{name}", 0.0)
        yield server


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder, in which the test runs, with the true metadata and a quick script."""
    folder = tmp_path / "project"
    (folder / "kernel").mkdir(parents=True)
    (folder / "kernel" / "pix2pix.py").write_text(SCRIPT)
    metadata = (PROJECT / "kernel-metadata.json").read_text()
    (folder / "kernel-metadata.json").write_text(metadata)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def tools(monkeypatch, capsys):
    """Run a command of the tools as its program does, in this process."""
    from tools import cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tools", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        return Done(end.value.code or 0, *capsys.readouterr())

    return run


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


@pytest.fixture
def quick(monkeypatch):
    """Google's clients with short pauses, and files of 300 kB that already go in chunks."""
    import google.cloud.storage.blob

    from tools import drive, gcs

    for module in (drive, gcs):
        monkeypatch.setattr(module, "CHUNK", 1 << 18)
        for name in ("ASK", "SEND"):
            patient = getattr(module, name).with_delay(initial=0.01, maximum=0.05)
            monkeypatch.setattr(module, name, patient.with_timeout(20))
    monkeypatch.setattr(google.cloud.storage.blob, "_MAX_MULTIPART_SIZE", 1 << 18)


@pytest.fixture
def drive(monkeypatch, quick):
    """A Drive of this test's own, without sign-in."""
    from tests.peers.drive import DriveServer

    with DriveServer() as server:
        monkeypatch.setenv("DRIVE_EMULATOR_HOST", server.url)
        yield server


@pytest.fixture(scope="session")
def fake_gcs():
    """The address of a Cloud Storage server; each test takes a bucket of its own."""
    from tests.peers.gcs import fake_gcs_server
    from tests.ports import free_port

    with fake_gcs_server(free_port()) as url:
        yield url


@pytest.fixture
def bucket(monkeypatch, quick, fake_gcs):
    """An empty bucket, as Google's own client sees it."""
    from tests.peers.gcs import new_bucket

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake_gcs)
    return new_bucket()


@pytest.fixture
def make(tmp_path):
    """Make files with the given names and sizes or contents."""
    import random

    from tools.remote import OutputFile

    def make(contents, folder="run", seed=0):
        chance, made = random.Random(seed), []
        for name, content in contents.items():
            data = chance.randbytes(content) if isinstance(content, int) else content
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            made.append(OutputFile(path, name, len(data), hashlib.sha256(data).hexdigest()))
        return made

    return make
