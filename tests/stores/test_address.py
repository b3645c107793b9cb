"""What an address means, and what a list may call an object."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.errors import UsageError
from deepfake.stores.address import Address, hide_secrets, is_url


@pytest.mark.parametrize(
    ("url", "store", "key", "name"),
    [
        ("s3://bucket/a/b c.jpg", "bucket", "a/b c.jpg", "b c.jpg"),
        ("S3://bucket", "bucket", "", ""),
        ("gs://bucket/a//b?.jpg", "bucket", "a//b?.jpg", "b?.jpg"),
        ("memory://a/b.jpg", "", "a/b.jpg", "b.jpg"),
        ("hf://datasets/me/faces/x/a.jpg", "datasets/me/faces", "x/a.jpg", "a.jpg"),
        ("https://host:8443/a/b.jpg?key=1/2", "host:8443", "a/b.jpg?key=1/2", "b.jpg"),
    ],
)
def test_an_address_has_parts(url: str, store: str, key: str, name: str) -> None:
    address = Address.parse(url)
    assert (address.host, address.key, address.name) == (store, key, name)
    assert str(address) == url.replace("S3", "s3")
    assert address.path.suffix == Path(name).suffix
    assert not address.path.is_absolute()
    assert address.path.parts[0] == f"{address.scheme}:"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("file:///etc/passwd", "no address that is read here; expected one of s3://, gs://"),
        ("reference://x", "no address that is read here"),
        ("s3:///key", "names no bucket"),
        ("https://me:secret@host/a.jpg", r"^https://\.\.\.@host/a.jpg: an address with a password"),
        ("s3://me:secret@bucket/a.jpg", r"^s3://\.\.\.@bucket/a.jpg: an address with a password"),
        ("ftp://me:secret@host/a.jpg", r"^ftp://\.\.\.@host/a.jpg: no address"),
        ("hf://me/detector", "a data set: hf://datasets/USER/NAME.* is a checkpoint"),
        ("hf://datasets/me", "a data set"),
        ("photos/a.jpg", "no address"),
    ],
)
def test_what_is_no_address_is_refused(url: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        Address.parse(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("here", "name", "there"),
    [
        ("s3://b/x/list.txt", "a.jpg", "s3://b/x/a.jpg"),
        ("s3://b/x/list.txt", "y//a#1?.jpg", "s3://b/x/y//a#1?.jpg"),
        ("s3://b/x/list.txt", "../a.jpg", "s3://b/a.jpg"),
        ("s3://b/x/list.txt", "/y/a.jpg", "s3://b/y/a.jpg"),
        ("s3://b/x/list.txt", "s3://b/z.jpg", "s3://b/z.jpg"),
        ("memory://list.txt", "a.jpg", "memory://a.jpg"),
        ("http://h/x/list.txt?v=1", "a b.jpg", "http://h/x/a b.jpg"),
        ("http://h/x/list.txt", "a:b.jpg", "http://h/x/a:b.jpg"),
        ("http://h/x/list.txt", "../../a.jpg", "http://h/a.jpg"),
        ("http://h/x/list.txt", "//other/a.jpg", "http://other/a.jpg"),
    ],
)
def test_a_name_in_a_list_is_relative_to_it(here: str, name: str, there: str) -> None:
    assert str(Address.parse(here).join(name)) == there


def test_no_name_leads_above_a_store_or_onto_the_disk() -> None:
    here = Address.parse("s3://b/x/list.txt")
    with pytest.raises(UsageError, match=r"names '../../c/a.jpg', which leads out of s3://b"):
        here.join("../../c/a.jpg")
    with pytest.raises(UsageError, match="no address that is read here"):
        here.join("file:///etc/passwd")
    assert is_url(str(here.join("/etc/passwd")))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("s3://b/a", "s3://b/x/y", True),
        ("s3://b/a", "s3://c/a", False),
        ("s3://b/a", "gs://b/a", False),
        ("http://h/a", "https://H/a", True),
        ("https://h/a", "http://h/a", False),
        ("http://h/a", "http://h:81/a", False),
        ("http://h:80/a", "https://h/a", False),
        ("hf://datasets/me/a/x", "hf://datasets/me/b/x", False),
    ],
)
def test_who_shares_a_store(one: str, other: str, same: bool) -> None:
    assert Address.parse(one).shares_store(Address.parse(other)) is same


@pytest.mark.parametrize("password", ["secret", "sec@ret", "@@"])
def test_a_password_is_not_shown_whatever_it_holds(password: str) -> None:
    told = hide_secrets(f"403 of https://ada:{password}@host/a@b.jpg twice")
    assert told == "403 of https://...@host/a@b.jpg twice"


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("X-Amz-Date=1&X-Amz-Signature=secret&v=2", "X-Amz-Date=1&X-Amz-Signature=...&v=2"),
        ("X-Amz-Credential=secret%2Fus-east-1", "X-Amz-Credential=..."),
        ("sv=2024&sig=secret%3D", "sv=2024&sig=..."),
        ("Policy=secret~&Signature=secret_", "Policy=...&Signature=..."),
        ("Key-Pair-Id=secret&auth=secret", "Key-Pair-Id=...&auth=..."),
        ("access_token=secret&api_key=secret", "access_token=...&api_key=..."),
        ("design=1&key=a/b.jpg", "design=1&key=a/b.jpg"),
    ],
)  # fmt: skip
def test_what_a_signed_address_was_signed_with_is_not_shown(query: str, shown: str) -> None:
    address = Address.parse(f"https://host/a.jpg?{query}")
    assert str(address) == repr(address) == f"https://host/a.jpg?{shown}"
    assert address.url == f"https://host/a.jpg?{query}"
    assert hide_secrets(f"403, url='{address.url}'") == f"403, url='https://host/a.jpg?{shown}'"
