"""Servers that mean harm: whatever they answer ends in one sentence, in bounded time and memory."""

from __future__ import annotations

import json
import resource
import socketserver
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hub_server import Fault, HubServer

from conftest import CHECKPOINT, Q4, ROOT
from nextn.errors import NextnError, RemoteError, UsageError
from nextn.remote import headers as said
from nextn.remote.address import HubSource, UrlSource, parse_source
from nextn.remote.http import Options
from nextn.remote.listing import read_listing
from nextn.remote.model import Remote
from nextn.remote.snapshot import open_remote
from nextn.remote.within import TooSlow, within

REPO = "org/tiny-qwen35-mtp"
FAST = Options(backoff_s=0.005, n_retries=2, timeout_s=5, head_s=1, slow_s=1)
DRIPPED = replace(FAST, timeout_s=1, n_retries=0)  # a read and a head may each take as long as the other
Open = Callable[..., Remote]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add_folder(REPO, CHECKPOINT)
        yield server


@pytest.fixture
def opened(hub: HubServer, tmp_path: Path) -> Iterator[Open]:
    remotes: list[Remote] = []

    def make(text: str = f"hf:{REPO}", options: Options = FAST) -> Remote:
        source = parse_source(text)
        assert isinstance(source, HubSource | UrlSource)
        remotes.append(open_remote(source, options=options, root=tmp_path / "cache", endpoint=hub.endpoint))
        return remotes[-1]

    yield make
    for remote in remotes:
        remote.__exit__()


def refusal(opened: Open, source: str, kind: type[NextnError] = RemoteError, options: Options = FAST) -> str:
    with pytest.raises(kind) as caught:
        opened(source, options)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 1000, text
    return text


@pytest.fixture
def plain(hub: HubServer) -> str:
    return hub.serve_plain("x.gguf", Q4.read_bytes())


# -- redirects --------------------------------------------------------------------------------------------------------

TARGETS = {
    "file": "file:///etc/passwd", "ftp": "ftp://127.0.0.1/x", "port": "http://127.0.0.1:99999/x",
    "port word": "http://127.0.0.1:abc/x", "v6": "http://[::1/x", "not ascii": "http://127.0.0.1:1/\xff\xfe\xb2",
    "label": "http://" + "a" * 300 + ".example/x", "dots": "http://..../x", "no host": "http:///x",
    "long": "/ok/" + "a" * 70_000, "space": "http://127.0.0.1:1/a b", "javascript": "javascript:alert(1)",
    "tab": "http://127.0.0.1:1/\tx", "data": "data:,x", "empty": "", "negative port": "http://127.0.0.1:-1/x",
}  # fmt: skip

NOT_ODD = ("long", "space", "no host", "tab")  # these are read as addresses at which nothing is


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("where", ["file", "listing"])
def test_redirects_to_what_is_no_address(hub: HubServer, opened: Open, plain: str, name: str, where: str) -> None:
    path = "^cdn/plain" if where == "file" else "^hub/api"
    hub.faults.append(Fault("redirect", path, times=999, headers={"Location": TARGETS[name]}))
    text = refusal(opened, plain if where == "file" else f"hf:{REPO}")
    assert "redirects" in text or name in NOT_ODD, text
    assert len(hub.requests()) <= 12


# -- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "total", ["9" * 5000, str(1 << 63), str(10**18), "\xb2", "-5", "1e9", "0x10", "", "1_000", "+7", "\u0661"],
    ids=lambda text: ascii(text)[:12],
)  # fmt: skip
def test_sizes_that_no_file_has(hub: HubServer, opened: Open, plain: str, total: str) -> None:
    value = f"bytes 0-0/{total}".encode().decode("latin-1")
    hub.faults.append(Fault("header", "^cdn/plain", times=999, headers={"Content-Range": value}))
    assert "does not state the file's size" in refusal(opened, plain)


@pytest.mark.parametrize(
    "value", ["bytes 0-" + "9" * 5000 + "/N", "bytes \xb2-9/N", "bytes 9-0/N", "bytes */N", "items 0-9/N"],
    ids=lambda text: ascii(text)[:12],
)  # fmt: skip
def test_ranges_that_are_none(hub: HubServer, opened: Open, plain: str, value: str) -> None:
    value = value.replace("N", str(Q4.stat().st_size))
    hub.faults.append(Fault("header", "^cdn/plain", times=999, skip=1, headers={"Content-Range": value}))
    assert "given up after 3 attempts: the server" in refusal(opened, plain)


@pytest.mark.parametrize("size", [10**13, (1 << 50) - 1])
def test_a_file_that_claims_more_than_any_disk_has(hub: HubServer, opened: Open, plain: str, size: int) -> None:
    """It is opened as a sparse file, and its header is read; no byte more is fetched or reserved."""
    hub.faults.append(Fault("header", "^cdn/plain", headers={"Content-Range": f"bytes 0-0/{size}"}))
    with pytest.raises(NextnError) as caught:
        opened(plain)
    assert str(caught.value).endswith(".") and hub.file_bytes() < 1 << 20


@pytest.mark.parametrize(
    "value", ["\xb2", "-5", "1e99", "9" * 400, "1" * 5000, "nan", "inf", "Mon, 01 Jan 0000 00:00:00 GMT",
              "Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 +2359", "Fri, 31 Dec 2026 23:59:59 +99999999",
              "\u0661", "1 2", "0x1"], ids=lambda text: ascii(text)[:14],
)  # fmt: skip
def test_waits_that_are_none(hub: HubServer, opened: Open, plain: str, value: str) -> None:
    wait = said.retry_after({"retry-after": value})
    assert wait is None or 0 <= wait <= said.MAX_WAIT_S
    header = value.encode().decode("latin-1")
    hub.faults.append(Fault("status", "", times=999, status=503, headers={"Retry-After": header}))
    for source in (plain, f"hf:{REPO}"):
        assert "given up after" in refusal(opened, source)


@pytest.mark.parametrize("value", ["r=0;t=" + "9" * 5000, "r=0;t=\u0661", "r=0;t=-1", "r=0;t="])
def test_rate_limits_that_are_none(value: str) -> None:
    assert said.retry_after({"ratelimit": value}) in (None, 1.0)


# -- what the Hub answers ----------------------------------------------------------------------------------------------

COMMIT = "a" * 40


def answer(**changes: object) -> dict[str, object]:
    sibling = {"rfilename": "m.gguf", "size": 5, "blobId": "b" * 40, "lfs": {"sha256": "c" * 64, "size": 5}}
    more = {key.removeprefix("file_"): value for key, value in changes.items() if key.startswith("file_")}
    top = {key: value for key, value in changes.items() if not key.startswith("file_")}
    return {"id": "org/r", "sha": COMMIT, "siblings": [sibling | more], **top}


ODD: dict[str, object] = {
    **{f"size {value!r}": answer(file_size=value) for value in ("12", -5, 10**30, 1.5, [1], True, {}, 10**16)},
    **{f"name {value!r}": answer(file_rfilename=value) for value in (5, None, [], {}, "\ud800")},
    **{f"blob {value!r}": answer(file_blobId=value) for value in (5, "", "../x", "B" * 40, [])},
    **{f"lfs {value!r}": answer(file_lfs=value) for value in ({}, [], "x", 5, {"sha256": 5}, {"sha256": "../../x"})},
    **{f"sha {value!r}": answer(sha=value) for value in (None, 5, "", "A" * 40, "../../" + "a" * 34, "a" * 41, [])},
    **{f"siblings {value!r}": answer(siblings=value) for value in ({"a": 1}, "x", 5, [5], [None], ["x"], [[]], [{}])},
    "array": [], "null": None, "number": 5, "string": "x",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_a_listing_of_odd_types(hub: HubServer, opened: Open, name: str) -> None:
    body = json.dumps(ODD[name]).encode()
    hub.faults.append(Fault("answer", "^hub/api", times=9, status=200, body=body))
    assert "HF_ENDPOINT" in refusal(opened, "hf:org/r")


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"\xff\xfe{", b'{"a":' * 100_000, b"[" * 1_000_000, b"9" * 10_000, b"NaN", b'{"sha": '],
    ids=lambda body: ascii(body[:8]),
)  # fmt: skip
def test_a_listing_that_is_no_json(hub: HubServer, opened: Open, body: bytes) -> None:
    hub.faults.append(Fault("answer", "^hub/api", times=9, status=200, body=body))
    assert "HF_ENDPOINT" in refusal(opened, "hf:org/r")


def test_a_listing_that_is_good() -> None:
    found = read_listing(json.dumps(answer()).encode(), "https://hub")
    assert found.commit == COMMIT and found.files["m.gguf"].sha256 == "c" * 64
    assert read_listing(json.dumps(answer(siblings=None)).encode(), "x").files == {}
    assert read_listing(json.dumps(answer(file_size=None)).encode(), "x").files == {}
    for name in ("../x", "/x", "a/../../x", "a\\x", "a\0b", ""):
        assert read_listing(json.dumps(answer(file_rfilename=name)).encode(), "x").files == {}


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_listing_that_unfolds(hub: HubServer, opened: Open, encoding: str) -> None:
    """2 GiB of blanks in 2 MB."""
    pack = zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    blanks = b" " * (1 << 20)
    first, again = (pack.compress(blanks) + pack.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    bomb = first + again * 2047  # after a full flush nothing refers back, so it may be repeated
    assert len(bomb) < 3 << 20
    head = {"Content-Encoding": encoding}
    hub.faults.append(Fault("answer", "^hub/api", times=9, headers=head, status=200, body=bomb))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "more than 67,108,864 bytes" in refusal(opened, "hf:org/r")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10  # KiB
    assert len(hub.requests("^hub/api")) == 1


def test_a_compressed_listing_is_read(hub: HubServer, opened: Open) -> None:
    body = zlib.compress(json.dumps(answer()).encode())
    hub.faults.append(Fault("answer", "^hub/api", headers={"Content-Encoding": "deflate"}, status=200, body=body))
    with pytest.raises(RemoteError, match="no such"):  # the listing is good, the file is not there
        opened("hf:org/r:m.gguf")
    hub.faults.append(Fault("answer", "^hub/api", headers={"Content-Encoding": "br"}, status=200, body=body))
    assert "compresses" in refusal(opened, "hf:org/r")


# -- slow servers -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "where"), [("drip", "file"), ("drip-head", "file"), ("drip-head", "listing")])
def test_a_server_that_drips(hub: HubServer, opened: Open, plain: str, kind: str, where: str) -> None:
    """A byte comes often enough for the limit of each read, for hours."""
    path, skip = ("^cdn/plain", 1) if where == "file" else ("^hub/api", 0)
    hub.faults.append(Fault(kind, path, times=99, skip=skip, after=0.05))
    began = time.monotonic()
    text = refusal(opened, plain if where == "file" else f"hf:{REPO}", options=DRIPPED)
    assert "fewer than 1,000 bytes per second" in text or "response headers take too long" in text
    assert time.monotonic() - began < 120


def test_a_reader_that_is_slow_is_not_the_servers_fault(hub: HubServer, opened: Open, plain: str) -> None:
    """--limit-rate below the least rate is the user's wish."""
    slow = Options(backoff_s=0.005, n_retries=0, timeout_s=30, slow_s=0.2, least_rate=1e6, limit_rate=400_000)
    assert opened(plain, slow).model is not None


def test_within() -> None:
    assert within(30, lambda: 5, lambda n: None) == 5
    with pytest.raises(ZeroDivisionError):
        within(30, lambda: 1 // 0, lambda n: None)
    go, dropped = threading.Event(), threading.Event()
    with pytest.raises(TooSlow):
        within(0.05, lambda: go.wait(30), lambda result: dropped.set())
    assert not dropped.is_set()
    go.set()
    assert dropped.wait(30)


# -- certificates -----------------------------------------------------------------------------------------------------


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, *args: object) -> None:
        pass


@pytest.fixture
def self_signed() -> Iterator[tuple[str, list[int]]]:
    """A server whose certificate nobody signed: its address, and a mark for every connection."""
    tries: list[int] = []

    class Server(_Quiet):
        def get_request(self) -> tuple[socketserver._AfInetAddress, object]:  # type: ignore[override]
            tries.append(1)
            return super().get_request()  # type: ignore[return-value]

    server = Server(("127.0.0.1", 0), BaseHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ROOT / "tests" / "data" / "tls" / "self-signed.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_address[1]}", tries
    server.shutdown()
    server.server_close()


def test_a_certificate_that_is_not_accepted_is_said_at_once(opened: Open, self_signed: tuple[str, list[int]]) -> None:
    url, tries = self_signed
    text = refusal(opened, f"{url}/x.gguf")
    assert "certificate is not accepted" in text and "SSL_CERT_FILE" in text
    assert len(tries) == 1


def test_a_server_without_tls_is_said_at_once(hub: HubServer, opened: Open, plain: str) -> None:
    assert "no secure connection" in refusal(opened, plain.replace("http:", "https:"))


@pytest.mark.parametrize("url", ["http://h:99999/x.gguf", "http://h:abc/x.gguf", "http:///x.gguf",
                                 "http://" + "a" * 300 + ".example/x.gguf"])  # fmt: skip
def test_addresses_of_the_user_that_are_none(url: str) -> None:
    with pytest.raises(UsageError, match="has no host"):
        parse_source(url)
