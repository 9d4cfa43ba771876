"""Where requests may go. Each address that a name stands for is checked, in every form that it can hide in.

Always denied, unless TASKMAN_HTTP_ALLOW names a network at least as narrow: link-local, unspecified, multicast and
reserved addresses, and the metadata services of clouds. TASKMAN_HTTP_DENY denies more. Of the entries of both that
match, the narrowest decides: a name before a network, the longer before the shorter; of equals it is DENY.
Taskman's own Redis is denied whatever the settings say.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import unquote

import trio

from taskman import Fatal

from .disguises import forms_of

__all__ = ["Policy", "Resolver", "policy_of", "resolve"]

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
Resolver = Callable[[str, int], Awaitable[list[str]]]


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(map(ip_network, text.split()))


_METADATA = _networks(
    "169.254.169.254 169.254.170.2 169.254.170.23 169.254.42.42 169.254.0.23 100.100.100.200 168.63.129.16 192.0.0.192 "
    "fd00:ec2::254 fd00:ec2::23 fd20:ce::254 fd00:42::42"
)
_NEVER_HOSTS = _networks("0.0.0.0/8 169.254.0.0/16 224.0.0.0/4 240.0.0.0/4 ::/128 fe80::/10 fec0::/10 ff00::/8")
_BUILT_IN = _METADATA + _NEVER_HOSTS
_WORDS = {
    "all": _networks("0.0.0.0/0 ::/0"),
    "loopback": _networks("127.0.0.0/8 ::1/128"),
    "private": _networks("10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 fc00::/7"),
}
_REDIS_PORT = 6379
_SENTINEL_PORT = 26379


@dataclass(frozen=True, slots=True)
class Places:
    """Networks and names of hosts, as a setting lists them."""

    networks: tuple[Network, ...] = ()
    names: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Places:
        """Read `10.0.0.0/8, *.example.com, loopback`. Raises ValueError."""
        networks: list[Network] = []
        names: list[str] = []
        for entry in filter(None, (part.strip().lower() for part in text.split(","))):
            if entry in _WORDS:
                networks += _WORDS[entry]
            elif "/" in entry or ":" in entry or entry.replace(".", "").isdigit():
                networks.append(ip_network(entry.strip("[]"), strict=False))
            else:
                names.append(entry.rstrip("."))
        return cls(tuple(networks), tuple(names))

    def narrowest(self, host: str, address: Address) -> tuple[int, int] | None:
        """How narrow the narrowest entry is that matches: (1, length of the name) or (0, bits); None: none does."""
        named = [(1, len(name)) for name in self.names if _matches(name, host)]
        return max(named + [(0, bits) for bits in _prefixes(self.networks, address)], default=None)


def _matches(name: str, host: str) -> bool:
    return host.endswith(name[1:]) if name.startswith("*.") else host == name


def _prefixes(networks: Iterable[Network], address: Address) -> list[int]:
    return [network.prefixlen for network in networks if address in network]


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, in the system's order, each once. Raises OSError."""
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[0]) for *_, place in found))


@dataclass(frozen=True, slots=True)
class Policy:
    """Decides which addresses a worker may connect to. `redis` are hosts and ports of Taskman's own."""

    allowed: Places = Places()
    denied: Places = Places()
    redis: tuple[tuple[str, int], ...] = ()
    resolver: Resolver = resolve

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses to connect to, all of them checked: nobody may resolve the name again.

        Raises: Fatal when one of them is denied, whichever the others are; OSError when there is none.
        """
        found = await self.resolver(host, port)
        name = host.lower().rstrip(".")
        checked = [ip_address(one.partition("%")[0]) for one in found]
        for address in checked:
            for form in forms_of(address):
                self._check(name, form, address)
        for redis_host, redis_port in self.redis:
            if redis_port == port:
                await self._keep_off(redis_host, port, checked)
        return found

    def _check(self, name: str, form: Address, address: Address) -> None:
        allow, deny = self.allowed.narrowest(name, form), self.denied.narrowest(name, form)
        if deny is not None and (allow is None or deny >= allow):
            raise _refusal(name, address, "TASKMAN_HTTP_DENY denies it")
        barred = max(_prefixes(_BUILT_IN, form), default=-1)
        if barred > max(_prefixes(self.allowed.networks, form), default=-1):
            raise _refusal(name, address, f"no task may go there unless TASKMAN_HTTP_ALLOW names {form}")

    async def _keep_off(self, redis_host: str, port: int, checked: list[Address]) -> None:
        try:
            own = [ip_address(one.partition("%")[0]) for one in await self.resolver(redis_host, port)]
        except OSError:  # then no address can be recognised as its
            return
        theirs = {form for one in own for form in forms_of(one)}
        is_here = any(map(_is_of_this_machine, theirs))
        for address in checked:
            forms = forms_of(address)
            if not theirs.isdisjoint(forms) or (is_here and any(map(_is_of_this_machine, forms))):
                raise _refusal(redis_host, address, "Taskman's own Redis is there")


def _refusal(name: str, address: Address, why: str) -> Fatal:
    place = f"'{name}'" if name == str(address) else f"'{name}' ({address})"
    return Fatal(f"this worker's network policy refuses {place}: {why}")


def _is_of_this_machine(address: Address) -> bool:
    if address.is_loopback:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))  # only an address of one's own can be bound
        except OSError:
            return False
    return True


def policy_of(environment: Mapping[str, str]) -> Policy:
    """The policy that the worker's settings describe. Raises Fatal when they cannot be read."""
    names = ("TASKMAN_HTTP_ALLOW", "TASKMAN_HTTP_DENY", "TASKMAN_REDIS_URL")
    return _policy(*(environment.get(name, "") for name in names))


@lru_cache(maxsize=8)
def _policy(allow: str, deny: str, redis_url: str) -> Policy:
    try:
        return Policy(Places.parse(allow), Places.parse(deny), tuple(_redis_places(redis_url)))
    except ValueError as error:
        raise Fatal(f"TASKMAN_HTTP_ALLOW or TASKMAN_HTTP_DENY of this worker cannot be read: {error}") from None


def _redis_places(url: str) -> Iterable[tuple[str, int]]:
    """The hosts and ports that a Redis URL names; a cluster's and Sentinel's may be several."""
    scheme, _, rest = url.partition("://")
    if not rest or scheme == "unix":
        return
    usual = _SENTINEL_PORT if "sentinel" in scheme else _REDIS_PORT
    for place in rest.partition("/")[0].partition("?")[0].rpartition("@")[2].split(","):
        host, colon, port = place.rpartition(":")
        if not colon or place.endswith("]"):
            host, port = place, str(usual)
        yield unquote(host).strip("[]") or "localhost", int(port) if port.isdigit() else usual
