"""An S3 server on this machine, and what stands before it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deepfake.stores import objects
from tests.stores.made_stores import Proxy, stand_before


@pytest.fixture(scope="module")
def s3() -> Iterator[Proxy]:
    moto = pytest.importorskip("moto.server", reason="the extra dev has it")
    pytest.importorskip("s3fs", reason="the extra dev has it")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    with stand_before(port) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "made")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "up")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        objects.open_store.cache_clear()
        yield proxy
        objects.open_store.cache_clear()
    server.stop()
