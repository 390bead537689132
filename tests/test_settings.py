import pytest

from tools import settings
from tools.errors import UserError
from tools.settings import Settings


def test_without_a_file_the_defaults_hold(tmp_path):
    assert settings.load(tmp_path) == Settings()


def test_the_environment_stands_above_the_file(tmp_path, monkeypatch):
    (tmp_path / "tools.toml").write_text('competition = "one"\nvalue_scale = "minmax"\n')
    monkeypatch.setenv("TOOLS_COMPETITION", "two")
    found = settings.load(tmp_path)
    assert (found.competition, found.value_scale) == ("two", "minmax")


def test_storing_keeps_comments_and_other_settings(tmp_path):
    path = tmp_path / "tools.toml"
    path.write_text('# ours\ncompetition = "one"  # of last year\n')
    settings.store(tmp_path, channel_order="rgb")
    assert (
        path.read_text() == '# ours\ncompetition = "one"  # of last year\nchannel_order = "rgb"\n'
    )
    assert settings.load(tmp_path).channel_order == "rgb"


def test_storing_nonsense_changes_nothing(tmp_path):
    with pytest.raises(UserError, match="channel_order = 'grb' is none of bgr, rgb"):
        settings.store(tmp_path, channel_order="grb")
    assert not (tmp_path / "tools.toml").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("competition = ", "no valid TOML"),
        ("colour = 'red'", "'colour' is not a setting. There are competition, channel_order"),
        ('chanel_order = "rgb"', "Did you mean 'channel_order'"),
        ("channel_order = rgb", "Text stands in quotes"),
        ("competition = 3", "competition should be text"),
        ('competition = "https://kaggle.com/c/x"', "the last part of its address"),
        ("competition = '../x'", "not a competition's slug"),
        ("timeout = 'long'", "timeout should be a number"),
        ("timeout = nan", "no sensible number"),
        ("timeout = [1]", r"timeout should be a number, not \[1\]"),
        ("timeout = 2026-11-22", "timeout should be a number, not datetime.date"),
        (f"timeout = 1{'0' * 400}", r"timeout should be a number, not 10+…"),
        (f"timeout = 1{'0' * 5000}", "no valid TOML"),
        (f"timeout = {'[' * 5000}", "no valid TOML"),
        ("kaggle_endpoint = 'http://127.0.0.1:1'", "'kaggle_endpoint' is not a setting"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path, text, message):
    (tmp_path / "tools.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        settings.load(tmp_path)


def test_a_variable_that_is_nearly_a_setting_is_a_mistake(tmp_path, monkeypatch):
    monkeypatch.setenv("TOOLS_VERSION", "not ours")
    settings.load(tmp_path)
    monkeypatch.setenv("TOOLS_CHANEL_ORDER", "rgb")
    with pytest.raises(UserError, match="Did you mean TOOLS_CHANNEL_ORDER"):
        settings.load(tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example",
        "http://evil.example",
        "http://localhost.evil.example",
        "http://127.0.0.1@evil.example",
        "http://user:pass@127.0.0.1",
        "http://2130706433",
        "ftp://127.0.0.1",
    ],
)
def test_credentials_are_sent_to_no_endpoint_but_this_machine(tmp_path, monkeypatch, url):
    monkeypatch.setenv("TOOLS_KAGGLE_ENDPOINT", url)
    with pytest.raises(UserError, match="not on this machine"):
        settings.load(tmp_path)


def test_a_stored_setting_that_a_variable_goes_before_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TOOLS_CHANNEL_ORDER", "rgb")
    path = settings.store(tmp_path, channel_order="bgr", value_scale="unit")
    assert capsys.readouterr().err.splitlines() == [
        f"TOOLS_CHANNEL_ORDER is set and goes before {path}: unset it"
    ]


def test_the_project_is_the_nearest_folder_upwards_with_metadata(tmp_path, monkeypatch):
    (tmp_path / "kernel-metadata.json").write_text("{}")
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert settings.project_folder() == tmp_path


def test_a_folder_of_no_project_is_told_where_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no kernel-metadata.json in .* Change to .*, as /"):
        settings.project_folder()
