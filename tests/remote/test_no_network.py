"""Without a network that is said at once, in one sentence: other attempts are for transfers that once worked."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
from hub_server import HubServer

import nextn
from conftest import CHECKPOINT, Q4
from nextn.errors import RemoteError
from nextn.remote.address import HubSource, UrlSource
from nextn.remote.http import Options
from nextn.remote.model import Remote
from nextn.remote.snapshot import open_remote

PROMPT_S = 2.0


@pytest.fixture
def black_hole() -> Iterator[str]:
    """An address that never answers: a listener whose queue is full drops all that comes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(4):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        for each in waiting:
            each.close()


def closed_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{found.getsockname()[1]}"


def refused(source: HubSource | UrlSource, tmp_path: Path, endpoint: str | None = None) -> tuple[str, float]:
    began = time.monotonic()
    with pytest.raises(RemoteError) as caught:
        open_remote(source, root=tmp_path / "cache", endpoint=endpoint)
    took_s = time.monotonic() - began
    text = str(caught.value)
    assert "\n" not in text and text.endswith("or name a local file."), text
    return text, took_s


def test_a_closed_port(tmp_path: Path) -> None:
    for source, endpoint in ((HubSource("org/name"), closed_port()), (UrlSource(closed_port() + "/x.gguf"), None)):
        text, took_s = refused(source, tmp_path, endpoint)
        assert "no connection to 127.0.0.1 (it refuses the connection)" in text and took_s < PROMPT_S


@pytest.mark.slow
def test_an_address_that_never_answers(black_hole: str, tmp_path: Path) -> None:
    text, took_s = refused(HubSource("org/name"), tmp_path, black_hole)
    assert text.startswith("hf:org/name: no connection to 127.0.0.1 (it does not answer within 1.5 s)")
    assert "HF_HUB_ETAG_TIMEOUT" in text and took_s < PROMPT_S


@pytest.mark.slow
def test_a_slow_network_can_have_more_time(black_hole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "2")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 2)
    assert "within 2 s" in refused(HubSource("org/name"), tmp_path, black_hole)[0]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["unknown", "silent"])
def test_a_resolver_that_fails(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object, **__: object) -> list[object]:
        if how == "silent":
            time.sleep(4)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    text, took_s = refused(HubSource("org/name"), tmp_path, "http://hub.invalid")
    why = "its name cannot be resolved" if how == "unknown" else "it does not answer within 1.5 s"
    assert f"no connection to hub.invalid ({why})" in text and took_s < PROMPT_S


def test_a_proxy_that_is_not_there_is_named(
    hub: HubServer, run_nextn: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    proxy = closed_port()
    done = run_nextn("inspect", "hf:org/name", HTTP_PROXY=proxy, http_proxy=proxy, NO_PROXY="", no_proxy="")
    assert done.returncode == 23 and "no connection to 127.0.0.1 (it refuses the connection)" in done.stderr
    assert hub.requests() == []


def test_what_once_worked_is_tried_again(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that cannot be resolved for a moment, in the middle of a transfer."""
    hub.add_folder("org/name", CHECKPOINT)
    options = Options(backoff_s=0.005, n_retries=3)
    remote: Remote = open_remote(HubSource("org/name"), root=tmp_path, endpoint=hub.endpoint, options=options)
    real, failures = socket.getaddrinfo, [1, 2]

    def resolve(*args: object, **more: object) -> object:
        if failures:
            failures.pop()
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    huggingface_hub.close_session()  # its connections are kept alive, so that no name is resolved again
    with remote:
        remote.fetch([remote.whole("tokenizer.json")])
    assert failures == []


@pytest.mark.slow
def test_attach_without_a_donor_says_it_as_fast(
    black_hole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several guesses are not several waits."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", black_hole)
    monkeypatch.setenv("NEXTN_CACHE", str(tmp_path / "cache"))
    path = tmp_path / Q4.name
    path.symlink_to(Q4)
    began = time.monotonic()
    with pytest.raises(RemoteError, match=r"no donor was named.*no connection to 127") as caught:
        nextn.attach(path)
    assert time.monotonic() - began < PROMPT_S + 1 and str(caught.value).endswith("name one with --from.")
