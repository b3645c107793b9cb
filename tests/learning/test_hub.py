"""Models of a hub through the hub's own client: fetched, checked, cached, published, refused."""

from __future__ import annotations

import hashlib
import logging
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from deepfake.errors import UsageError
from deepfake.learning.hub import Address, Fetched, fetch, publish, read_licence
from tests.made_hub import TOKEN, Hub, Repository, running_hub, use_hub

CARD = "---\nlicense: cc-by-nc-4.0\n---\n# A detector\n\nFor research.\n"
MODEL = b"these are the bytes of a model" * 100


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running_hub() as server:
        use_hub(monkeypatch, server.url, tmp_path)
        yield server


@pytest.fixture
def repository(hub: Hub) -> Repository:
    """With two commits on main, and a branch at the first."""
    made = hub.repositories["ann/detector"] = Repository()
    made.branches["v1"] = made.commit({"model.safetensors": b"older", "README.md": CARD.encode()})
    made.commit({"model.safetensors": MODEL})
    return made


def test_addresses() -> None:
    assert Address.parse("hf://ann/de.tec-tor_1@v1.0") == Address("ann/de.tec-tor_1", "v1.0")
    assert str(Address.parse("hf://ann/x@refs/pr/1")) == "hf://ann/x@refs/pr/1"
    for wrong in (
        "hf://ann",
        "hf://ann/x/y",
        "hf://ann/x@",
        "hf://a nn/x",
        "http://ann/x",
        "hf://",
    ):
        with pytest.raises(UsageError, match="is no address: hf://USER/REPO"):
            Address.parse(wrong)


def test_a_model_is_fetched_once_and_says_its_commit_checksum_and_licence(
    hub: Hub, repository: Repository
) -> None:
    first = fetch(Address("ann/detector"))
    commit = repository.branches["main"]
    assert first.path.read_bytes() == MODEL
    assert str(first.address) == f"hf://ann/detector@{commit}"
    assert first.sha256 == hashlib.sha256(MODEL).hexdigest()
    assert (first.card, first.is_new) == (CARD, True)
    shown = first.describe().splitlines()
    assert shown[:3] == [str(first.address), f"sha256: {first.sha256}", "licence: cc-by-nc-4.0"]
    assert "# A detector" in shown
    downloads = hub.downloads()
    again = fetch(Address("ann/detector"))
    assert (again.path, again.is_new) == (first.path, False)
    assert hub.downloads() == downloads

    # A commit that is there asks nobody.
    asked = len(hub.asked)
    assert fetch(first.address).path == first.path
    assert len(hub.asked) == asked


def test_a_revision_is_what_was_asked_for_and_a_branch_that_moved_is_followed(
    repository: Repository,
) -> None:
    old = fetch(Address("ann/detector", "v1"))
    assert old.path.read_bytes() == b"older"
    assert old.address.revision == repository.branches["v1"]
    assert fetch(Address("ann/detector")).path.read_bytes() == MODEL
    moved = repository.commit({"model.safetensors": b"newest"})
    assert fetch(Address("ann/detector")).address.revision == moved
    assert fetch(old.address).path.read_bytes() == b"older"


def test_offline_and_out_of_reach(
    hub: Hub,
    repository: Repository,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    online = fetch(Address("ann/detector"))
    asked = len(hub.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = fetch(Address("ann/detector"))
    assert (offline.path, offline.card) == (online.path, CARD)
    with pytest.raises(UsageError, match=r"ann/detector@v1 is not in the cache .*HF_HUB_OFFLINE"):
        fetch(Address("ann/detector", "v1"))
    with pytest.raises(UsageError, match=r"ann/other: the hub .*offline mode is set by"):
        publish(Address("ann/other"), MODEL, CARD, public=False)
    assert len(hub.asked) == asked

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as closed:  # bound, but nobody listens
        closed.bind(("127.0.0.1", 0))
        use_hub(monkeypatch, f"http://127.0.0.1:{closed.getsockname()[1]}", tmp_path)
        assert fetch(Address("ann/detector")).path == online.path
        assert "out of reach" in caplog.text
        assert "the copy in the cache is used" in caplog.text
        with pytest.raises(UsageError, match=r"@v1: the hub is out of reach \(.*refused"):
            fetch(Address("ann/detector", "v1"))


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        pytest.param("ann/nothing", "no such repository, or it is private", id="repository"),
        pytest.param("ann/detector@v9", "the repository has no such revision", id="revision"),
        pytest.param("ann/pickles", "model.ckpt, w.bin: that could run code", id="unsafe"),
        pytest.param("ann/text", r"holds no model\.safetensors; it has notes\.txt", id="text"),
        pytest.param("ann/--x", "ann/--x: ", id="name"),
    ],
)
def test_refuses_in_one_line(hub: Hub, repository: Repository, address: str, problem: str) -> None:
    for name, files in (("pickles", ("model.ckpt", "w.bin")), ("text", ("notes.txt",))):
        made = hub.repositories[f"ann/{name}"] = Repository()
        made.commit(dict.fromkeys(files, b"cos\nsystem\n"))
    with pytest.raises(UsageError, match=problem) as caught:
        fetch(Address.parse(f"hf://{address}"))
    assert "\n" not in str(caught.value)
    assert not [line for line in hub.downloads() if "safetensors" not in line]


@pytest.mark.parametrize("status", [403, 418])
def test_a_hub_that_refuses_is_told(hub: Hub, repository: Repository, status: int) -> None:
    hub.status = status
    with pytest.raises(UsageError, match=str(status)):
        fetch(Address("ann/detector"))
    hub.status = None
    fetch(Address("ann/detector"))
    hub.status = status
    with pytest.raises(UsageError, match=str(status)):  # a copy in the cache is no way around
        fetch(Address("ann/detector"))


def test_other_bytes_than_the_hub_told_are_refused(hub: Hub, repository: Repository) -> None:
    told = hashlib.sha256(MODEL).hexdigest()
    hub.large[told] = MODEL[::-1]
    with pytest.raises(UsageError, match=f"is damaged: its sha256 is .*, the hub said {told}"):
        fetch(Address("ann/detector"))


def test_a_copy_that_was_changed_in_the_cache_is_refused(repository: Repository) -> None:
    there = fetch(Address("ann/detector")).path.resolve()
    there.write_bytes(b"x" + MODEL[1:])
    with pytest.raises(UsageError, match="is damaged"):
        fetch(Address("ann/detector"))


def test_publishing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"the hub refuses \(401\): log in"):
        publish(Address("ann/new"), MODEL, CARD, public=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    first = publish(Address("ann/new"), MODEL, CARD, public=False)
    made = hub.repositories["ann/new"]
    assert made.private
    assert first.revision == made.branches["main"]
    assert made.commits[made.branches["main"]]["model.safetensors"] == MODEL
    assert made.commits[made.branches["main"]]["README.md"] == CARD.encode()
    assert fetch(first).path.read_bytes() == MODEL

    made.branches["candidate"] = made.branches["main"]
    second = publish(Address("ann/new", "candidate"), MODEL + b"2", CARD, public=True)
    assert made.private
    assert fetch(second).path.read_bytes() == MODEL + b"2"
    assert fetch(Address("ann/new")).path.read_bytes() == MODEL
    with pytest.raises(UsageError, match="no such revision"):
        publish(Address("ann/new", "no-branch"), MODEL, CARD, public=False)
    publish(Address("ann/open"), MODEL, CARD, public=True)
    assert not hub.repositories["ann/open"].private
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UsageError, match="no such repository, or it is private: log in"):
        fetch(Address("ann/new", "v7"))


def test_a_token_is_written_nowhere(
    hub: Hub,
    repository: Repository,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    shown = [
        fetch(Address("ann/detector")).describe(),
        str(publish(Address("ann/new"), MODEL, CARD, True)),
    ]
    errors = []
    for address in ("ann/nothing", "ann/detector@v9"):
        with pytest.raises(UsageError, match="ann") as caught:
            fetch(Address.parse(f"hf://{address}"))
        errors.append(str(caught.value))

    def leak(*args: object, **options: object) -> None:
        raise ValueError(f"header Authorization: Bearer {TOKEN} is odd")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", leak)
    with pytest.raises(UsageError, match=r"Bearer \(token\) is odd") as caught:
        fetch(Address("ann/detector"))
    errors.append(str(caught.value))
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert TOKEN not in "".join([*shown, *errors, caplog.text])
    assert not [data for data in written if TOKEN.encode() in data]


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        pytest.param(CARD, "cc-by-nc-4.0", id="named"),
        pytest.param(
            "---\nlicense: other\nlicense_name: research\n---\n", "other, research", id="other"
        ),
        pytest.param("---\ntags: [x]\n---\n", None, id="head-without"),
        pytest.param("license: mit\n", None, id="no-head"),
        pytest.param("---\n: [\n---\n", None, id="broken"),
        pytest.param("---\njust text\n---\n", None, id="text"),
        pytest.param("", None, id="empty"),
    ],
)
def test_the_licence_stands_in_the_head_of_a_card(card: str, licence: str | None) -> None:
    assert read_licence(card) == licence


def test_a_strangers_card_cannot_steer_a_terminal() -> None:
    card = "# X \x1b[31m red \x07 \u202e\n" + "long\n" * 5000
    fetched = Fetched(Path("m"), Address("a/b", "c"), "00", card, is_new=True)
    shown = fetched.describe()
    assert "none is named: ask its author" in shown
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert len(shown) < 11_000
    assert "(cut; all of it: README.md)" in shown


def test_the_client_is_imported_by_nobody_who_names_no_hub() -> None:
    # timm brings it along: only what comes before the network counts.
    source = Path(sys.modules[Address.__module__].__file__ or "").read_text(encoding="utf-8")
    top = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert top
    assert not [line for line in top if "huggingface_hub" in line]
