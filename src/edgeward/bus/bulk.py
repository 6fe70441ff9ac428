"""Takes streams of small messages from the bus in bulk: one call for all that arrived together.

Responsible for finding the messages of some subscriptions in what the server sent without one task switch for each, and
for reading a few milliseconds' worth at once. Everything else on the connection goes the client library's own way, in
order. Not responsible for the connection (``client``) or for what the messages mean.

The library parses one message, builds an object for it, and wakes a task with it: at thousands of small messages a
second that is most of what receiving costs. It has no door for this; `install` takes the place of its parser, which it
keeps as an attribute of the connection. A version of the library without that attribute is refused at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from edgeward.bus import lean  # noqa: F401

# isort: split

from nats.aio.client import Client
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from edgeward.bus.reading import Reading

#: Subject and payload of each message, in the order of their arrival.
Batch = list[tuple[str, bytes]]

_LINE_MOST = 1 << 20  # the server's longest line names all servers of a cluster
_CRLF = b"\r\n"
_MESSAGES = (b"MSG ", b"HMSG ")


class BulkParser(Parser):  # type: ignore[misc]  # the library is not typed
    """Parses what the server sends; messages of bulk subscriptions go to their handlers together.

    Parameters
    ----------
    client : Client
        Takes everything else.
    reading : Reading
        Is told how much came.
    """

    def __init__(self, client: Client, reading: Reading) -> None:
        super().__init__(client)
        self._handlers: dict[bytes, Callable[[Batch], None]] = {}
        self.reading = reading

    def reset(self) -> None:
        """Forget what was received in part: the connection is another one."""
        super().reset()
        self._rest = b""

    def add_next(self, handler: Callable[[Batch], None]) -> None:
        """Give the messages of the connection's next subscription to `handler`. It must not raise."""
        self._handlers[b"%d" % (self.nc._sid + 1)] = handler  # noqa: SLF001 - see `install`

    def begin_with(self, rest: bytes) -> None:
        """Take over what another parser holds of a message that has not come whole."""
        self._rest = rest

    async def parse(self, data: bytes = b"") -> None:
        """Take what came.

        Raises
        ------
        ProtocolError
            If the server says something that is not the protocol.
        """
        came = len(data)
        held = self._rest
        data = held + data if held else data
        at, size = 0, len(data)
        taken: Batch = []
        to: Callable[[Batch], None] | None = None
        count = length = 0
        while at < size:
            end = data.find(_CRLF, at)
            if end < 0:
                if size - at >= _LINE_MOST:
                    raise ProtocolError("a control line without an end")
                break
            stop = end + 2
            if data.startswith(_MESSAGES, at):
                words = data[at:end].split()
                try:
                    # MSG subject sid [answer] size, or HMSG subject sid [answer] headers size
                    first = end + 2 + (int(words[-2]) if words[0] == b"HMSG" else 0)
                    stop = end + 4 + int(words[-1])
                    sid = words[2]
                except (ValueError, IndexError) as error:
                    raise ProtocolError("a malformed MSG") from error
                if not end + 2 <= first <= stop - 2:
                    raise ProtocolError("a malformed MSG")
                if stop > size:
                    break
                handler = self._handlers.get(sid)
                if handler is not None:
                    if handler is not to:
                        self._give(to, taken)
                        taken, to = [], handler
                    # What MQTT devices publish comes with headers of the server's own, which say nothing here.
                    taken.append((words[1].decode("ascii", "replace"), data[first : stop - 2]))
                    count += 1
                    length += stop - 2 - first
                    at = stop
                    continue
            self._rest = b""
            self._give(to, taken)
            taken, to = [], None
            await super().parse(data[at:stop])
            at = stop
        self._rest = data[at:] if at else data
        self._give(to, taken)
        if count:
            stats: dict[str, int] = self.nc.stats
            stats["in_msgs"] += count
            stats["in_bytes"] += length
            self.reading.took(came)

    @staticmethod
    def _give(handler: Callable[[Batch], None] | None, batch: Batch) -> None:
        if handler is not None:
            handler(batch)


def install(client: Client) -> BulkParser:
    """Put a `BulkParser` into a connection, or return the one that is there.

    Raises
    ------
    RuntimeError
        If the library keeps no parser where it is looked for.
    """
    known: Any = getattr(client, "_ps", None)
    if isinstance(known, BulkParser):
        return known
    if not isinstance(known, Parser):
        raise RuntimeError(  # noqa: TRY004 - nobody passed a wrong argument
            "this version of nats-py keeps its parser elsewhere: see bus/bulk.py"
        )
    parser = BulkParser(client, Reading(client, asyncio.get_running_loop()))
    parser.begin_with(bytes(known.buf))
    client._ps = parser  # noqa: SLF001
    return parser
