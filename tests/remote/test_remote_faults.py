"""Servers that misbehave: every case is either handled, or ends in one sentence; what arrived is always right."""

from __future__ import annotations

import email.utils
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import Fault, HubServer

from conftest import CHECKPOINT
from nextn.block.from_checkpoint import block_from_checkpoint
from nextn.errors import FormatError, NextnError, RemoteError
from nextn.remote.address import HubSource, UrlSource, parse_source
from nextn.remote.headers import retry_after
from nextn.remote.http import Options
from nextn.remote.model import Remote
from nextn.remote.snapshot import open_remote
from nextn.remote.target import NotThere
from nextn.sources.checkpoint import open_checkpoint
from nextn.sources.ranges import FileRange

REPO = "org/tiny-qwen35-mtp"
FAST = Options(backoff_s=0.005, n_retries=3, timeout_s=2)
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


def ranges(remote: Remote) -> list[FileRange]:
    assert remote.checkpoint is not None
    return block_from_checkpoint(remote.checkpoint).ranges


def content(places: list[FileRange]) -> list[bytes]:
    return [where.path.read_bytes()[where.start : where.end] for where in places]


def truth() -> list[bytes]:
    block = block_from_checkpoint(open_checkpoint(CHECKPOINT))
    return content(block.ranges)


def one_sentence(error: NextnError) -> str:
    text = str(error)
    assert "\n" not in text and text.endswith("."), text
    return text


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", "^cdn", times=2, status=503),
        Fault("status", "^cdn", status=500),
        Fault("status", "^cdn", status=502),
        Fault("status", "^cdn", status=429, headers={"Retry-After": "0"}),
        Fault("status", "^cdn", status=403),
        Fault("drop", "^cdn", after=0),
        Fault("drop", "^cdn", after=700_000),
        Fault("drop", "^cdn", times=5, after=400_000),  # each time on from where it broke
        Fault("short", "^cdn", times=2),
        Fault("long", "^cdn", times=2),
        Fault("length", "^cdn", times=2),
        Fault("range", "^cdn", times=2),
        Fault("no-range", "^cdn", times=2),
        Fault("part", "^cdn", times=4),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status if fault.kind == 'status' else int(fault.after)}x{fault.times}",
)
def test_what_passes_is_gone_through(hub: HubServer, opened: Open, fault: Fault) -> None:
    remote = opened()
    places = ranges(remote)
    hub.faults.append(fault)
    remote.fetch(places)
    assert fault.times == 0
    assert content(places) == truth()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault("status", "^cdn", times=99, status=503), "given up after 4 attempt.*answers 503"),
        (Fault("status", "^cdn", status=429, headers={"Retry-After": "4000"}), "asks to wait 4,000 s"),
        (Fault("status", "^(cdn|hub)", times=99, status=403), "403"),
        (Fault("status", "^cdn", times=99, status=418), "418"),
        (Fault("whole", "^cdn"), "whole files only"),
        (Fault("html", "^cdn"), "whole files only"),
        (Fault("total", "^cdn"), "changed on the server"),
        (Fault("short", "^cdn", times=99), "given up.*too early"),
        (Fault("long", "^cdn", times=99), "given up.*more bytes than it announced"),
        (Fault("length", "^cdn", times=99), "given up.*announces"),
        (Fault("range", "^cdn", times=99), "given up.*asked for"),
        (Fault("no-range", "^cdn", times=99), "given up.*does not say which bytes"),
        (Fault("drop", "^cdn", times=99, after=0), "given up after 4"),
        (Fault("gzip", "^cdn"), "compresses"),
        (Fault("redirect", "^cdn", times=99, headers={"Location": "ftp://x/y"}), "not secure"),
    ],
    ids=lambda value: value.kind + str(value.status) if isinstance(value, Fault) else "",
)
def test_what_stays_is_one_sentence_and_the_next_run_is_right(
    hub: HubServer, opened: Open, fault: Fault, text: str
) -> None:
    remote = opened()
    places = ranges(remote)
    hub.faults.append(fault)
    with pytest.raises(RemoteError, match=text) as caught:
        remote.fetch(places)
    assert REPO in one_sentence(caught.value)
    remote.__exit__()
    hub.reset()
    again = opened()
    again.fetch(ranges(again))
    assert content(ranges(again)) == truth()


def test_an_expired_address_is_renewed(hub: HubServer, opened: Open) -> None:
    remote = opened()
    places = ranges(remote)
    remote.fetch(places[:1])
    hub.reset()
    hub.expire_signatures()
    remote.fetch(places)
    assert [seen.status for seen in hub.requests()] == [403, 302, 206]
    assert content(places) == truth()


def test_a_broken_run_goes_on_where_it_broke(hub: HubServer, opened: Open) -> None:
    remote = opened()
    places = ranges(remote)
    total = sum(where.size_bytes for where in places)
    before = hub.file_bytes()
    hub.faults += [Fault("drop", "^cdn", after=1_500_000), Fault("status", "", times=99)]
    with pytest.raises(RemoteError, match="what was downloaded is kept"):
        remote.fetch(places)
    remote.__exit__()
    arrived = hub.file_bytes() - before
    hub.reset()
    again = opened()
    left = again.missing_bytes(ranges(again))
    assert total - arrived <= left <= total - arrived + (1 << 17)
    assert again.fetch(ranges(again)) == left == hub.file_bytes()
    assert content(places) == truth()


def test_a_file_that_changes_under_way(hub: HubServer, opened: Open) -> None:
    remote = opened()
    places = ranges(remote)
    hub.expire_signatures()
    hub.faults.append(Fault("etag", "^hub"))
    with pytest.raises(RemoteError, match="changed on the server while it was read"):
        remote.fetch(places)


def test_a_plain_file_that_changes_under_way(hub: HubServer, opened: Open) -> None:
    for path in CHECKPOINT.iterdir():
        url = hub.serve_plain(f"t/{path.name}", path.read_bytes())
    remote = opened(url.rpartition("/")[0] + "/config.json")
    places = ranges(remote)
    hub.faults.append(Fault("etag", "safetensors"))
    with pytest.raises(RemoteError, match="changed on the server"):
        remote.fetch(places)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_whole_file_is_checked_against_the_hash(hub: HubServer, opened: Open, name: str) -> None:
    hub.faults.append(Fault("corrupt", "^cdn" if name == "tokenizer.json" else "config.json$"))
    with pytest.raises(RemoteError, match=r"git hash|sha256") as caught:
        opened().provide(name)
    assert "run it again" in one_sentence(caught.value)
    remote = opened()
    remote.provide(name)
    assert (remote.folder / name).read_bytes() == (CHECKPOINT / name).read_bytes()


def test_a_weight_file_that_is_read_whole_is_checked_too(hub: HubServer, opened: Open) -> None:
    remote = opened()
    remote.provide("model.safetensors")
    path = remote.folder / "model.safetensors"
    size = path.stat().st_size
    hub.faults.append(Fault("corrupt", "^cdn"))
    with pytest.raises(RemoteError, match="sha256"):
        remote.fetch([FileRange(path, 0, size)])
    remote.fetch([FileRange(path, 0, size)])
    assert path.read_bytes() == (CHECKPOINT / "model.safetensors").read_bytes()


def test_the_api_is_asked_again(hub: HubServer, opened: Open) -> None:
    hub.faults += [Fault("status", "api/models", status=502), Fault("status", "api/models", status=429)]
    assert opened().revision is not None
    hub.faults.append(Fault("status", "api/models", times=99, status=500))
    with pytest.raises(RemoteError, match="given up after 4 attempt"):
        opened()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hf:org/nothing", "there is no such model repository"),
        (f"hf:{REPO}@v9", "no branch, tag or commit 'v9'"),
        ("hf:org/a..b", "not a repository name|no such model repository"),
    ],
)
def test_names_that_the_hub_does_not_know(opened: Open, name: str, text: str) -> None:
    with pytest.raises(NextnError, match=text) as caught:
        opened(name)
    one_sentence(caught.value)


def test_a_host_that_is_not_the_hub(hub: HubServer, opened: Open) -> None:
    hub.faults.append(Fault("html", "api/models"))
    with pytest.raises(RemoteError, match="check HF_ENDPOINT"):
        opened()


def test_nobody_listens(opened: Open) -> None:
    with pytest.raises(RemoteError, match=r":9/x\.gguf: no connection to 127\.0\.0\.1 \(it refuses") as caught:
        opened("http://127.0.0.1:9/x.gguf?secret=1")
    assert "secret" not in one_sentence(caught.value)


def test_a_plain_address_of_nothing(hub: HubServer, opened: Open) -> None:
    with pytest.raises(NotThere, match="no such file"):
        opened(hub.serve_plain("x.gguf", b"") + "y.gguf")
    with pytest.raises(NextnError, match=r"neither a \.gguf"):
        opened(hub.serve_plain("page.html", b"<html>"))
    with pytest.raises(FormatError, match="this is a saved web page"):
        opened(hub.serve_plain("x.gguf", b"<!doctype html>" * 99))
    hub.faults.append(Fault("status", "plain", status=403))
    with pytest.raises(RemoteError, match="may have expired"):
        opened(hub.serve_plain("z.gguf", b"GGUF"))


def test_a_server_without_ranges(opened: Open, tmp_path: Path) -> None:
    """Python's own file server sends whole files only."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(CHECKPOINT))  # type: ignore[arg-type]

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        remote = opened(f"http://127.0.0.1:{server.server_address[1]}/")  # small files are read whole
        with pytest.raises(RemoteError, match="whole files only"):
            ranges(remote)
        server.shutdown()


def test_credentials_in_an_address_stay_at_their_host(hub: HubServer, opened: Open) -> None:
    other = hub.serve_plain("x/config.json", (CHECKPOINT / "config.json").read_bytes())
    hub.faults.append(Fault("redirect", "^hub/x/config", times=99, headers={"Location": other}))
    opened(hub.endpoint.replace("http://", "http://me:secret@") + "/x/config.json")
    assert all(seen.headers["authorization"].startswith("Basic ") for seen in hub.requests("^hub"))
    assert len(hub.requests("^cdn")) == 2
    assert not any("authorization" in seen.headers for seen in hub.requests("^cdn"))


def test_an_answer_that_never_comes(hub: HubServer, opened: Open) -> None:
    remote = opened(options=Options(backoff_s=0.005, n_retries=1, timeout_s=0.2))
    places = ranges(remote)
    hub.faults.append(Fault("slow", "^cdn", times=1, after=0.6))
    remote.fetch(places)
    assert content(places) == truth()


def test_an_interrupt_keeps_what_arrived(hub: HubServer, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextn.remote.model.PIECE_BYTES", (1 << 16, 1 << 17))
    remote = opened()
    places = ranges(remote)

    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remote.fetch(places, interrupt)
    assert not remote.fetcher.stop.is_set()
    left = remote.missing_bytes(places)
    assert 0 < left < sum(where.size_bytes for where in places)
    assert remote.fetch(places) == left
    assert content(places) == truth()


@pytest.mark.slow
@pytest.mark.parametrize("at", range(1, 12))
def test_a_progress_that_raises_never_shifts_a_byte(hub: HubServer, opened: Open, at: int) -> None:
    """The error comes when the bytes are written: they are neither lost nor written again behind themselves."""
    remote = opened(options=Options(backoff_s=0.005, n_retries=3, timeout_s=5, n_streams=1))
    places, n_calls = ranges(remote), 0

    def fail(done: int, total: int) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls == at + 1:  # the first is that of the beginning
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remote.fetch(places, fail)
    remote.fetch(places)
    assert content(places) == truth()


def test_how_long_to_wait() -> None:
    assert retry_after({"retry-after": "7"}) == 7
    soon = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 25 < (retry_after({"retry-after": soon}) or 0) <= 30
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({"ratelimit": '"api";r=0;t=55'}) == 55
    assert retry_after({"ratelimit": '"api";r=3;t=55'}) is None
    assert retry_after({}) is None
