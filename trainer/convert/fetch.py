"""Fetches pictures by the addresses in records. Whoever wrote the records chose them: an address may name a program on
this machine, a service of the cluster, or a server that answers without an end."""

from __future__ import annotations

import http.client
import ipaddress
import re
import time
import urllib.request
from typing import IO, Any

from trainer.deadline import within
from trainer.files import MIB, MOST_MIB

ANSWER_S = 30.0
"""Seconds that a server may take for each part of its answer."""
PICTURE_S = 300.0
"""Seconds for one picture."""
PART_BYTES = 1 << 16
WEB = ("http://", "https://")
# Stores of which fsspec gives one object for its address. It also knows addresses that unpack, chain and run others.
STORES = re.compile(r"(hf|s3|gs|gcs|az|abfs)://[^:]+")
# All public IPv6 addresses, and those by which a network without IPv4 reaches an IPv4 address, the last four bytes.
UNICAST, BY_NAT64 = ipaddress.IPv6Network("2000::/3"), ipaddress.IPv6Network("64:ff9b::/96")


def fetch(address: str, *, private: bool) -> bytes:
    """What lies at an address, at most one byte more than a picture may have. Without `private`, programs of this
    machine and of private networks are not asked, also where another server leads to them.

    Raises OSError, ValueError.
    """
    return within(PICTURE_S, lambda: _fetch(address, private))


def _fetch(address: str, private: bool) -> bytes:
    try:
        if address.startswith(WEB):
            with _opener(private).open(address, timeout=ANSWER_S) as answer:
                return _read(answer)
        if not STORES.fullmatch(address):
            raise ValueError("addresses of http, https, hf, s3, gs and az are read, and no others")
        import fsspec  # type: ignore[import-untyped]

        with fsspec.open(address, "rb") as file:
            return _read(file)
    except (OSError, ValueError):
        raise
    except Exception as error:  # http.client and the readers of stores have errors of their own
        raise OSError(f"{type(error).__name__}: {error}") from error


def _read(answer: IO[bytes]) -> bytes:
    end, content = time.monotonic() + PICTURE_S, bytearray()
    one = getattr(answer, "read1", answer.read)
    while len(content) <= MOST_MIB * MIB and (part := one(PART_BYTES)):
        content += part
        if time.monotonic() > end:
            raise TimeoutError(f"takes more than {PICTURE_S:g} s")
    return bytes(content[: MOST_MIB * MIB + 1])


def _opener(private: bool) -> urllib.request.OpenerDirector:
    """Reads http and https alone, also where a server leads elsewhere: urllib's own would follow to ftp."""
    opener = urllib.request.OpenerDirector()
    web = (urllib.request.HTTPHandler(), urllib.request.HTTPSHandler()) if private else (_Http(), _Https())
    for handler in (
        urllib.request.ProxyHandler(), urllib.request.UnknownHandler(), urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(), urllib.request.HTTPErrorProcessor(), *web,
    ):  # fmt: skip
        opener.add_handler(handler)
    return opener


class _Http(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(http.client.HTTPConnection if _by_proxy(request) else _PublicHttp, request)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(http.client.HTTPSConnection if _by_proxy(request) else _PublicHttps, request)


def _by_proxy(request: urllib.request.Request) -> bool:
    """Whether a proxy, which may be private, asks the server. urllib reads the address both times: it takes %31 in a
    host for 1."""
    return request.host != urllib.request.Request(request.full_url).host


class _PublicHttp(http.client.HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _refuse_private(self)


class _PublicHttps(http.client.HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _refuse_private(self)


def is_public(host: str) -> bool:
    """Whether a numeric address may be anybody's on the internet. An IPv6 address may stand for an IPv4 address."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped or address in BY_NAT64:
            address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        elif address not in UNICAST or address.sixtofour:
            return False
    return address.is_global and not address.is_multicast


def _refuse_private(connection: Any) -> None:
    """Raises ValueError before anything is asked. The connection says whom it has reached: a name could be another
    machine's a moment later."""
    if not is_public(connection.sock.getpeername()[0]):
        connection.close()
        raise ValueError("leads to this machine or into a private network: --private-addresses reads there, too")
