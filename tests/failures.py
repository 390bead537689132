"""What every failure of a command has in common."""

from tests.project import Done


def failed(code: int, done: Done, *parts: str) -> None:
    """Assert that a command exited ``code``, printed no data, and said why in one last line."""
    assert done.code == code, done.err
    assert done.out == ""
    *before, last = done.err.splitlines()
    assert last.startswith("error: ")
    assert not any(line.startswith("error: ") for line in before)
    for part in parts:
        assert part in last
