"""The HTTP client for every engine, on the loopback interface only."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Mapping
from typing import Any

from nextn.errors import EngineFailed

LOOPBACK = "127.0.0.1"
MAX_ANSWER_BYTES = 16 << 20  # 1,000 tokens with 100 probabilities each take 10 MB
_QUOTE_CHARS, _QUOTE_BYTES = 300, 4000


class Client:
    """Requests to one engine, one connection per request; proxies in the environment are ignored."""

    def __init__(self, port: int, *, timeout_s: float) -> None:
        self.port = port
        self.timeout_s = timeout_s

    def healthy(self) -> bool:
        """Whether the engine answers `/health` with 200: the model is loaded."""
        try:
            status, _ = self._request("GET", "/health", None, 5.0)
        except (OSError, http.client.HTTPException, EngineFailed):
            return False
        return status == http.client.OK

    def post(self, path: str, payload: Mapping[str, object]) -> dict[str, Any]:
        """The JSON object returned for `payload`.

        Raises EngineFailed: the connection broke, no complete answer in `timeout_s` seconds, an endless one, a status
        other than 200 (the engine's message is its `line`), or not a JSON object.
        """
        answer = self._json(path, payload)
        if not isinstance(answer, dict):
            raise EngineFailed("answered JSON that is not an object", line=str(answer)[:_QUOTE_CHARS])
        return answer

    def post_all(self, path: str, payload: Mapping[str, object]) -> list[dict[str, Any]]:
        """The JSON objects returned for a `payload` of several prompts, one each. Raises as `post` does."""
        answers = self._json(path, payload)
        if not isinstance(answers, list) or not all(isinstance(one, dict) for one in answers):
            raise EngineFailed("answered JSON that is not a list of objects", line=str(answers)[:_QUOTE_CHARS])
        return answers

    def _json(self, path: str, payload: Mapping[str, object]) -> Any:
        try:
            status, body = self._request("POST", path, json.dumps(payload).encode(), self.timeout_s)
        except TimeoutError as error:
            raise EngineFailed(f"gave no answer within {self.timeout_s:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise EngineFailed("broke the connection") from error
        if status != http.client.OK:
            line = _message(body)
            raise EngineFailed(f"answered HTTP {status}: {line}", line=line)
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            line = body[:_QUOTE_CHARS].decode("utf-8", "replace")
            raise EngineFailed(f"answered something that is not JSON: {line!r}", line=line) from error

    def _request(self, method: str, path: str, body: bytes | None, timeout_s: float) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=timeout_s)
        late = threading.Event()

        def hang_up(held: socket.socket) -> None:
            late.set()
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)

        timer: threading.Timer | None = None
        try:
            connection.connect()
            timer = threading.Timer(timeout_s, hang_up, [connection.sock])  # the socket's own limit is per read
            timer.daemon = True
            timer.start()
            headers = {"Content-Type": "application/json", "Connection": "close"}
            connection.request(method, path, body, headers)
            with connection.getresponse() as answer:
                data = answer.read(MAX_ANSWER_BYTES + 1)
                if answer.length and len(data) <= MAX_ANSWER_BYTES:
                    raise http.client.IncompleteRead(data, answer.length)
                status = answer.status
        except (OSError, http.client.HTTPException) as error:
            if late.is_set():
                raise TimeoutError from error
            raise
        finally:
            if timer is not None:
                timer.cancel()
            connection.close()
        if late.is_set():
            raise TimeoutError
        if len(data) > MAX_ANSWER_BYTES:
            raise EngineFailed(f"gave an answer of more than {MAX_ANSWER_BYTES:,} bytes")
        return status, data


def _message(body: bytes) -> str:
    """The engine's own words in an error answer."""
    try:
        error = json.loads(body)["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError, RecursionError):
        text = body[:_QUOTE_BYTES].decode("utf-8", "replace")
    return " ".join(str(text)[:_QUOTE_BYTES].split())[:_QUOTE_CHARS]
