"""Choosing a free port to listen on.

Responsible for choosing outside the range from which the kernel takes the source ports of outgoing connections (Linux:
32768 to 60999 by default). A listener there can find its port taken between choosing and binding, or after it was
killed and before it is started again.
"""

from __future__ import annotations

import random
import socket

_LOW, _HIGH = 20_000, 32_000
_TRIES = 200


def can_listen(host: str, port: int) -> OSError | None:
    """Return None if `port` on `host` can be listened on now, else why not."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def free_port(host: str = "127.0.0.1", *, preferred: int = 0, avoid: frozenset[int] | set[int] = frozenset()) -> int:
    """Return `preferred` if it is free, else a free port that is none of `avoid`.

    Raises
    ------
    OSError
        If no free port was found.
    """
    if preferred and preferred not in avoid and can_listen(host, preferred) is None:
        return preferred
    for _ in range(_TRIES):
        port = random.randint(_LOW, _HIGH)
        if port not in avoid and can_listen(host, port) is None:
            return port
    raise OSError(f"found no free port on {host} between {_LOW} and {_HIGH}")
