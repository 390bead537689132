import json
import subprocess
import sys

import pytest

from tests.project import PROJECT, SCRIPT
from tools import render
from tools.errors import UserError

KERNEL = PROJECT / "kernel" / "pix2pix.py"


def test_settings_have_the_types_that_they_look_like():
    pairs = ["steps=10", "rate=1e-4", "flip=true", "noise=False", "name=two words", 'a="5"', "b="]
    assert render.parse_settings(pairs) == {
        "steps": 10,
        "rate": 1e-4,
        "flip": True,
        "noise": False,
        "name": "two words",
        "a": "5",
        "b": "",
    }


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "[1, NaN]"])
def test_what_is_no_finite_number_is_text_which_the_script_can_judge(text):
    settings = render.parse_settings([f"note={text}"])
    assert settings == {"note": text}
    rendered = render.render(SCRIPT, settings)
    assert render.effective_config(rendered, PROJECT).session["note"] == text


@pytest.mark.parametrize("pairs", [["steps"], ["=1"], ["a b=1"], ["steps=1", "steps=2"]])
def test_what_is_no_setting_is_an_error(pairs):
    with pytest.raises(UserError):
        render.parse_settings(pairs)


def test_one_line_changes_and_holds_the_settings():
    overrides = {"preset": "report", "steps": 10, "note": 'it\'s \\1 "quoted"\n# %% cell'}
    rendered = render.render(SCRIPT, overrides)
    before, after = SCRIPT.splitlines(), rendered.splitlines()
    assert len(before) == len(after)
    assert [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == [6]
    assert render.effective_config(rendered, PROJECT).session["note"] == overrides["note"]


@pytest.mark.parametrize("count", [0, 2])
def test_a_script_needs_exactly_one_line_for_settings(count):
    line = "OVERRIDES: dict[str, object] = {}\n"
    with pytest.raises(UserError, match=f"has {count} lines"):
        render.render(SCRIPT.replace(line, line * count), {})


def test_a_script_that_does_not_compile_is_named_with_its_line():
    with pytest.raises(UserError, match=r"line \d+ of the kernel's script is not valid Python"):
        render.render(SCRIPT + "\nif True print()\n", {})


def test_the_scripts_own_words_tell_what_setting_is_wrong(project):
    rendered = render.render(SCRIPT, {"stesp": 10})
    with pytest.raises(UserError, match="stesp = 10 is not a setting; there are preset"):
        render.effective_config(rendered, project)


def test_settings_go_unchecked_with_a_note_where_tensorflow_is_missing(project, capsys):
    assert render.effective_config("import no_such_tensorflow\n", project) == render.Config()
    assert "No module named 'no_such_tensorflow'" in capsys.readouterr().err


def test_each_cell_of_a_notebook_is_one_text_as_kaggle_wants_it():
    script = SCRIPT + "\n# %% [markdown]\n# Two lines\n# of words: ä\n"
    cells = json.loads(render.notebook(script))["cells"]
    imports, run = (f"# %% {part}" for part in SCRIPT.split("\n# %% ")[1:])
    assert [cell["source"] for cell in cells[-3:]] == [
        imports.partition("\n")[2].rstrip("\n"),
        run.partition("\n")[2].rstrip("\n"),
        "Two lines\nof words: ä",
    ]
    assert all(type(cell["source"]) is str for cell in cells)


def test_the_notebook_does_what_the_script_does(monkeypatch, capsys):
    rendered = render.render(SCRIPT, {"steps": 7})
    book = json.loads(render.notebook(rendered))
    assert [cell["cell_type"] for cell in book["cells"]] == ["code", "code", "code"]
    assert book["metadata"]["kernelspec"]["language"] == "python"
    monkeypatch.setattr(sys, "argv", ["kernel", "--print-config"])
    names: dict = {"__name__": "__main__"}
    for cell in book["cells"]:
        exec(cell["source"], names)
    assert json.loads(capsys.readouterr().out)["session"]["steps"] == 7
    assert render.notebook(rendered) == render.notebook(rendered)


RUN_CELLS = """
import codeop, json, sys
compile_cell = codeop.Compile()  # remembers __future__ from cell to cell, as IPython does
for cell in json.load(open(sys.argv.pop(1)))["cells"]:
    if cell["cell_type"] == "code":
        exec(compile_cell(cell["source"], "cell", "exec"))
"""


def test_the_kernels_cells_run_as_a_notebook(tmp_path, python):
    rendered = render.render(KERNEL.read_text(), {"preset": "report", "steps": 10})
    book = tmp_path / "kernel.ipynb"
    book.write_text(render.notebook(rendered))
    assert len(json.loads(book.read_text())["cells"]) > 5
    command = [python, "-c", RUN_CELLS, str(book), "--print-config"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert json.loads(done.stdout)["session"]["steps"] == 10, done.stderr


@pytest.mark.parametrize("printed", ["steps 7", "7", '{"steps": 7}', "{}{}"])
def test_a_script_that_prints_something_else_is_refused(project, printed):
    with pytest.raises(UserError, match="did not print its settings"):
        render.effective_config(f"print({printed!r})", project)


def test_the_quick_script_of_the_tests_has_the_contract_of_the_kernel():
    quick = render.effective_config(SCRIPT, PROJECT)
    true = render.effective_config(KERNEL.read_text(), PROJECT)
    del quick.session["note"]  # text of any kind
    for ours, theirs in ((quick.run, true.run), (quick.session, true.session)):
        assert {name: type(value) for name, value in ours.items()}.items() <= {
            name: type(value) for name, value in theirs.items()
        }.items()


def test_the_kernel_names_a_setting_that_it_does_not_have():
    rendered = render.render(KERNEL.read_text(), {"lamda_l1": 400.0})
    with pytest.raises(UserError, match="lamda_l1"):
        render.effective_config(rendered, PROJECT)
