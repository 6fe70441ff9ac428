"""A role's connection to the bus: publish, request, serve, subscribe, all in terms of messages.

Responsible for the connection and for turning bytes into messages and back. A malformed message is logged and dropped
here; it never reaches a handler.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from edgeward.bus import lean  # noqa: F401

# isort: split

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from edgeward.bus import bulk, reading
from edgeward.messages import M, Message, MessageError, Refused, decode, decode_one_of, encode

_log = logging.getLogger("edgeward.bus")


class BusError(Exception):
    """The bus did not do what was asked."""


class NoAnswer(BusError):
    """Nobody answered in time, or nobody is there to answer."""


class Bus:
    """One role's connection. Made by ``connect``."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def client(self) -> Client:
        """The connection itself, for other files of ``bus``."""
        return self._client

    @property
    def connected(self) -> bool:
        """Whether the server is there now."""
        return bool(self._client.is_connected)

    @property
    def reconnects(self) -> int:
        """How often the connection was lost and found again: answers under way at that time are lost."""
        return int(self._client.stats["reconnects"])

    async def publish(self, subject: str, message: Message) -> None:
        """Publish; at most once. While the server is away, messages are kept up to the client's buffer, then refused.

        Raises
        ------
        BusError
            If the connection is closed or its buffer is full.
        """
        try:
            await self._client.publish(subject, encode(message))
        except (nats.errors.Error, OSError) as error:
            raise BusError(f"cannot publish on {subject}: {error or type(error).__name__}") from error

    async def publish_raw(self, subject: str, payload: bytes) -> None:
        """Publish a payload that is not a message of ours.

        Raises
        ------
        BusError
            If the connection is closed or the payload is too large.
        """
        try:
            await self._client.publish(subject, payload)
        except (nats.errors.Error, OSError) as error:
            raise BusError(f"cannot publish on {subject}: {error or type(error).__name__}") from error

    async def request(self, subject: str, message: Message, answer: Any, timeout_s: float) -> Any:
        """Send a request and return its answer, a message of type `answer` (a type or a union).

        Raises
        ------
        NoAnswer
            If there is nobody, or no answer within `timeout_s`.
        MessageError
            If the answer is none of the expected types.
        BusError
            If the server refuses.
        """
        try:
            reply = await self._client.request(subject, encode(message), timeout=timeout_s)
        except (nats.errors.TimeoutError, nats.errors.NoRespondersError, TimeoutError) as error:
            raise NoAnswer(f"no answer on {subject} within {timeout_s:g} s") from error
        except (nats.errors.Error, OSError) as error:
            raise NoAnswer(f"cannot ask on {subject}: {error or type(error).__name__}") from error
        return decode_one_of(answer, reply.data)

    async def serve(
        self, subject: str, kind: type[M], handler: Callable[[M], Awaitable[Message]], queue: str = ""
    ) -> None:
        """Answer requests on `subject`; each runs in its own task.

        A request that is not a `kind`, or a handler that raises, is answered with ``Refused``.
        """

        async def answer(message: Msg) -> None:
            try:
                result: Message = await handler(decode(kind, message.data))
            except MessageError as error:
                _log.warning("malformed request on %s: %s", subject, error)
                result = Refused(reason=str(error))
            except Exception as error:
                _log.exception("request on %s failed", subject)
                result = Refused(reason=f"{type(error).__name__}: {error}")
            if message.reply:
                try:
                    await message.respond(encode(result))
                except (nats.errors.Error, OSError) as error:
                    _log.warning("the answer on %s could not be sent: %s", subject, error or type(error).__name__)

        async def receive(message: Msg) -> None:
            self._spawn(answer(message))

        await self._client.subscribe(subject, queue=queue, cb=receive)

    async def subscribe(self, subject: str, kind: type[M], handler: Callable[[str, M], Awaitable[None]]) -> None:
        """Call `handler` with subject and message, in order."""

        async def receive(message: Msg) -> None:
            try:
                value = decode(kind, message.data)
            except MessageError as error:
                _log.warning("malformed message on %s: %s", subject, error)
                return
            try:
                await handler(message.subject, value)
            except Exception:
                _log.exception("handler of %s failed", subject)

        await self._client.subscribe(subject, cb=receive)

    async def subscribe_raw(self, subject: str, handler: Callable[[str, bytes], None]) -> None:
        """Call `handler` with subject and payload, in order; for streams whose payload is not a message."""

        async def receive(message: Msg) -> None:
            try:
                handler(message.subject, message.data)
            except Exception:
                _log.exception("handler of %s failed", subject)

        await self._client.subscribe(subject, cb=receive)

    @property
    def full(self) -> bool:
        """Whether bulk subscriptions bring more than is read: we are behind."""
        return self._bulk is not None and self._bulk.reading.full

    def gather(self, seconds: float = reading.GATHER_S) -> None:
        """Take what bulk subscriptions bring together for so long: whoever is in no hurry need not wake so often."""
        if self._bulk is not None:
            self._bulk.reading.gather_s = seconds

    async def subscribe_bulk(self, subject: str, handler: Callable[[bulk.Batch], None]) -> None:
        """Call `handler` with all subjects and payloads that arrived together, in order.

        For streams of many small messages, whose payload is not a message of ours.

        Messages are taken some milliseconds after their arrival at most (``reading``).
        """

        def receive(batch: bulk.Batch) -> None:
            try:
                handler(batch)
            except Exception:
                _log.exception("handler of %s failed", subject)

        async def never(message: Msg) -> None:
            receive([(message.subject, message.data)])

        # Before the subscription is made, or its first messages would go another way and could be overtaken.
        self._bulk = bulk.install(self._client)
        self._bulk.add_next(receive)
        await self._client.subscribe(subject, cb=never)

    async def serve_raw(self, subject: str, handler: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Answer requests whose payload is not a message of ours (the server's own callouts)."""

        async def answer(message: Msg) -> None:
            try:
                await message.respond(await handler(message.data))
            except Exception:
                _log.exception("request on %s failed", subject)

        async def receive(message: Msg) -> None:
            self._spawn(answer(message))

        await self._client.subscribe(subject, cb=receive)

    async def request_raw(self, subject: str, payload: bytes, timeout_s: float) -> bytes:
        """Send a request whose payload is not a message of ours.

        Raises
        ------
        NoAnswer
            If nobody answered in time.
        """
        try:
            return bytes((await self._client.request(subject, payload, timeout=timeout_s)).data)
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise NoAnswer(f"no answer on {subject} within {timeout_s:g} s") from error

    async def flush(self, timeout_s: float = 2.0) -> None:
        """Wait until the server has everything published and subscribed to so far.

        Raises
        ------
        BusError
            If it does not answer in time.
        """
        try:
            # The client's PING overtakes what waits to be written (nats-py 2.16): its answer only says that this was
            # written since. The answer to a second one says that the server has read it.
            for _ in range(2):
                await self._client.flush(timeout=int(max(1, timeout_s)))
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise BusError("the bus does not answer") from error

    async def close(self) -> None:
        """Stop serving, wait for handlers at work (at most 2 s), and disconnect."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=2.0)
        for task in self._tasks:
            task.cancel()
        try:
            await asyncio.wait_for(self._client.close(), 2.0)
        except (nats.errors.Error, TimeoutError, OSError, AttributeError) as error:
            # AttributeError: asyncio's TLS transport, when the server was killed and the socket is gone already.
            _log.info("the bus was gone already at closing: %s", error or type(error).__name__)

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def connect(
    url: str,
    *,
    name: str,
    seed: str,
    tls: ssl.SSLContext,
    inbox: str,
    on_change: Callable[[bool], None] | None = None,
    patience_s: float = 15.0,
) -> Bus:
    """Connect to the bus, and stay connected: the client reconnects by itself, for ever.

    Parameters
    ----------
    seed
        The role's nkey seed.
    inbox
        Prefix of the role's own inbox.
    on_change
        Called with True when the connection is there (again) and with False when it is lost.
    patience_s
        How long to try at first.

    Raises
    ------
    BusError
        If no connection could be made within `patience_s`.
    """

    async def lost() -> None:
        if on_change:
            on_change(False)

    async def back() -> None:
        if on_change:
            on_change(True)

    async def error(problem: Exception) -> None:
        # nats-py reports every failed attempt; the change of state is what is worth a line.
        _log.debug("bus: %s", problem)

    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    while True:
        try:
            client = await nats.connect(
                servers=[url],
                name=name,
                nkeys_seed_str=seed,
                tls=tls,
                tls_hostname="localhost" if "127.0.0.1" in url else None,
                inbox_prefix=inbox,
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.1,
                connect_timeout=3,
                ping_interval=10,
                max_outstanding_pings=2,
                pending_size=32 * 1024 * 1024,
                error_cb=error,
                disconnected_cb=lost,
                reconnected_cb=back,
            )
        except (nats.errors.Error, OSError, TimeoutError) as problem:
            if loop.time() > deadline:
                reason = problem or type(problem).__name__
                raise BusError(f"cannot connect to the bus at {url} as {name}: {reason}") from problem
            await asyncio.sleep(0.1)
            continue
        return Bus(client)
