"""Kernels on Kaggle: push, state, log, outputs, quota; versions are always asked for by label."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from kagglesdk.kaggle_env import KaggleEnv
from kagglesdk.kernels.types.kernels_api_service import (
    ApiGetAcceleratorQuotaStatisticsRequest,
    ApiGetKernelRequest,
    ApiGetKernelSessionStatusRequest,
    ApiListKernelFilesRequest,
    ApiListKernelSessionOutputRequest,
    ApiSaveKernelRequest,
)
from kagglesdk.kernels.types.kernels_enums import KernelExecutionType

from tools.console import plain
from tools.kaggle_client import Kaggle, NoAccessError, NotFoundError, request
from tools.runs import ENDED

API = "kernels.kernels_api_client"  # of the public client


@dataclass(frozen=True)
class Pushed:
    """Kaggle's answer to a push; ``kernel`` is what it made, mostly what was asked for."""

    kernel: str
    url: str
    version: int
    error: str
    invalid: dict[str, list[str]]


@dataclass(frozen=True)
class State:
    """What a version of a kernel is doing: Kaggle's word for it, and why it failed."""

    status: str
    failure: str = ""

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.status in ENDED


@dataclass(frozen=True)
class Quota:
    """Hours of GPU time in the current week."""

    used: float
    reserved: float
    allowed: float
    renewed: str = ""  # the date on which the next week begins

    @property
    def left(self) -> float:
        """Hours that can still be used."""
        return max(0.0, self.allowed - self.used - self.reserved)


class Kernels:
    """The kernels that a signed-in user can reach; ``kernel`` is always ``owner/slug``."""

    def __init__(self, kaggle: Kaggle) -> None:
        self._kaggle = kaggle
        self.settings = kaggle.settings

    def save(self, **fields: Any) -> Pushed:
        """Push a kernel; the fields are those of ``ApiSaveKernelRequest``.

        Raises:
            UncertainError: it is not known whether Kaggle took it.
        """
        if "kernel_execution_type" in fields:
            fields["kernel_execution_type"] = KernelExecutionType[fields["kernel_execution_type"]]
        answer = self._kaggle.ask(
            f"pushing {fields['slug']}",
            f"{API}.save_kernel",
            ApiSaveKernelRequest,
            repeatable=False,
            **fields,
        )
        kinds = ("dataset", "competition", "kernel", "model")
        invalid = {kind: getattr(answer, f"invalid_{kind}_sources") or [] for kind in kinds}
        invalid["keyword"] = answer.invalid_tags or []
        asked, version = fields["slug"], answer.version_number
        owner = re.escape(asked.split("/")[0])
        made = re.fullmatch(
            rf"https://www\.kaggle\.com(?:/code)?/({owner}/[a-z0-9][a-z0-9-]+)", plain(answer.url)
        )
        kernel = made[1] if made else asked
        return Pushed(
            kernel=kernel,
            url=f"https://www.kaggle.com/code/{kernel}",
            version=version if type(version) is int and version > 0 else 0,
            error=plain(answer.error),
            invalid={
                kind: [plain(name) for name in names] for kind, names in invalid.items() if names
            },
        )

    def newest(self, kernel: str, once: bool = False) -> tuple[int, str] | None:
        """Number and source of a kernel's newest version; None where there is no such kernel.

        Raises:
            NetworkError: Kaggle does not say; it was asked no second time if only ``once``.
        """
        owner, slug = kernel.split("/")
        try:
            answer = self._kaggle.ask(
                f"looking for {kernel}",
                f"{API}.get_kernel",
                ApiGetKernelRequest,
                once=once,
                user_name=owner,
                kernel_slug=slug,
            )
        except (NotFoundError, NoAccessError):
            return None
        number = answer.metadata.current_version_number if answer.metadata else 0
        return number if type(number) is int else 0, (
            answer.blob.source if answer.blob else ""
        ) or ""

    def state(self, kernel: str, version: int) -> State:
        """What a version is doing.

        Raises:
            NotFoundError: there is no such version; a new one may take a moment to appear.
        """
        asked = request(ApiGetKernelSessionStatusRequest, **_pinned(kernel, version))

        def ask(client: Any) -> State:
            try:
                answer = client.kernels.kernels_api_client.get_kernel_session_status(asked)
            except KeyError as unknown:  # a state that this client has no name for
                return State(plain(str(unknown.args[0])))
            return State(answer.status.name, plain(answer.failure_message))

        return self._kaggle.call(f"asking for the status of {kernel} v{version}", ask)

    def outputs(self, kernel: str, version: int) -> Iterator[tuple[str, str]]:
        """The output files of a version: names, and signed addresses that hold for a while."""
        for answer in self._kaggle.pages(
            f"listing the outputs of {kernel} v{version}",
            f"{API}.list_kernel_session_output",
            ApiListKernelSessionOutputRequest,
            **_pinned(kernel, version),
        ):
            for file in answer.files or []:
                yield str(file.file_name), str(file.url)

    def log(self, kernel: str, version: int) -> str:
        """The stored log of a version, as Kaggle keeps it."""
        answer = self._kaggle.ask(
            f"reading the log of {kernel} v{version}",
            f"{API}.list_kernel_session_output",
            ApiListKernelSessionOutputRequest,
            page_size=1,
            **_pinned(kernel, version),
        )
        return answer.log or ""

    def log_stream(self, kernel: str, version: int, quiet: float | None = None) -> Any:
        """An open response with the live log as server-sent events, or with the stored log.

        It breaks off after ``quiet`` seconds without a byte; if None, later than Kaggle itself.
        """
        timeout = self.settings.timeout

        def open_stream(client: Any) -> Any:
            http = client.http_client()
            base = http._endpoint if http._env == KaggleEnv.PROD else f"{http._endpoint}/api"
            response = http._session.get(
                f"{base}/v1/kernels/logs/stream/{kernel}",
                params={"versionLabel": f"v{version}"},
                headers={"Accept": "text/event-stream, */*", "Content-Type": None},
                stream=True,
                timeout=(timeout, quiet or 3 * timeout),
            )
            try:
                response.raise_for_status()
            except Exception:
                response.close()
                raise
            return response

        doing = f"following the log of {kernel} v{version}"
        return self._kaggle.call(doing, open_stream, once=quiet is not None)

    def file_sizes(self, kernel: str, version: int) -> dict[str, int]:
        """Sizes in bytes by name, as far as Kaggle tells them."""
        sizes: dict[str, int] = {}
        for answer in self._kaggle.pages(
            f"listing the files of {kernel} v{version}",
            f"{API}.list_kernel_files",
            ApiListKernelFilesRequest,
            once=True,
            **_pinned(kernel, version),
        ):
            sizes |= {f.name: f.size for f in answer.files or [] if type(f.size) is int}
        return sizes

    def quota(self, once: bool = False) -> Quota:
        """The GPU hours of this week; asked for without a second try if only ``once``."""
        answer = self._kaggle.ask(
            "asking for the GPU quota",
            f"{API}.get_accelerator_quota_statistics",
            ApiGetAcceleratorQuotaStatisticsRequest,
            once=once,
        )
        if (gpu := answer.gpu_quota) is None:
            return Quota(0.0, 0.0, 0.0)

        def hours(time: timedelta | None) -> float:
            return time.total_seconds() / 3600 if time else 0.0

        renewed = answer.quota_refresh_time
        return Quota(
            hours(gpu.time_used),
            hours(gpu.time_reserved),
            hours(gpu.total_time_allowed),
            renewed.date().isoformat() if renewed else "",
        )


def _pinned(kernel: str, version: int) -> dict[str, Any]:
    owner, slug = kernel.split("/")
    return {"user_name": owner, "kernel_slug": slug, "version_label": f"v{version}"}
