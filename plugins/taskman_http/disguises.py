"""IPv4 addresses within IPv6 addresses: where a packet may end up that seems to go elsewhere."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network

__all__ = ["forms_of"]

_AT_THE_END = tuple(
    IPv6Network(text)
    for text in (
        "::/96",  # IPv4-compatible, given up long ago
        "::ffff:0:0:0/96",  # IPv4-translated
        "64:ff9b::/96",  # NAT64, the well-known prefix
    )
)
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})
_LAST_32 = 0xFFFFFFFF


def forms_of(address: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    """The address, and every IPv4 address that it carries; one that is only written as IPv6 is the IPv4 address."""
    if isinstance(address, IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    bare = IPv6Address(int(address))  # without its zone
    return [bare, *_carried(bare)] if int(bare) > 1 else [bare]


def _carried(address: IPv6Address) -> list[IPv4Address]:
    number = int(address)
    found = [IPv4Address(number & _LAST_32)] if any(address in one for one in _AT_THE_END) else []
    if (number >> 32) & _LAST_32 in _ISATAP:
        found.append(IPv4Address(number & _LAST_32))
    if address in _LOCAL_NAT64:
        found += _in_nat64(number)
    if address.sixtofour is not None:
        found.append(address.sixtofour)
    return found + list(address.teredo or ())


def _in_nat64(number: int) -> list[IPv4Address]:
    """What it carries under each length of prefix that a NAT64 of one's own may have (RFC 6052, section 2.2)."""
    found = [IPv4Address(number & _LAST_32)]
    for bits in (48, 56, 64):
        before = (number >> 64) & ((1 << (64 - bits)) - 1)
        after_bits = 32 - (64 - bits)
        after = (number >> (56 - after_bits)) & ((1 << after_bits) - 1)  # bits 64 to 71 are always zero
        found.append(IPv4Address(before << after_bits | after))
    return found
