"""Proxies from the environment carry every request, those to the Hub and those to any other server."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hub_server import HubServer, running

from conftest import CHECKPOINT, TinyModels


class Proxy(ThreadingHTTPServer):
    """Forwards GET and HEAD of absolute addresses, and remembers them."""

    daemon_threads = True

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None]] = []  # address, Proxy-Authorization
        super().__init__(("127.0.0.1", 0), _Forward)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def address(self, user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.server_address[1]}"


class _Forward(BaseHTTPRequestHandler):
    server: Proxy

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        there = urlsplit(self.path)
        self.server.seen.append((self.path, self.headers.get("Proxy-Authorization")))
        link = http.client.HTTPConnection(there.hostname or "", there.port or 80, timeout=30)
        path = there.path + (f"?{there.query}" if there.query else "")
        own = {name: value for name, value in self.headers.items() if not name.lower().startswith("proxy-")}
        link.request(self.command, path, headers=own)
        answer = link.getresponse()
        body = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = answer.getheader("content-length") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with running() as server:
        yield server


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as server:
        yield server
        server.shutdown()


def run(hub: HubServer, tmp_path: Path, *args: object, **more: str) -> dict[str, Any]:
    left_out = ("HF_", "NEXTN_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
    env = {name: value for name, value in os.environ.items() if not name.upper().startswith(left_out)}
    env["NEXTN_DATA"] = os.environ["NEXTN_DATA"]
    env |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "NEXTN_CACHE": str(tmp_path / "own")}
    command = [sys.executable, "-m", "nextn", *map(str, args), "--json"]
    done = subprocess.run(command, env=env | more, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_all_requests_take_the_proxy(hub: HubServer, proxy: Proxy, tiny_models: TinyModels, tmp_path: Path) -> None:
    hub.add_folder("org/tiny", CHECKPOINT)
    url = hub.serve_plain("m/model.gguf", tiny_models.bundled.read_bytes())
    with_user = proxy.address("me:secret@")
    run(hub, tmp_path, "extract", "org/tiny", "-o", tmp_path / "a.gguf", HTTP_PROXY=with_user)
    run(hub, tmp_path, "inspect", url, HTTP_PROXY=with_user)
    direct = len(hub.requests())
    assert direct > 3 and len(proxy.seen) == direct
    assert {address.split("/")[2] for address, _ in proxy.seen} == {
        urlsplit(hub.address(host)).netloc for host in ("hub", "cdn")
    }
    assert all(sent == "Basic bWU6c2VjcmV0" for _, sent in proxy.seen)
    assert not any("proxy-authorization" in seen.headers for seen in hub.requests())


def test_no_proxy_is_obeyed(hub: HubServer, proxy: Proxy, tmp_path: Path) -> None:
    hub.add_folder("org/tiny", CHECKPOINT)
    run(hub, tmp_path, "inspect", "org/tiny", HTTP_PROXY=proxy.address(), NO_PROXY="127.0.0.1")
    assert hub.requests() and proxy.seen == []


class _Closed(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_CONNECT(self) -> None:
        self.send_response(407, "Proxy Authentication Required")
        self.send_header("Content-Length", "0")
        self.end_headers()


def test_a_proxy_that_wants_a_password(run_nextn: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Closed) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        proxy = f"http://me:secret@127.0.0.1:{server.server_address[1]}"
        done = run_nextn("inspect", "hf:org/x", HF_ENDPOINT="https://hub.test", HTTPS_PROXY=proxy, NO_PROXY="")
        server.shutdown()
    assert done.returncode == 23 and "secret" not in done.stderr
    assert "the proxy asks for a name and a password" in done.stderr and "HTTPS_PROXY=http://NAME:" in done.stderr


def test_a_pull_takes_the_proxy(hub: HubServer, proxy: Proxy, tiny_models: TinyModels, tmp_path: Path) -> None:
    hub.repo("org/quants").commit({"x-MTP-Q8_0.gguf": tiny_models.bundled.read_bytes()})
    data = run(hub, tmp_path, "pull", "org/quants", "-o", tmp_path / "out", HTTP_PROXY=proxy.address())
    assert Path(data["entry"]).read_bytes() == tiny_models.bundled.read_bytes()
    assert len(proxy.seen) == len(hub.requests())
