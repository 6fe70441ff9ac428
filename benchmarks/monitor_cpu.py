"""What one packet costs the role `monitor`, stage by stage: CPU time in one process, without network, TLS and event loop.

    python benchmarks/monitor_cpu.py --devices 5000 --seconds 20

The packets of many wearables (250 Hz, one lead, one packet a second each, every one at its own place in the second) are taken as the role takes them: bytes of the
bus to messages, messages to the queue, the queue through the kernels, a tick four times a second of signal. Each stage is measured twice: the way of one packet
after the other, which everything unusual still goes, and the way of many at once. CPU time, not wall time: the ratio can be read on a busy machine too.
`benchmarks/monitor.py` measures the whole site.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import Any

from nats.aio.client import Client
from nats.aio.subscription import Subscription

from edgeward.bedside import ParameterLimit
from edgeward.bus import bulk
from edgeward.clinic.monitor.bank import warm_up
from edgeward.clinic.monitor.intake import Intake
from edgeward.clinic.monitor.limits import Limits
from edgeward.clinic.monitor.site_clock import SiteClock
from wearables import Fleet

SECOND = 1_000_000_000
HEADER = b"NATS/1.0\r\nNmqtt-Pub: 0\r\n\r\n"  # the broker gives it to what MQTT devices publish
LIMITS = {"heart_rate": ParameterLimit(low=50, high=120, extreme_low=40, extreme_high=140)}


class Site:
    """One intake with a clock that is turned by hand, and what it cost."""

    def __init__(self) -> None:
        self.now = 1_800_000_000 * SECOND
        clock = SiteClock(lambda: self.now, lambda: self.now)
        self.known: set[str] = set()
        self.intake = Intake(clock, Limits(), self.know)
        self.events = 0
        self.cost = dict.fromkeys(("bus", "packets", "kernels", "tick"), 0.0)

    def know(self, source_id: str, _: str) -> None:
        if source_id not in self.known:
            self.known.add(source_id)
            self.intake.watch.set_limits(source_id, LIMITS)

    def timed(self, stage: str, work: Any, *arguments: Any) -> Any:
        began = time.process_time_ns()
        result = work(*arguments)
        self.cost[stage] += (time.process_time_ns() - began) / 1e3
        return result

    def look(self) -> None:
        self.events += len(self.timed("kernels", self.intake.process))

    def tick(self) -> None:
        self.events += len(self.timed("tick", self.intake.tick))


async def measure(devices: int, seconds: int, settle: int, at_once: int, *, together: bool) -> dict[str, Any]:
    names = [f"w{number:05d}" for number in range(devices)]
    fleet = Fleet(names, seconds, 0.1, {}, "{}")
    heads = [len(prefix) for prefix in fleet.prefix]
    site, client = Site(), Client()
    taken: list[tuple[str, bytes]] = []
    if together:
        parser = bulk.install(client)
        parser.add_next(taken.extend)
        subscription = None
    else:
        subscription = Subscription(client, id=1, subject="raw.wave.*")
        client._subs[1] = subscription
        parser = client._ps

    async def library(stream: bytes) -> None:
        await parser.parse(stream)
        while subscription is not None and not subscription._pending_queue.empty():
            message = subscription._pending_queue.get_nowait()
            subscription._pending_size -= len(message.data)
            taken.append((message.subject, message.data))

    def one_by_one() -> None:
        for subject, data in taken:
            site.intake.wave(subject.rsplit(".", 1)[-1], data, site.now)

    def many() -> None:
        packets = [(subject.rsplit(".", 1)[-1], data) for subject, data in taken]
        site.intake.waves(packets, site.now, lambda source_id, data: site.intake.wave(source_id, data, site.now))

    counted = 0
    for second in range(seconds):
        if second == settle:
            site.cost = dict.fromkeys(site.cost, 0.0)
        for first in range(0, devices, at_once):
            group = range(first, min(first + at_once, devices))
            stream = b""
            for device in group:
                data = fleet.packet(device, second, site.now)[heads[device] :]
                stream += b"HMSG raw.wave.%s 1 %d %d\r\n%s%s\r\n" % (
                    names[device].encode(),
                    len(HEADER),
                    len(HEADER) + len(data),
                    HEADER,
                    data,
                )
            began = time.process_time_ns()
            await library(stream)
            site.cost["bus"] += (time.process_time_ns() - began) / 1e3
            site.timed("packets", many if together else one_by_one)
            taken.clear()
            site.look()
            before = site.now
            site.now += SECOND * len(group) // devices
            if before // (SECOND // 4) != site.now // (SECOND // 4):
                site.tick()
            counted += len(group) if second >= settle else 0
    told = {stage: round(us / counted, 2) for stage, us in site.cost.items()}
    return {**told, "all": round(sum(site.cost.values()) / counted, 2), "events": site.events}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=5000)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument(
        "--settle",
        type=int,
        default=8,
        help="seconds that are not counted: devices are enrolled and learned (default 8)",
    )
    parser.add_argument(
        "--at-once",
        type=int,
        default=20,
        help="packets that arrive together (default 20: what comes in 4 ms of 5,000 a second)",
    )
    arguments = parser.parse_args()
    warm_up()
    found = {}
    for name, together in (("one by one", False), ("together", True)):
        found[name] = asyncio.run(
            measure(arguments.devices, arguments.seconds, arguments.settle, arguments.at_once, together=together)
        )
    print(json.dumps({"devices": arguments.devices, "cpu_us_per_packet": found}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
