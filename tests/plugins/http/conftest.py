"""A site to ask, and the http task type with a context that keeps its log."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trio
from httpsite import Site, make_certificate

from taskman import TaskContext
from taskman_http import Http, HttpParams, Policy


class Context(TaskContext):
    """A context outside of any run: it keeps the lines, and has no processes."""

    run_id, attempt, task, fire_time, worker = "r0-test", 1, None, None, "test"
    env: Mapping[str, str] = {}  # never changed

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str, stream: str = "out") -> None:
        self.lines.append(text)

    async def output(self, stream: str, data: bytes) -> None:
        self.lines.append(data.decode())

    async def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        raise AssertionError("an http task does not know how far it is")

    @property
    def scratch_dir(self) -> Path:
        raise AssertionError("an http task keeps no files")

    async def run_process(self, argv: Sequence[str], **options: Any) -> NoReturn:
        raise AssertionError("an http task starts no process")


class Asking:
    """`await asking(url, **params)`: the result of one request; `log` is what it said."""

    def __init__(self) -> None:
        self.context = Context()
        self.policy = Policy()

    async def __call__(self, url: str, **params: Any) -> dict[str, Any]:
        read = HttpParams.model_validate({"url": url, **params})
        return await Http(self.policy).run(self.context, read)

    @property
    def log(self) -> str:
        return "\n".join(self.context.lines)


@pytest.fixture
def asking() -> Asking:
    """The http task type with the policy that is in force without settings."""
    return Asking()


@pytest.fixture
def new_site(nursery: trio.Nursery) -> Callable[..., Awaitable[Site]]:
    """Starts sites, with TLS when there is a certificate."""

    async def new_site(certificate: Path | None = None, /, **answers: Any) -> Site:
        site = Site({f"/{name}": answer for name, answer in answers.items()})
        context = None
        if certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate)
        await nursery.start(site.run, context)
        return site

    return new_site


@pytest.fixture
async def site(new_site: Callable[..., Awaitable[Site]]) -> Site:
    """A site without pages yet."""
    return await new_site()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost that nobody has signed."""
    return make_certificate(tmp_path_factory.mktemp("tls") / "localhost.pem")
