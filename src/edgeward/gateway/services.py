"""What the gateway answers to other roles: worklist, previews, pictures, verdicts, quarantine, devices.

Responsible for requests on ``work.gateway.*`` and for keeping other roles' quarantine entries. Not responsible for
deliveries, which drive the work and are the dispatcher's.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping

from edgeward.bus import subjects
from edgeward.bus.role import RoleContext
from edgeward.gateway.quarantine import Quarantine
from edgeward.gateway.rendering import Renderer
from edgeward.messages import (
    Ask,
    DeviceInfo,
    Devices,
    FrameQuery,
    Items,
    ItemsQuery,
    Message,
    Ok,
    Preview,
    Quarantined,
    QuarantineList,
    Refused,
    Verdict,
)
from edgeward.privacy.database import DatabaseError
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import WrongKey
from edgeward.privacy.registry import Registry
from edgeward.privacy.vault import Vault, VaultDamaged, VaultError, read

_log = logging.getLogger("edgeward.gateway")

_ID = re.compile(r"^[A-Za-z0-9_.:-]{1,128}$")
LABELS = ("benign", "malignant", "normal")
_COMMENT = 2000


class Services:
    """The request handlers.

    Parameters
    ----------
    last_seen
        Returns, per device, when it was last heard of (nanoseconds).
    decided
        Called with a verdict that was kept.
    """

    def __init__(
        self,
        context: RoleContext,
        *,
        journal: Journal,
        vault: Vault,
        quarantine: Quarantine,
        registry: Registry,
        last_seen: Callable[[], Mapping[str, int]],
        decided: Callable[[Verdict], None],
        renderer: Renderer,
    ) -> None:
        self._context, self._journal, self._vault = context, journal, vault
        self._quarantine, self._registry = quarantine, registry
        self._last_seen, self._decided, self._renderer = last_seen, decided, renderer

    async def start(self) -> None:
        """Serve."""
        bus, group = self._context.bus, subjects.GATEWAYS
        await bus.serve(subjects.GATEWAY_ITEMS, ItemsQuery, self._items, group)
        await bus.serve(subjects.GATEWAY_PREVIEW, Ask, self._preview, group)
        await bus.serve(subjects.GATEWAY_FRAME, FrameQuery, self._renderer.answer, group)
        await bus.serve(subjects.GATEWAY_VERDICT, Verdict, self._verdict, group)
        await bus.serve(subjects.GATEWAY_QUARANTINE, Ask, self._quarantined, group)
        await bus.serve(subjects.GATEWAY_DEVICES, Ask, self._devices, group)
        await bus.subscribe(subjects.QUARANTINED, Quarantined, self._set_aside)

    async def _items(self, query: ItemsQuery) -> Message:
        def look() -> Items:
            worklist = self._journal.worklist
            rows, total = worklist.page(query, time.time_ns())
            return Items(
                items=rows,
                counts=worklist.counts(),
                total=total,
                modalities=worklist.modalities(),
                devices=worklist.devices(),
            )

        return await asyncio.to_thread(look)

    async def _preview(self, ask: Ask) -> Message:
        def look() -> Preview:
            found = self._journal.preview(ask.argument)
            if found is None:
                return Preview(jpeg=b"", scale=1.0)
            object_id, wrapped_key, size, scale = found
            reference = self._vault.reference(object_id, wrapped_key, size)
            return Preview(jpeg=read(reference.path, reference.data_key), scale=scale)

        try:
            return await asyncio.to_thread(look)
        except (VaultDamaged, VaultError, WrongKey) as error:
            return Refused(reason=f"the preview cannot be read: {error}")

    async def _verdict(self, verdict: Verdict) -> Message:
        if reason := objection(verdict):
            return Refused(reason=reason)
        try:
            if not await asyncio.to_thread(self._journal.verdict, verdict, time.time_ns()):
                return Refused(reason="there is no such finding")
        except DatabaseError as error:
            return Refused(reason=f"it could not be kept: {error}")
        self._context.stats.count("verdicts")
        self._decided(verdict)
        return Ok()

    async def _quarantined(self, _: Ask) -> Message:
        return QuarantineList(entries=await asyncio.to_thread(self._quarantine.entries))

    async def _devices(self, _: Ask) -> Message:
        self._registry.refresh()
        seen = self._last_seen()
        enrolled = [
            DeviceInfo(
                device_id=device.device_id,
                kind=device.kind,
                label=device.label,
                ae_title=device.ae_title,
                enrolled_ns=device.enrolled_ns,
                revoked_ns=device.revoked_ns,
                fingerprint=device.fingerprint,
                last_seen_ns=seen.get(device.device_id, 0),
            )
            for device in self._registry.devices()
        ]
        exceptions = [
            DeviceInfo(
                device_id=entry.name,
                kind="other",
                label=entry.name,
                ae_title=entry.ae_title,
                legacy=entry.transport,
                last_seen_ns=seen.get(entry.name, 0),
            )
            for entry in self._context.settings.dicom.legacy
        ]
        return Devices(devices=enrolled + exceptions)

    async def _set_aside(self, _: str, entry: Quarantined) -> None:
        self._quarantine.add(entry)


def objection(verdict: Verdict) -> str:
    """Return why a verdict makes no sense, or an empty string."""
    if not all(_ID.match(value) for value in (verdict.verdict_id, verdict.item_id, verdict.finding_id)):
        return "verdict, item and finding need an id"
    if not verdict.by.strip() or verdict.at_ns <= 0:
        return "a verdict needs a name and a time"
    if verdict.action == "correct" and verdict.label not in LABELS:
        return f"a correction needs one of the labels {', '.join(LABELS)}"
    if verdict.action != "correct" and verdict.label:
        return "only a correction carries a label"
    if len(verdict.comment) > _COMMENT or len(verdict.by) > 128:
        return f"the comment is longer than {_COMMENT} characters, or the name than 128"
    return ""
