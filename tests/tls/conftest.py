"""Servers behind HAProxy that speaks TLS as docs/deployment.md says, with certificates good and bad."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tls.authority import Authority
from topology.site import BALANCER, ROOT, Site, free_port, haproxy


@dataclass(frozen=True, slots=True)
class Entrance:
    """A place where the balancer speaks TLS."""

    port: int
    certificate: Path

    @property
    def url(self) -> str:
        """Its address, by the name that its certificate is for."""
        return f"https://localhost:{self.port}"


@dataclass(frozen=True, slots=True)
class Secured:
    """The site, where it can be entered, and the authority that its users should trust."""

    site: Site
    authority: Authority
    good: Entrance
    expired: Entrance
    foreign: Entrance

    @property
    def trust(self) -> str:
        return str(self.authority.file)


def documented(entrance: Entrance) -> list[str]:
    """The lines of docs/deployment.md that let HAProxy speak TLS, for this entrance."""
    text = (ROOT / "docs" / "deployment.md").read_text()
    lines = re.findall(r"^    (?:bind \*:8443|http-response replace-header) .*$", text, re.MULTILINE)
    assert len(lines) == 2
    places = {"*:8443": f"127.0.0.1:{entrance.port}", "/run/certificates/tasks.pem": str(entrance.certificate)}
    for written, real in places.items():
        assert written in lines[0]
        lines[0] = lines[0].replace(written, real)
    return lines


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Two servers that execute nothing behind the balancer, for all tests of a file."""
    haproxy()
    folder = tmp_path_factory.mktemp("secured")
    ours, foreign = Authority(folder, "ours"), Authority(folder, "foreign")
    issued = {"good": ours.issue("localhost"), "expired": ours.issue("localhost", days=-1)}
    entrances = {}
    for name, certificate in {**issued, "foreign": foreign.issue("localhost")}.items():
        entrances[name] = Entrance(free_port(), folder / f"{name}.pem")
        entrances[name].certificate.write_bytes(certificate)
    config = folder / "haproxy.cfg"
    plain = '    bind "${TASKMAN_API-*:8080}"\n'
    shipped = BALANCER.read_text()
    assert plain in shipped
    bound = [documented(one)[0] for one in entrances.values()]
    more = [*bound, documented(entrances["good"])[1]]
    config.write_text(shipped.replace(plain, plain + "\n".join(more) + "\n"))
    site = Site(folder / "site", config)
    try:
        site.start(2)
        yield Secured(site, ours, **entrances)
    finally:
        site.close()
