"""Whether a server can listen where a user wants it to, before a model is loaded."""

from __future__ import annotations

import errno
import os
import socket

from nextn.errors import UsageError


def check_port(host: str, port: int) -> None:
    """Raise UsageError for a port that another program uses, and for an address that is not this machine's.

    What only the server can find out is left to it.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError:
        raise UsageError(f"--host: '{host}' is not an address; write 127.0.0.1, or 0.0.0.0 for all networks.") from None
    with socket.socket(family, kind, protocol) as probe:
        if os.name == "posix":  # as servers do: a connection that was just closed does not count
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                other = port + 1 if port < 65535 else port - 1
                raise UsageError(
                    f"--port: {port} is in use on {host}, perhaps by a server that still runs; stop it, or choose "
                    f"another port, such as --port {other}."
                ) from None
            if error.errno == errno.EACCES:
                raise UsageError(f"--port: {port} is not allowed here; choose one above 1023.") from None
            if error.errno == errno.EADDRNOTAVAIL:
                raise UsageError(f"--host: {host} is not an address of this machine; write 127.0.0.1.") from None
