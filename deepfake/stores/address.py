"""Addresses of objects in stores: their parts, what a list may call them, who shares a store.

Opens nothing.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from deepfake.errors import UsageError

SCHEMES = ("s3", "gs", "az", "hf", "http", "https", "memory")
"""What an address may begin with. ``file`` is none: a file has a path."""
_WEB = ("http", "https")
# One letter is a drive of Windows.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_DATA_SETS = "datasets"
_PASSWORD = re.compile(r"(?<=://)[^/\s]+@")
# Of addresses that were signed, and of what their servers call a key.
_SECRET = re.compile(
    r"([?&](?:[\w.-]*(?:signature|credential|token|secret|password)[\w.-]*|sig|auth"
    r"|(?:api|access)[_-]?key(?:[_-]?id)?|key-pair-id|policy)=)[^&#\s'\"]+",
    re.IGNORECASE,
)


class RedirectError(Exception):
    """A server sends its reader to a store where this one does not go."""


def is_url(name: str) -> bool:
    """Whether a name is an address instead of a path; ``Address.parse`` knows which are taken.

    Example:
        >>> [is_url(name) for name in ("s3://bucket/a.jpg", "photos/a.jpg", "C:/a.jpg")]
        [True, False, False]
    """
    return "://" in name and _URL.match(name) is not None


def hide_secrets(text: str) -> str:
    """A text without what opens the addresses in it: passwords, and the values of signed queries.

    Example:
        >>> hide_secrets("https://host/a.jpg?size=2&X-Amz-Signature=0af3")
        'https://host/a.jpg?size=2&X-Amz-Signature=...'
    """
    return _SECRET.sub(r"\1...", _PASSWORD.sub("...@", text))


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """Where an object, or a folder of them, lies.

    Args:
        scheme: One of ``SCHEMES``.
        host: The store of that kind: a bucket, a container, a web server with its port, a data set
            of the hub; empty for ``memory``, of which there is one.
        key: Its name there, as it is; of a web server with the query.

    Example:
        >>> here = Address.parse("s3://bucket/lists/today.csv")
        >>> str(here.join("../photos/a.jpg"))
        's3://bucket/photos/a.jpg'
    """

    scheme: str
    host: str
    key: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """Take an address apart.

        Raises:
            UsageError: If it is none, of an unknown kind, names no store, or holds a password.
        """
        found = _URL.fullmatch(url)
        scheme = found[1].lower() if found else ""
        if found is None or scheme not in SCHEMES:
            known = ", ".join(f"{name}://" for name in SCHEMES)
            raise UsageError(
                f"{hide_secrets(url)}: no address that is read here; expected one of {known}"
            )
        rest = found[2]
        if scheme == "memory":
            return cls(scheme, "", rest.lstrip("/"))
        if scheme == "hf":
            kind, *parts = rest.split("/", 3)
            if kind != _DATA_SETS or len(parts) < 2 or not all(parts[:2]):
                raise UsageError(
                    f"{url}: as an input, hf:// is a data set: hf://datasets/USER/NAME/FOLDER; "
                    "hf://USER/REPO is a checkpoint"
                )
            return cls(scheme, "/".join([kind, *parts[:2]]), "".join(parts[2:]))
        host, _, key = rest.partition("/")
        if not host:
            raise UsageError(f"{url} names no bucket, container or server")
        user, at, _ = host.rpartition("@")
        if at and (scheme in _WEB or ":" in user):
            raise UsageError(
                f"{hide_secrets(url)}: an address with a password would stand in tables; let "
                "fsspec's own configuration hold it"
            )
        return cls(scheme, host, key)

    def __str__(self) -> str:
        """The address for people: without the secrets of a signed one."""
        return hide_secrets(self.url) if self.is_web else self.url

    __repr__ = __str__

    @property
    def url(self) -> str:
        """The address that can be opened."""
        return f"{self.scheme}://" + "/".join(filter(None, [self.host, self.key]))

    @property
    def is_web(self) -> bool:
        """Whether a plain web server has it, which knows no folders."""
        return self.scheme in _WEB

    @property
    def name(self) -> str:
        """Its last part, without a query."""
        key = urlsplit(self.url).path if self.is_web else self.key
        return posixpath.basename(key)

    @property
    def path(self) -> Path:
        """What stands for it among paths: its suffix is right, and nothing can be opened there."""
        return Path(
            f"{self.scheme}:", self.host, self.key.partition("?")[0] if self.is_web else self.key
        )

    def join(self, name: str) -> Address:
        """The address of what a list at this one calls so: an address itself, or relative.

        Raises:
            UsageError: If it is an address of an unknown kind, or leads out of the store.
        """
        if is_url(name):
            return Address.parse(name)
        if self.is_web:
            # Behind "./", a colon in a name is no scheme.
            return Address.parse(urljoin(self.url, name if name[:1] == "/" else f"./{name}"))
        key = name[1:] if name[:1] == "/" else posixpath.join(posixpath.dirname(self.key), name)
        # Elsewhere keys are taken literally: two slashes in a row are two.
        if {".", ".."} & set(key.split("/")):
            key = posixpath.normpath(key)
            if key.split("/")[0] == "..":
                raise UsageError(
                    f"{self} names {name!r}, which leads out of {self.scheme}://{self.host}"
                )
        return Address(self.scheme, self.host, key)

    def below(self, name: str) -> Address:
        """The address of what a listing of this folder calls so, taken literally."""
        key = f"{self.key.rstrip('/')}/{name}" if self.key.rstrip("/") else name
        return Address(self.scheme, self.host, key)

    def shares_store(self, other: Address) -> bool:
        """Whether another object lies in the same store: the same bucket, server, data set.

        The same server by ``https`` instead of ``http`` is the same store, not the other way round.
        """
        if (self.scheme, self.host.lower()) == (other.scheme, other.host.lower()):
            return True
        is_safer = (self.scheme, other.scheme) == _WEB
        return is_safer and ":" not in self.host and self.host.lower() == other.host.lower()
