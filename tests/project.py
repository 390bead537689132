"""The project's folder, a quick script in the kernel's place, and what a command leaves."""

import json
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parent.parent

SCRIPT = '''"""A kernel with the contract of the true one, and nothing to wait for."""

# %% Imports
import json
import sys

OVERRIDES: dict[str, object] = {}

# %% Run
CONFIG = {
    "preset": "report",
    "predictor": "model",
    "steps": 150000,
    "hours": 0.0,
    "time_budget": 8.5,
    "channel_order": "bgr",
    "value_scale": "unit",
    "resume_from": "",
    "require_gpu": False,
    "note": "",
    "width": 64,
    "data": "",
    "start_from": "",
}
for name, value in OVERRIDES.items():
    if type(value) is not type(CONFIG.get(name)):
        sys.exit(f"error: {name} = {value!r} is not a setting; there are {', '.join(CONFIG)}.")
if "--print-config" in sys.argv:
    config = CONFIG | OVERRIDES
    run = {name: config.pop(name) for name in ("preset", "predictor", "width", "start_from")}
    print(json.dumps({"run": run, "session": config}))
'''


class Done(NamedTuple):
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)
