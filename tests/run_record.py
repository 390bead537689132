"""A run's files, and the record of them that the kernel writes last."""

import hashlib
import io
import json

import h5py

KERNEL = "ada/pix2pix-inpainting"


def hdf5(seed=0):
    file = io.BytesIO()
    with h5py.File(file, "w") as model:
        model["weights"] = [seed] * 30_000
    return file.getvalue()


def record(written, **more):
    """The bytes of ``run.json`` for files by name."""
    entries = [
        {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in written.items()
    ]
    metrics = {"hole_rmse": {"model": 0.14}, "ratio_to_harmonic": {"model": 0.9}}
    found = {"schema": 1, "status": "complete", "metrics": metrics, "files": entries}
    return json.dumps(found | more).encode()
