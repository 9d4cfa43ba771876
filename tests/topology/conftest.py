"""The site that each test is about."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from topology.site import Site, haproxy


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two servers with local workers behind the balancer, for all tests of a file."""
    haproxy()
    site = Site(tmp_path_factory.mktemp("site"))
    try:
        yield site.start(2, "--workers", "4")
    finally:
        site.close()


@pytest.fixture
def site(shared_site: Site) -> Site:
    """The same, whole again: what a test has ended serves once more."""
    for server in shared_site.servers:
        if server.process is None:
            server.start()
    shared_site.until_all_serve()
    return shared_site
