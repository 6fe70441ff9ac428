"""The doors under attack: the gateway serves on, loses nothing, keeps nothing it did not acknowledge, leaks nothing.

A few hundred connections always; 100,000 at the DICOM doors with ``--campaign`` (``make faults``), and 20,000 at HL7 and HTTPS. The seed is printed; ``--seed`` chooses
one. A case that does harm is saved to a file that ``python -m tests.support.attack TARGET --replay FILE`` plays again.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from tests.support import attack_dicom, attack_mllp, attack_pdu, attack_web
from tests.support.attack import Attacker, Case, Target
from tests.support.attack_site import Siege, besieged

pytestmark = [pytest.mark.fault]

BATCH = 5000
LEAK_MB_PER_10_000 = 4.0  # DICOM; beyond the orders, which the gateway keeps in memory
# At full length HL7 grew by 20 MB in 10,000 connections and HTTPS by 36; a reset connection was then held for 30 s (mended
# since, not measured again). What is left is not all explained: these limits only notice if it becomes worse.
LEAK_MB_HL7, LEAK_MB_HTTPS = 30.0, 100.0
ORDER_MB = 0.005


def told(siege: Siege, seed: int, began: float) -> None:
    """Print the figures of a campaign."""
    times = sorted(row["ms"] for row in siege.told.values())
    print(f"seed {seed}: {siege.associations} associations in {time.monotonic() - began:.0f} s")
    print(
        f"the device beside: {len(times)} images, all acknowledged, median {times[len(times) // 2]} ms, worst {times[-1]} ms"
    )
    print(f"kept of the attackers: {len(siege.stored)} objects; vitals {siege.vitals[0]} .. {siege.vitals[-1]}")
    print("met:", dict(siege.met.most_common(40)))
    print("kinds:", dict(siege.kinds.most_common()))


async def besiege(
    siege: Siege, seed: int, count: int, batch: int, processes: int, source: ModuleType = attack_dicom
) -> list[str]:
    """Attack in batches until something is wrong; then look for the smallest attack that does it."""
    for first in range(0, count, batch):
        now = min(batch, count - first)
        wrong = await siege.batch(seed, first, now, processes=processes, cases=source.__name__)
        if not wrong:
            continue
        if not siege.alive or any("traceback" in one for one in wrong):
            settings = siege.target.settings
            cases = [source.case(seed, number, settings) for number in range(first, first + now)]
            smallest = await siege.smallest(cases, source.__name__)
            wrong.append(f"the smallest attack: {siege.save([case.to_json() for case in smallest], wrong[0])}")
        return wrong
    return [*await siege.drained(), *siege.ledger()]


@pytest.mark.timeout(7200)
async def test_hostile_associations_disturb_nobody_and_leave_nothing(
    tmp_path: Path, campaign: bool, request: pytest.FixtureRequest
) -> None:
    seed = request.config.getoption("--seed") or (int.from_bytes(os.urandom(3), "big") if campaign else 1)
    count, batch, processes = (100_000, BATCH, 2) if campaign else (400, 400, 1)
    began = time.monotonic()
    async with besieged(tmp_path) as siege:
        pid = siege.pid
        wrong = await besiege(siege, seed, count, batch, processes)
        told(siege, seed, began)

        assert wrong == [], f"seed {seed}"
        assert siege.pid == pid
        assert siege.associations == count
        assert siege.stored, "no attacker came as far as storing: the attack tests nothing"
        assert not campaign or leaked(siege) == ""


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("source", [attack_mllp, attack_web], ids=["hl7", "https"])
async def test_hostile_systems_disturb_nobody_and_leave_nothing(
    tmp_path: Path, campaign: bool, request: pytest.FixtureRequest, source: ModuleType
) -> None:
    seed = request.config.getoption("--seed") or (int.from_bytes(os.urandom(3), "big") if campaign else 1)
    count, batch, processes = (20_000, 2000, 2) if campaign else (200, 200, 1)
    began = time.monotonic()
    async with besieged(tmp_path) as siege:
        pid = siege.pid
        wrong = await besiege(siege, seed, count, batch, processes, source)
        told(siege, seed, began)

        assert wrong == [], f"seed {seed}"
        assert siege.pid == pid
        assert siege.associations == count
        assert siege.kept, "nothing right was sent: the attack tests nothing"
        if source is attack_mllp:
            assert siege.orders() >= siege.kept
        limit = LEAK_MB_HTTPS if source is attack_web else LEAK_MB_HL7
        assert not campaign or leaked(siege, limit) == ""


def leaked(siege: Siege, limit: float = LEAK_MB_PER_10_000) -> str:
    """How much memory was lost, if more than a little; the first third fills pools and caches."""
    third = len(siege.vitals) // 3
    if third < 2:
        return "too few batches to tell"
    middle = sorted(one.memory_mb for one in siege.vitals[third : 2 * third])[third // 2]
    last = sorted(one.memory_mb for one in siege.vitals[-third:])[third // 2]
    grown = (last - middle - ORDER_MB * siege.orders() / 2) / (siege.associations / 2) * 10_000
    print(f"memory: {grown:+.1f} MB in 10,000 connections")
    return "" if grown < limit else f"memory grows by {grown:.1f} MB in 10,000 connections"


async def test_a_certificate_of_somebody_else_opens_nothing(tmp_path: Path) -> None:
    async with besieged(tmp_path) as siege:
        uid = attack_pdu.instance_uid(1, 1)
        store = [("send", attack_pdu.associate(b"EVIL1")), ("await", 1), ("send", b"".join(attack_pdu.store(3, uid)))]
        wanted = {
            "another authority": Case(
                number=1, kind="x", port="tls", address="127.0.0.1", tls="stranger", steps=tuple(store)
            ),
            "none": Case(number=2, kind="x", port="tls", address="127.0.0.1", tls="nobody", steps=tuple(store)),
            "another device": Case(
                number=3, kind="x", port="tls", address="127.0.0.1", tls="evil2", steps=tuple(store)
            ),
            "an address not listed": Case(number=4, kind="x", port="plain", address="127.0.0.77", steps=tuple(store)),
        }
        attacker = Attacker(siege.target, attack_pdu.Answers)

        outcomes = {name: await asyncio.to_thread(attacker.carry_out, case) for name, case in wanted.items()}

        assert not any(outcome.facts.get("stored") for outcome in outcomes.values())
        assert not any("PDU 2" in outcome.facts.get("met", ()) for outcome in outcomes.values()), (
            "an association was accepted"
        )
        assert siege.ledger() == []


FRAGILE = struct.pack(">L", 0xFFFFFFFF)


async def test_the_campaign_finds_and_shortens_an_attack_that_kills(tmp_path: Path) -> None:
    """Tried on a door that dies of one length: a campaign that finds nothing there would prove nothing anywhere."""
    siege = FragileSiege(None, None, tmp_path)  # type: ignore[arg-type]
    settings = {"certificates": ["evil1"], "titles": {"evil1": "EVIL1"}, "legacy": [["OLD1", "127.0.0.1"]]}
    cases = [attack_dicom.case(5, number, settings) for number in range(400)]
    cases = [case for case in cases if case.port == "plain"]

    smallest = await siege.smallest(cases)

    assert len(smallest) == 1
    sent = b"".join(step[1] for step in smallest[0].steps if step[0] == "send")
    assert FRAGILE in sent
    assert sum(len(step[1]) for case in cases for step in case.steps if step[0] == "send") > 100 * len(sent)
    path = siege.save([smallest[0].to_json()], "it died")
    assert Case.from_json(json.loads(path.read_text())["cases"][0]) == smallest[0]


class FragileSiege(Siege):
    """A siege of a door that dies when it is sent `FRAGILE`."""

    async def harms(self, cases: list[Case], source: str = "") -> bool:
        died = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            received = b""
            while data := await reader.read(65_536):
                received += data
                if FRAGILE in received:
                    died.set()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            target = Target({"plain": server.sockets[0].getsockname()[1]}, {})
            attacker = Attacker(target, attack_pdu.Answers)
            quick = [Case.from_json({**case.to_json(), "end": "half", "patience": 60.0}) for case in cases]
            quick = [Case.from_json({**case.to_json(), "steps": _sends(case)}) for case in quick]
            await asyncio.gather(*(asyncio.to_thread(attacker.carry_out, case) for case in quick))
        return died.is_set()


def _sends(case: Case) -> list[object]:
    return [step for step in case.to_json()["steps"] if step[0] == "send"]


OPENING = """
import os
from tests.support.attack_site import Vitals
before = Vitals.of(os.getpid())
with open("/dev/null"):
    assert Vitals.of(os.getpid()).files == before.files + 1
"""


def test_vitals_see_a_file_more() -> None:
    """In a process of its own: in this one what other tests left may be closed at any time."""
    subprocess.run([sys.executable, "-c", OPENING], cwd=Path(__file__).parents[2], check=True)
