"""A simulated wearable: samples at true speed, keeps what it cannot send, comes back by itself.

Responsible for one device's connection (MQTT 3.1.1 over TLS 1.3 with the device's own certificate) and for the events
that concern it: switched off, out of reach, hung, packets lost. Not responsible for what the packets hold (`stream`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import aiomqtt

from edgeward.device.backoff import Backoff
from edgeward.device.enrolment import Enrolment
from edgeward.device.schedule import Event, Schedule
from edgeward.device.stream import Mark, TruthWriter, WaveformStream
from edgeward.waveform import FLAG_LAST

BUFFER_S = 30.0
"""What a device keeps while it cannot send; older packets are dropped and leave a visible gap."""

SENT_AGAIN = 5
"""Packets sent once more after a connection broke: with QoS 0 nobody says whether they arrived. Copies are known."""

_KEEPALIVE_S = 10
_TIMEOUT_S = 5.0
_GOODBYE_S = 3.0  # for the last packet, on a busy machine; whoever simulates a ward gives its end 5 s

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Count:
    """What one device did."""

    sent: int = 0
    dropped: int = 0
    lost_on_purpose: int = 0
    connections: int = 0
    failures: int = 0
    events: int = 0


@dataclass(frozen=True, slots=True)
class _Outgoing:
    data: bytes
    marks: list[Mark]


@dataclass(slots=True)
class Wearable:
    """One device of the ward.

    Attributes
    ----------
    enrolment
        Who it is and where it sends.
    position
        Its place in the ward: which events are its own.
    schedule
        Where its events come from.
    new_stream
        Makes a stream whose sample 0 is at the given time (nanoseconds since the epoch).
    truth
        Told about each mark when its packet is sent.
    rng
        Source of the jitter when reconnecting.
    """

    enrolment: Enrolment
    position: int
    schedule: Schedule
    new_stream: Callable[[int], WaveformStream]
    truth: TruthWriter
    rng: random.Random
    count: Count = field(default_factory=Count)
    _backlog: deque[_Outgoing] = field(default_factory=deque)
    _sent: deque[_Outgoing] = field(default_factory=lambda: deque(maxlen=SENT_AGAIN))
    _reachable: asyncio.Event = field(default_factory=asyncio.Event)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _cut: bool = False
    _finished: bool = False
    _stream: WaveformStream | None = None
    _began: float = 0.0

    async def run(self, ward_began: float, phase_s: float) -> None:
        """Sample and send until cancelled.

        Parameters
        ----------
        ward_began
            Time 0 of the schedule, by `time.monotonic`: the loop's own clock counts whole milliseconds and stands still
            while the loop works.
        phase_s
            When after that the first sample is taken, so that a ward's packets are spread over the second.
        """
        self._reachable.set()
        link = asyncio.create_task(self._link(), name=f"link {self.enrolment.device_id}")
        try:
            await self._sample(ward_began, ward_began + phase_s)
        except asyncio.CancelledError:
            await self._say_goodbye(link)
            raise
        finally:
            link.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await link

    # ---------------------------------------- sampling

    async def _sample(self, ward_began: float, begin: float) -> None:
        while True:
            await _until(begin)
            now_ns = time.time_ns()  # read first: held up in between, the stream looks late, never early
            stream = self._stream = self.new_stream(now_ns - round((time.monotonic() - begin) * 1e9))
            self._began = begin
            stopped = await self._sample_stream(stream, ward_began)
            begin = max(ward_began + stopped.at_s + stopped.for_s, time.monotonic())
            await _until(begin)
            self._reachable.set()
            self.truth(Mark(0, stopped, "end"), time.time_ns())

    async def _sample_stream(self, stream: WaveformStream, ward_began: float) -> Event:
        """Run one stream until the device is switched off; return the event that did it."""
        rate, size = stream.recording.rate_hz, stream.packet_samples
        most = max(1, round(BUFFER_S * rate / size))
        absent: Event | None = None  # loss or freeze in progress
        while True:
            end = self._began + (stream.position + size) / rate
            await _until(end)
            for event in self.schedule.take(self.position, end - ward_began):
                self.count.events += 1
                if event.kind == "stop":
                    self.truth(Mark(stream.position - 1, event, "onset"), time.time_ns())
                    self._switch_off()
                    return event
                if event.kind == "abort":
                    self._go_out_of_reach(event, stream)
                elif event.kind in ("loss", "freeze"):
                    absent = event
                    stream.mark(event, "onset", stream.position)
                else:
                    stream.begin(event, round((ward_began + event.at_s - self._began) * rate))
            if absent is not None and end - ward_began >= absent.at_s + absent.for_s:
                stream.mark(absent, "decisive" if absent.kind == "loss" else "end", stream.position)
                absent = None
            if absent is None:
                self._keep(_Outgoing(*stream.next_bytes()), most)
                continue
            self.count.lost_on_purpose += 1
            for mark in stream.lose() if absent.kind == "loss" else stream.hang():
                self.truth(mark, time.time_ns())

    def _keep(self, outgoing: _Outgoing, most: int) -> None:
        if len(self._backlog) >= most:
            self._backlog.popleft()
            self.count.dropped += 1
        self._backlog.append(outgoing)
        self._wake.set()

    def _switch_off(self) -> None:
        """Forget what was to be sent, also a packet that is on its way just now: the next stream begins anew."""
        self._reachable.clear()
        self._wake.set()
        self._backlog, self._sent = deque(), deque(maxlen=SENT_AGAIN)

    def _go_out_of_reach(self, event: Event, stream: WaveformStream) -> None:
        self.truth(Mark(stream.position - 1, event, "onset"), time.time_ns())
        self._cut = True
        self._reachable.clear()
        self._wake.set()

        def come_back() -> None:
            self._reachable.set()
            self.truth(Mark(stream.position, event, "end"), time.time_ns())

        asyncio.get_running_loop().call_later(event.for_s, come_back)

    # ---------------------------------------- sending

    async def _link(self) -> None:
        address = self.enrolment.require_mqtt()
        context = self.enrolment.context()
        backoff = Backoff(rng=self.rng)
        while True:
            await self._reachable.wait()
            try:
                async with aiomqtt.Client(
                    address.host,
                    address.port,
                    identifier=self.enrolment.device_id,
                    tls_context=context,
                    keepalive=_KEEPALIVE_S,
                    timeout=_TIMEOUT_S,
                    socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
                ) as client:
                    if backoff.failed:
                        log.info("%s: connected again", self.enrolment.device_id)
                    backoff.reset()
                    self.count.connections += 1
                    await self._send(client, address.topic)
            except (aiomqtt.MqttError, OSError) as error:
                if not backoff.failed:  # said once, and once when it is over
                    log.warning("%s: no connection to the site: %s", self.enrolment.device_id, error)
                self.count.failures += 1
                await asyncio.sleep(backoff.delay())
            if self._finished:
                return

    async def _send(self, client: aiomqtt.Client, topic: str) -> None:
        """Send packets as they come, the oldest first; return when the device leaves."""
        self._backlog.extendleft(reversed(self._sent))
        self._sent.clear()
        while True:
            if self._cut:
                self._cut = False
                await _abort(client)
                return
            if not self._reachable.is_set():
                return
            if self._backlog:
                backlog, sent = self._backlog, self._sent  # of this stream
                outgoing = backlog.popleft()
                sent_ns = time.time_ns()
                try:
                    await client.publish(topic, outgoing.data, qos=0)
                except BaseException:
                    backlog.appendleft(outgoing)
                    raise
                self.count.sent += 1
                sent.append(_Outgoing(outgoing.data, []))
                for mark in outgoing.marks:
                    self.truth(mark, sent_ns)
                continue
            if self._finished:
                return
            self._wake.clear()
            await self._wake.wait()

    async def _say_goodbye(self, link: asyncio.Task[None]) -> None:
        """Send what has been sampled, marked as the last packet before a planned stop."""
        self._finished = True
        if self._stream is not None and self._reachable.is_set():
            elapsed = time.monotonic() - self._began
            sampled = int(elapsed * self._stream.recording.rate_hz) - self._stream.position
            self._backlog.append(_Outgoing(*self._stream.next_bytes(FLAG_LAST, sampled)))
        self._wake.set()
        await asyncio.wait([link], timeout=_GOODBYE_S)


async def _until(deadline: float) -> None:
    """Sleep until `deadline` by `time.monotonic`, never less; it is absolute, so that lateness never adds up."""
    while (delay := deadline - time.monotonic()) > 0:  # noqa: ASYNC110  # time sets no event
        await asyncio.sleep(math.ceil(delay * 1e3) / 1e3)  # timers round to milliseconds, also down


async def _abort(client: aiomqtt.Client) -> None:
    """Cut the connection as a radio does that goes out of reach: no MQTT DISCONNECT, no TLS close, a TCP reset."""
    # aiomqtt offers no such thing, rightly; the socket is paho's.
    raw = client._client.socket()  # noqa: SLF001
    if isinstance(raw, socket.socket):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):  # it may be gone already
            socket.socket.shutdown(raw, socket.SHUT_RDWR)
    with contextlib.suppress(aiomqtt.MqttError):
        async for _ in client.messages:  # ends with an error once the client has noticed
            pass
