"""The HTTP that a child process with llama.cpp's library in it answers on: JSON, on the loopback interface."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, TypeAlias

from nextn.engines.child import on_stop
from nextn.engines.http import LOOPBACK

Answers: TypeAlias = Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]]  # path -> what a POST there does


def serve(answers: Answers) -> None:
    """Answer `GET /health` and POSTs until SIGTERM; the port is printed to standard error.

    RuntimeError and OSError become an answer with status 500.
    """
    server = HTTPServer((LOOPBACK, 0), _handler(answers))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_stop)
    os.write(2, f"\nnextn: listening on port {server.server_port}\n".encode())
    server.serve_forever()


def _handler(answers: Answers) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200 if self.path == "/health" else 404, {"status": "ok"})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                answer = answers[self.path](asked)
            except (RuntimeError, OSError) as error:
                self._send(500, {"error": {"message": str(error)}})
            else:
                self._send(200, answer)

        def _send(self, status: int, payload: dict[str, Any]) -> None:
            body = json.dumps(payload).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing of requests."""

    return Handler
