"""The one door to a model hub: finds, fetches and publishes files through its own client.

Nothing here runs before somebody names an address or asks timm for weights, and the client is
imported no earlier. Tokens are the client's: none is read, kept or shown. Knows no network and no
checkpoint.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from deepfake import __version__
from deepfake.errors import UsageError, one_line

logger = logging.getLogger(__name__)

SCHEME = "hf://"
MODEL_FILE = "model.safetensors"
CARD_FILE = "README.md"
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Formats of weights that may run code when they are loaded.
_UNSAFE_SUFFIXES = (".ckpt", ".bin", ".pt", ".pth", ".pkl", ".pickle", ".joblib", ".h5", ".keras")
_SHOWN = 10_000  # characters of a card


@dataclass(frozen=True, slots=True)
class Address:
    """``hf://USER/REPO[@REVISION]``.

    Args:
        repository: ``USER/REPO``.
        revision: Branch, tag or commit; ``None`` is the main branch.
    """

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read one.

        Raises:
            UsageError: If it is none.
        """
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise UsageError(
                f"{one_line(text)} is no address: hf://USER/REPO or hf://USER/REPO@TAG"
            )
        return cls(*found.groups())

    def at(self, revision: str | None) -> Address:
        """The same repository at another revision."""
        return Address(self.repository, revision)

    def __str__(self) -> str:
        at = "" if self.revision is None else f"@{self.revision}"
        return f"{SCHEME}{self.repository}{at}"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model of a hub in the client's cache.

    Args:
        path: Its ``model.safetensors``.
        address: With the commit that was resolved.
        sha256: Of the file; where the hub told one, it is the same.
        card: Text of the repository's card; empty where it has none.
        is_new: Whether the file was not in the cache before.
    """

    path: Path
    address: Address
    sha256: str
    card: str
    is_new: bool

    def describe(self) -> str:
        """Address with commit, checksum, licence and card, to be read before it is used."""
        licence = read_licence(self.card) or "none is named: ask its author before you use it"
        lines = [str(self.address), f"sha256: {self.sha256}", f"licence: {licence}"]
        text = self.card.strip()
        if len(text) > _SHOWN:
            text = f"{text[:_SHOWN]}\n... (cut; all of it: {self.path.parent / CARD_FILE})"
        # What a stranger wrote must not steer a terminal.
        lines += ["".join(c if c.isprintable() else " " for c in line) for line in text.split("\n")]
        return "\n".join(lines)


def fetch(address: Address) -> Fetched:
    """Fetch a model and its card, or find them in the cache.

    A commit that is in the cache asks nobody; neither does anything where ``HF_HUB_OFFLINE`` is
    set.

    Raises:
        UsageError: If repository or revision do not exist, hold no safetensors, or the hub is out
            of reach and the cache holds nothing.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    revision = address.revision
    pinned = revision is not None and _COMMIT.fullmatch(revision) is not None
    with _told_in_one_line(address):
        there = try_to_load_from_cache(address.repository, MODEL_FILE, revision=revision)
        is_new = not isinstance(there, str)
        local = constants.HF_HUB_OFFLINE or (pinned and not is_new)
        local = local or not _is_in_reach(address, demanded=is_new)
        path = Path(
            hf_hub_download(
                address.repository,
                MODEL_FILE,
                revision=revision,
                local_files_only=local,
                library_name="deepfake",
                library_version=__version__,
            )
        )
        resolved = address.at(path.parent.name)
        card = _fetch_card(resolved, local)
    return Fetched(path, resolved, _check(path, resolved), card, is_new=is_new)


def publish(address: Address, model: bytes, card: str, public: bool) -> Address:
    """Write a model and its card into a repository as one commit; make the repository if need be.

    Args:
        address: Where to; a revision names a branch that exists.
        model: Bytes of a ``.safetensors`` file.
        card: Text of its ``README.md``.
        public: Whether a new repository is open to everybody.

    Returns:
        The address with the new commit.

    Raises:
        UsageError: If the hub is out of reach or refuses, for want of a token, too.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    client = HfApi(library_name="deepfake", library_version=__version__)
    with _told_in_one_line(address):
        require_hub()
        client.create_repo(address.repository, private=not public, exist_ok=True)
        commit = client.create_commit(
            address.repository,
            [CommitOperationAdd(MODEL_FILE, model), CommitOperationAdd(CARD_FILE, card.encode())],
            commit_message=f"Model written by deepfake {__version__}",
            revision=address.revision,
        )
    return address.at(commit.oid)


def read_licence(card: str) -> str | None:
    """The licence that the head of a card names."""
    parts = card.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return None
    try:
        head = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return None
    if not isinstance(head, dict):
        return None
    names = [head.get("license"), head.get("license_name"), head.get("license_link")]
    return one_line(", ".join(str(name) for name in names if name)) or None


def find_cached(repository: str, file: str) -> str | None:
    """Path of a file of the main branch in the client's cache, if it is there."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repository, file)
    return path if isinstance(path, str) else None


def require_hub() -> None:
    """Fail at once where the hub is out of reach; its own client would retry for a minute.

    Raises:
        ConnectionError: If offline mode is set or nothing answers.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("offline mode is set by HF_HUB_OFFLINE")
    if any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return  # only the proxy knows
    host = urlsplit(constants.ENDPOINT)
    port = host.port or (443 if host.scheme == "https" else 80)
    try:
        socket.create_connection((host.hostname or "", port), timeout=4).close()
    except OSError as error:
        raise ConnectionError(f"{host.hostname}: {error}") from error


def _is_in_reach(address: Address, demanded: bool) -> bool:
    """Whether the hub tells of a model; where a copy is there, one that is silent is no failure.

    The client would take the copy without a word, even where the hub refuses.
    """
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(address.repository, MODEL_FILE, revision=address.revision))
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
        refused = isinstance(error, errors.HfHubHTTPError) and error.response.status_code < 500
        if demanded or refused:
            raise
        told = "%s: the hub is out of reach (%s); the copy in the cache is used"
        logger.warning(told, address, _without_token(one_line(str(error))))
        return False
    return True


def _fetch_card(address: Address, local: bool) -> str:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        path = hf_hub_download(
            address.repository, CARD_FILE, revision=address.revision, local_files_only=local
        )
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except EntryNotFoundError:  # of the hub, or of the cache
        return ""


def _check(path: Path, address: Address) -> str:
    """SHA-256 of a file in the cache, which keeps large files under the one that the hub told.

    Raises:
        UsageError: If they differ.
    """
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    told = path.resolve().name
    if _SHA256.fullmatch(told) and told != sha256:
        raise UsageError(
            f"{address}: {MODEL_FILE} is damaged: its sha256 is {sha256}, the hub said {told}; "
            f"remove {path.resolve()} and fetch it again"
        )
    return sha256


@contextmanager
def _told_in_one_line(address: Address) -> Iterator[None]:
    """Whatever the client raises, as one line that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except UsageError:
        raise
    except errors.GatedRepoError as error:
        raise UsageError(
            f"{address} is gated: accept its terms on its page, and log in (hf auth login)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UsageError(
            f"{address}: there is no such repository, or it is private: log in (hf auth login)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UsageError(f"{address}: the repository has no such revision") from error
    except errors.LocalEntryNotFoundError as error:
        raise UsageError(
            f"{address} is not in the cache of this machine, and HF_HUB_OFFLINE is set: fetch it "
            "once with deepfake pull"
        ) from error
    except errors.EntryNotFoundError as error:
        raise UsageError(f"{address} {_describe_files(address)}") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise UsageError(
                f"{address}: the hub refuses ({status}): log in (hf auth login) with a token that "
                "may do this"
            ) from error
        raise UsageError(f"{address}: the hub answers with an error ({status})") from error
    # The base of all that the client's HTTP library raises, then what the client itself does.
    except (errors.HTTPError, ConnectionError) as error:  # type: ignore[attr-defined]
        told = _without_token(one_line(str(error)))
        raise UsageError(f"{address}: the hub is out of reach ({told})") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"{address}: {_without_token(one_line(str(error)))}") from error


def _describe_files(address: Address) -> str:
    """What a repository without a model of ours holds instead."""
    from huggingface_hub import HfApi

    siblings = HfApi().model_info(address.repository, revision=address.revision).siblings or []
    names = [file.rfilename for file in siblings]
    unsafe = [name for name in names if name.lower().endswith(_UNSAFE_SUFFIXES)]
    if unsafe:
        return (
            f"holds no {MODEL_FILE}, but {one_line(', '.join(unsafe))}: that could run code and is "
            "not fetched; ask its author to publish safetensors (deepfake push)"
        )
    shown = one_line(", ".join(names)) or "nothing"
    return f"holds no {MODEL_FILE}; it has {shown}"


def _without_token(text: str) -> str:
    from huggingface_hub import get_token

    token = get_token()
    return text.replace(token, "(token)") if token else text
