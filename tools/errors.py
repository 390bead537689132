"""What can go wrong, the exit code it has, and what to do about it.

What a command does not make up for itself reaches :func:`tools.cli.main`, which prints one line.
Exit code 2, wrong usage, is typer's own.
"""


class ToolsError(Exception):
    """A failure that the user can act on.

    Args:
        message: one sentence that names the file, the setting or the reference.
        remedy: one sentence that says what to do; empty where there is nothing to do.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        """Both sentences in one line."""
        return " ".join(f"{self.message} {self.remedy}".split())


class UserError(ToolsError):
    """A user's mistake, or a check that failed on this machine."""

    exit_code = 1


class RefusedError(ToolsError):
    """The service answered, and said no."""

    exit_code = 3


class RunFailedError(ToolsError):
    """The kernel ran and failed, on Kaggle or here."""

    exit_code = 4


class DeadlineError(ToolsError):
    """What was waited for, or asked for, still goes on: a run, or the scoring of a submission."""

    exit_code = 5


class NetworkError(ToolsError):
    """The network failed, retries included."""

    exit_code = 6


class SignInError(ToolsError):
    """No credentials, or credentials that are not accepted."""

    exit_code = 7


class VerificationError(ToolsError):
    """Bytes are not what they should be."""

    exit_code = 8
