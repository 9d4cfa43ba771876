"""Where requests may go: by address, in whatever form, on every hop, with no second look at a name server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from httpsite import Site, reply

from taskman import Fatal
from taskman_http.policy import Policy, policy_of


def resolving(*answers: list[str]) -> tuple[Callable[[str, int], Awaitable[list[str]]], list[str]]:
    """A resolver that gives these answers in turn, the last one for ever; and the names that it was asked for."""
    asked: list[str] = []

    async def resolver(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    return resolver, asked


async def is_allowed(address: str, host: str = "host.example", port: int = 80, **settings: str) -> bool:
    found = policy_of({f"TASKMAN_{name.upper()}": value for name, value in settings.items()})
    resolver, _ = resolving([address])
    try:
        await Policy(found.allowed, found.denied, found.redis, resolver).addresses(host, port)
    except Fatal:
        return False
    return True


DENIED = [
    "169.254.169.254",
    "169.254.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "0.0.0.0",
    "0.1.2.3",
    "224.0.0.1",
    "239.255.255.255",
    "255.255.255.255",
    "240.0.0.1",
    "::",
    "fe80::1",
    "fe80::1%2",
    "fec0::1",
    "ff02::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "::ffff:169.254.169.254",
    "::ffff:0.0.0.0",
    "::169.254.169.254",
    "::ffff:0:169.254.169.254",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::169.254.169.254",
    "64:ff9b:1:a9fe:a9:fe00::",
    "64:ff9b:1:a9:fe:a9fe::",
    "64:ff9b:1:0:a9:fea9:fe00::",
    "2002:a9fe:a9fe::1",
    "2001:0:a9fe:a9fe::1",
    "2001:0:102:304:0:0:5601:5601",
    "2001:db8::5efe:169.254.169.254",
]


@pytest.mark.parametrize("address", DENIED)
async def test_denies_special_addresses_in_every_form(address: str) -> None:
    assert not await is_allowed(address)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.1", "fd12::1", "93.184.216.34", "2606:4700::1111"]
)
async def test_lets_requests_out_and_into_ones_own_networks(address: str) -> None:
    assert await is_allowed(address)


@pytest.mark.parametrize(
    ("address", "host", "allow", "deny", "is_open"),
    [
        ("10.1.2.3", "h", "", "10.0.0.0/8", False),
        ("10.1.2.3", "h", "", "private", False),
        ("::ffff:10.1.2.3", "h", "", "private", False),
        ("64:ff9b::10.1.2.3", "h", "", "private", False),
        ("127.0.0.1", "h", "", "loopback", False),
        ("10.1.2.3", "h", "10.1.0.0/16", "private", True),
        ("10.1.2.3", "h", "10.0.0.0/8", "private,10.1.2.3", False),
        ("10.1.2.3", "h", "10.1.2.3", "10.1.2.3", False),
        ("93.184.216.34", "api.example.com", "*.example.com", "all", True),
        ("93.184.216.34", "API.Example.com.", "api.example.com", "all", True),
        ("93.184.216.34", "example.com", "*.example.com", "all", False),
        ("93.184.216.34", "evil-example.com", "*.example.com", "all", False),
        ("93.184.216.34", "bad.example.com", "*.example.com", "bad.example.com", False),
        ("10.1.2.3", "bad.internal", "private", "bad.internal", False),
        ("169.254.7.7", "h", "169.254.0.0/16", "", True),
        ("169.254.169.254", "h", "169.254.0.0/16", "", False),
        ("169.254.169.254", "h", "169.254.169.254", "", True),
        ("169.254.169.254", "h", "all", "", False),
        ("169.254.169.254", "meta.example", "meta.example", "all", False),
        ("fd00:ec2::254", "h", "private", "", False),
    ],
)
async def test_the_narrowest_entry_decides(address: str, host: str, allow: str, deny: str, is_open: bool) -> None:
    assert await is_allowed(address, host, http_allow=allow, http_deny=deny) is is_open


async def test_one_denied_address_among_several_refuses_the_name() -> None:
    resolver, _ = resolving(["93.184.216.34", "169.254.169.254"])
    with pytest.raises(Fatal, match=r"'two\.example' \(169\.254\.169\.254\).*TASKMAN_HTTP_ALLOW"):
        await Policy(resolver=resolver).addresses("two.example", 80)


@pytest.mark.parametrize(
    ("redis", "address", "port", "is_open"),
    [
        ("redis://:secret@10.0.0.9:6380/0", "10.0.0.9", 6380, False),
        ("redis://:secret@10.0.0.9:6380/0", "::ffff:10.0.0.9", 6380, False),
        ("redis://:secret@10.0.0.9:6380/0", "10.0.0.9", 80, True),
        ("redis://10.0.0.9", "10.0.0.9", 6379, False),
        ("redis://127.0.0.1:6379/1", "127.7.7.7", 6379, False),
        ("rediss://[::1]:6379", "127.0.0.1", 6379, False),
        ("redis+sentinel://10.0.0.8:26379,10.0.0.9/main", "10.0.0.9", 26379, False),
        ("unix:///run/redis.sock", "127.0.0.1", 6379, True),
    ],
)
async def test_never_lets_a_request_reach_our_own_redis(redis: str, address: str, port: int, is_open: bool) -> None:
    given = policy_of({"TASKMAN_REDIS_URL": redis, "TASKMAN_HTTP_ALLOW": "all,10.0.0.9,127.0.0.1"})

    async def resolver(host: str, _: int) -> list[str]:
        return [address if host == "host.example" else host]

    found = Policy(given.allowed, given.denied, given.redis, resolver)
    if is_open:
        assert await found.addresses("host.example", port) == [address]
    else:
        with pytest.raises(Fatal, match="Redis"):
            await found.addresses("host.example", port)


async def test_settings_that_cannot_be_read_refuse_everything() -> None:
    with pytest.raises(Fatal, match="cannot be read"):
        policy_of({"TASKMAN_HTTP_DENY": "10.0.0.0/33"})


async def test_a_name_that_changes_its_address_is_resolved_only_once(asking: Any, site: Site) -> None:
    """DNS rebinding: the second answer of the name server would lead elsewhere."""
    site.answers["/"] = reply(200, b"here", content_type="text/plain")
    resolver, asked = resolving(["127.0.0.1"], ["169.254.169.254"])
    asking.policy = Policy(resolver=resolver)
    assert (await asking(site.url(host="rebinding.example")))["body"] == "here"
    assert asked == ["rebinding.example"]
    assert site.requests[0].headers["host"] == f"rebinding.example:{site.port}"


async def test_a_name_that_changes_its_address_between_two_hops_is_checked_again(asking: Any, site: Site) -> None:
    site.answers["/"] = reply(302, location="/again")
    resolver, asked = resolving(["127.0.0.1"], ["169.254.169.254"])
    asking.policy = Policy(resolver=resolver)
    with pytest.raises(Fatal, match=r"169\.254\.169\.254"):
        await asking(site.url(host="rebinding.example"))
    assert asked == ["rebinding.example"] * 2
    assert len(site.requests) == 1


@pytest.mark.parametrize(
    "place", ["http://169.254.169.254/latest/meta-data/", "//[::ffff:a9fe:a9fe]/", "http://2852039166/", "//0/"]
)
async def test_a_redirect_to_a_denied_address_is_not_followed(asking: Any, site: Site, place: str) -> None:
    site.answers["/"] = reply(302, location=place)
    with pytest.raises(Fatal, match="network policy refuses"):
        await asking(site.url())


@pytest.mark.parametrize("host", ["0", "0.0.0.0", "[::]", "2852039166", "0xa9fea9fe", "0xa9.0xfe.43518"])
async def test_numbers_that_the_system_reads_as_addresses_are_checked(asking: Any, host: str) -> None:
    with pytest.raises(Fatal, match="network policy refuses"):
        await asking(f"http://{host}/", connect_timeout=5)


async def test_the_next_address_is_tried_when_one_does_not_answer(asking: Any, site: Site) -> None:
    site.answers["/"] = reply(204)
    resolver, _ = resolving(["127.0.0.2", "::1", "127.0.0.1"])
    asking.policy = Policy(resolver=resolver)
    assert (await asking(site.url(host="three.example")))["status"] == 204


async def test_proxies_of_the_environment_are_not_used(
    asking: Any, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    site.answers["/"] = reply(204)
    assert (await asking(site.url()))["status"] == 204
