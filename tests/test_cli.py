import inspect
import re
import subprocess

import pytest

from tests.project import PROJECT
from tools.cli import app

HEAVY = ("kaggle", "kagglesdk", "google", "tensorflow", "pandas", "numpy", "PIL", "requests")


def test_importing_the_command_line_imports_nothing_heavy(python):
    code = f"import sys, tools.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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


def test_codes_of_emoji_stay_what_they_are(tools, project):
    assert "There is no folder id:x:5. " in tools("make-dataset", "id:x:5", "out").err


def test_every_command_stands_in_the_readme():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert [name for name in names if f"tools {name}" not in readme] == []
