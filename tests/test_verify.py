import hashlib

import h5py
import numpy as np
import pytest

from tools.errors import VerificationError
from tools.verify import check


@pytest.fixture(params=["earliest", "latest"])
def model(tmp_path, request):
    path = tmp_path / "model.h5"
    with h5py.File(path, "w", libver=request.param) as file:
        file["weights"] = np.arange(10_000)
    return path


def test_a_whole_file_gives_its_size_and_hash(model):
    content = model.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert check(model, "generator.h5") == (len(content), digest)
    assert check(model, "generator.h5", len(content), digest.upper()) == (len(content), digest)


def test_a_cut_off_model_is_found_without_knowing_its_size(model):
    content = model.read_bytes()
    model.write_bytes(content[:-1])
    with pytest.raises(VerificationError, match=f"cut off: it has {len(content) - 1} bytes of"):
        check(model, "generator.h5")


def test_an_error_page_is_no_model(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"<?xml version='1.0'?><Error>")
    with pytest.raises(VerificationError, match="no .h5 file but a web page or an error message"):
        check(path, "generator.h5")


@pytest.mark.parametrize("name", ["a.keras", "a.npz", "a.gz", "a.PNG", "logs/a.h5"])
def test_a_file_has_the_signature_of_its_kind(tmp_path, name):
    path = tmp_path / "x"
    path.write_bytes(b"something else")
    with pytest.raises(VerificationError, match="but something else"):
        check(path, name)


def test_sizes_and_hashes_must_agree(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"abc")
    with pytest.raises(VerificationError, match=r"a.txt has 3 bytes instead of 4"):
        check(path, "a.txt", 4)
    with pytest.raises(VerificationError, match=r"a.txt has the SHA-256 ba7816bf8f01… instead of"):
        check(path, "a.txt", 3, "0" * 64)
