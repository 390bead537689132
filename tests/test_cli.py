import ast
import graphlib
import inspect
import re
import subprocess
import time
import tomllib

import pytest
import typer

from tests.project import PROJECT
from tools import console
from tools.cli import app
from tools.errors import ToolsError

HEAVY = ("kaggle", "kagglesdk", "google", "tensorflow", "pandas", "numpy", "PIL", "requests")


def test_importing_the_command_line_imports_nothing_heavy(python):
    code = f"import sys, tools.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_asks_kaggle_nothing_does_not_load_its_client(python):
    modules = "datasets, dry_run, history, score, sweep, upload"
    code = f"import sys; from tools import {modules}; print('kagglesdk' in sys.modules)"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_times_are_shown_as_the_persons_clock_has_them(monkeypatch):
    monkeypatch.setenv("TZ", "Kolkata-5:30")
    time.tzset()
    try:
        shown = [console.moment(text) for text in ("2026-11-24T20:01:00.123Z", "None", "\u0661")]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert shown == ["2026-11-25 01:31", "", ""]


def test_help_needs_no_credentials(python):
    done = subprocess.run([python, "-m", "tools", "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Kaggle" in done.stdout


@pytest.mark.parametrize(
    "command", app.registered_commands, ids=lambda command: command.callback.__name__
)
def test_the_help_of_every_command_ends_with_an_example(command):
    words = inspect.getdoc(command.callback).splitlines()
    name = command.name or command.callback.__name__
    assert words[-1].startswith(f"Example: tools {name}")
    assert 10 < len(words[0]) < 100


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("push-kernel --steps 20", "No such option: --steps .* go with --set name=value"),
        ("push-kernl", ".* Did you mean 'push-kernel'\\? See tools --help"),
        ("submit", "Missing option '--message' / '-m'. See tools submit --help"),
        ("wait --timeout soon", "Invalid value for '--timeout': .* See tools wait --help"),
        ("push-kernel --timeout 20", "Invalid value for '--timeout': .*12"),
        ("make-dataset a b c", ".* give PHOTOS and OUT, or --sample and OUT. See"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(tools, words, message):
    done = tools(*words.split())
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(f"error: {message}.*\n", done.err), done.err


def test_without_arguments_the_help_is_shown(tools):
    done = tools()
    assert done.code == 0 and "push-kernel" in done.out


def test_the_version_is_the_packages(tools):
    described = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    done = tools("--version")
    assert (done.code, done.out) == (0, described["project"]["version"] + "\n")


def test_the_help_tells_every_exit_code(tools):
    told = {int(code) for code in re.findall(r"\b(\d+) ", tools("-h").out.split("Exit codes:")[1])}
    known = {cls.exit_code for cls in ToolsError.__subclasses__()} | {2, 130}
    assert told == known


@pytest.mark.parametrize("command", ["status", "submissions", "fetch-data"])
def test_a_client_of_kaggles_that_lacks_something_is_one_line(python, project, command):
    (project / "kagglesdk").mkdir()  # another version, found first
    (project / "kagglesdk" / "__init__.py").touch()
    done = subprocess.run([python, "-m", "tools", command], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("error: No module named 'kagglesdk.") and "pip install" in line


def test_codes_of_emoji_stay_what_they_are(tools, project):
    assert "There is no folder id:x:5. " in tools("make-dataset", "id:x:5", "out").err


PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_documentation_names_commands_options_and_settings_that_there_are(page):
    commands = typer.main.get_command(app).commands
    script = (PROJECT / "kernel" / "pix2pix.py").read_text(encoding="utf-8")
    settings = set(re.findall(r"^    (\w+): \w+ = setting\(", script, re.MULTILINE))
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    wrong = []
    for name, rest in re.findall(
        r"(?:`|^|\$ |&& )tools ([a-z][a-z-]+)([^`\n#]*)", text, re.MULTILINE
    ):
        known = [o for p in commands[name].params for o in p.opts] if name in commands else []
        flags = re.findall(r"(?<!\S)(--[a-z-]+)", rest.split("&&")[0])
        wrong += [f"{name} {flag}" for flag in flags if flag not in known]
        named = re.findall(r"--set (\w+)=", rest) + re.findall(r"--change \"?(\w+)=", rest)
        wrong += [f"{name}: {each}" for each in named if each not in settings]
        wrong += [] if name in commands else [name]
    for rest in re.findall(r"kernel/pix2pix\.py([^`\n#]*)", text):
        flags = re.findall(r"(?<!\S)--([a-z0-9-]+)", rest)
        wrong += [f for f in flags if f != "help" and f.replace("-", "_") not in settings]
    assert wrong == []


def test_no_module_needs_itself():
    needs = {}
    for path in (PROJECT / "tools").glob("*.py"):
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tools":
                inner = node.module.partition(".")[2]
                found |= {inner} if inner else {alias.name for alias in node.names}
        needs[path.stem] = found
    order = list(graphlib.TopologicalSorter(needs).static_order())  # fails over a circle
    assert order[-1] in ("cli", "__main__")
    assert not [name for name in needs if name != "__main__" and "cli" in needs[name]]


def test_every_command_stands_in_the_readme():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert [name for name in names if f"tools {name}" not in readme] == []
