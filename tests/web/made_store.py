"""Files that come into a queue, as if a client had sent them."""

from __future__ import annotations

from typing import Any

from deepfake.web.store import Store


def upload(store: Store, owner: str = "me", data: bytes = b"data", **facts: Any) -> str:
    incoming = store.incoming / "new"
    incoming.write_bytes(data)
    return store.add_upload(incoming, owner, "a.jpg", "f" * 64, "model", **facts)
