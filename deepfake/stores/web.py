"""The client of plain web servers: it follows redirects, but not everywhere.

A server may send a reader anywhere, and what it sends to may be a machine that only this one sees.
So a redirect stays with the server that was named, or, where that was allowed, goes to another
public one; never into the local network, whatever the name of the host looks like.
"""

from __future__ import annotations

import ipaddress
import socket
from types import SimpleNamespace
from typing import Any

import aiohttp
from aiohttp.abc import ResolveResult
from yarl import URL

from deepfake.stores.address import Address, RedirectError

# Addresses of IPv6 that stand for one of IPv4: as once was usual, and of NAT64.
_V4_AT_THE_END = (ipaddress.ip_network("::/96"), ipaddress.ip_network("64:ff9b::/96"))
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=20)


async def make_client(other_stores: bool = False, **options: Any) -> aiohttp.ClientSession:
    """A session whose redirects are looked at; it is made where its event loop runs.

    Args:
        other_stores: Whether a redirect may lead to another server.
        **options: Of ``aiohttp.ClientSession``.
    """
    resolver = _Resolver()

    async def judge(
        session: aiohttp.ClientSession,
        context: SimpleNamespace,
        seen: aiohttp.TraceRequestRedirectParams,
    ) -> None:
        headers = seen.response.headers  # aiohttp goes by either
        target = seen.url.join(URL(headers.get("Location") or headers.get("URI") or ""))
        if target.scheme not in ("http", "https"):
            raise RedirectError(f"it redirects to {target.scheme}://")
        here, there = Address.parse(str(seen.url)), Address.parse(str(target))
        if here.shares_store(there):
            return
        if not other_stores:
            raise RedirectError(
                f"it redirects to {target.origin()}, another server; --other-stores allows that"
            )
        resolver.guard(target.raw_host or "")

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(judge)
    connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False)
    return aiohttp.ClientSession(
        connector=connector, trace_configs=[trace], **{"timeout": _TIMEOUT, **options}
    )


class _Resolver(aiohttp.ThreadedResolver):
    """Finds the addresses of hosts; those that redirects lead to must be public.

    It is asked for the addresses that are connected to: there is no second look-up in between,
    which could have another answer.
    """

    def __init__(self) -> None:
        super().__init__()
        self._guarded: set[str] = set()

    def guard(self, host: str) -> None:
        """Take a host for one that a redirect leads to.

        Raises:
            RedirectError: If it is in the local network, or a number in disguise: ``127.1`` and
                ``2130706433`` are connected to without a look-up.
        """
        try:
            _refuse_local(host, host)
        except ValueError:  # a name, no number
            if host.replace(".", "").isdigit():
                raise RedirectError(f"it redirects to {host}, which is no name of a host") from None
            self._guarded.add(_plain(host))

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        if _plain(host) in self._guarded:
            for one in found:
                _refuse_local(one["host"], host)
        return found


def _plain(host: str) -> str:
    return host.lower().rstrip(".")


def _refuse_local(number: str, host: str) -> None:
    found = ipaddress.ip_address(number.partition("%")[0])
    addresses = [found]
    if isinstance(found, ipaddress.IPv6Address):
        inside = [found.ipv4_mapped, found.sixtofour, *(found.teredo or ())]
        if any(found in network for network in _V4_AT_THE_END):
            inside.append(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF))
        addresses = [one for one in inside if one is not None] or addresses
    if any(not one.is_global or one.is_multicast for one in addresses):
        raise RedirectError(f"it redirects to {host}, which is in the local network")
