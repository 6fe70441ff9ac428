"""The beds of a site: which sources each consists of, its ward, profile and own limits, and who changed what.

Responsible for the assignment of sources, for checking a change before it is made, and for the limits in force. Pure:
the caller keeps what is returned. Not responsible for alarms (``engine``) or for durability (``alarm_log``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import msgspec

from edgeward.bedside import DISCHARGED, BedSettings, LimitChange, Paced, ParameterLimit, SetBed
from edgeward.bus.subjects import token
from edgeward.clinic.monitor.limits import SIDES, Limits, Profiles, check_limit, rhythm_limits
from edgeward.clinic.monitor.rules import RULES
from edgeward.config import Ward

MAX_SOURCES = 16
MAX_LABEL = 64


class BedError(ValueError):
    """A bed cannot be changed so; the text says why."""


class BedRecord(msgspec.Struct, kw_only=True):
    """What is kept of one bed."""

    bed_id: str
    label: str = ""
    ward: str = ""
    sources: list[str] = []
    profile: str = ""  # empty: the ward's, or the site's
    limits: dict[str, ParameterLimit] = {}
    rhythm: dict[str, float] = {}
    spo2_scale2: bool = False
    paced: Paced = "unknown"
    standby: bool = False
    disabled: list[str] = []
    own: bool = False  # somebody made it; otherwise it exists as long as its source is a bed of its own


@dataclass(frozen=True, slots=True)
class Applied:
    """What a change of a bed amounts to."""

    changes: list[LimitChange]
    beds: list[str]  # ids of all beds that differ now
    moved: list[str] = field(default_factory=list)  # sources that belong to another bed now


class Beds:
    """All beds.

    Parameters
    ----------
    profiles : Profiles
    wards : list of Ward
    ward : str
        Of beds that nobody put into one; empty for none.
    """

    def __init__(self, profiles: Profiles, wards: list[Ward] | None = None, *, ward: str = "") -> None:
        self.profiles = profiles
        self.ward = ward
        self.wards = {ward.name: ward for ward in wards or []}
        self._beds: dict[str, BedRecord] = {}
        self._bed_of: dict[str, str] = {}

    def __contains__(self, bed_id: object) -> bool:
        """Whether there is this bed."""
        return bed_id in self._beds

    def __iter__(self) -> Iterator[BedRecord]:
        """Beds in the order in which they came."""
        return iter(self._beds.values())

    def __len__(self) -> int:
        """How many beds there are."""
        return len(self._beds)

    def __getitem__(self, bed_id: str) -> BedRecord:
        """Return a bed."""
        return self._beds[bed_id]

    def get(self, bed_id: str) -> BedRecord | None:
        """Return a bed, None if there is none."""
        return self._beds.get(bed_id)

    def bed_of(self, source_id: str) -> str:
        """Return the id of the bed a source belongs to; empty if it is unknown."""
        return self._bed_of.get(source_id, "")

    def free_sources(self) -> list[str]:
        """Return the sources that are a bed of their own."""
        return [bed.bed_id for bed in self._beds.values() if not bed.own and bed.sources == [bed.bed_id]]

    def add_source(self, source_id: str) -> str | None:
        """Make room for a source; return the id of a bed that is new for it, or None if it belongs to one."""
        if source_id in self._bed_of:
            return None
        bed = self._beds.get(source_id)
        if bed is None:
            bed = self._beds[source_id] = BedRecord(bed_id=source_id, ward=self.ward)
        bed.sources = [*bed.sources, source_id]
        self._bed_of[source_id] = source_id
        return source_id

    def remove_source(self, source_id: str) -> str:
        """Forget a source; return the id of its bed. The bed goes with its last source, unless somebody made it."""
        bed_id = self._bed_of.pop(source_id, "")
        bed = self._beds.get(bed_id)
        if bed is not None:
            bed.sources = [other for other in bed.sources if other != source_id]
            if not bed.sources and not bed.own:
                del self._beds[bed_id]
        return bed_id

    def remove(self, bed_id: str) -> None:
        """Forget a bed without sources, also one that somebody made.

        Raises
        ------
        BedError
            If there is no such bed, or it has sources.
        """
        bed = self._beds.get(bed_id)
        if bed is None or bed.sources:
            raise BedError("there is no such bed, or it has sources")
        del self._beds[bed_id]

    def restore(self, records: list[BedRecord]) -> None:
        """Put back what was kept. A source named twice belongs to the first."""
        for bed in records:
            bed.sources = [source for source in bed.sources if source not in self._bed_of]
            if not bed.sources and not bed.own:
                continue
            if bed.profile and bed.profile not in self.profiles.limits:
                bed.profile = ""  # it is no longer in the settings: the ward's holds
            self._beds[bed.bed_id] = bed
            self._bed_of |= dict.fromkeys(bed.sources, bed.bed_id)

    # ------------------------------------------------------------------ limits in force

    def profile(self, bed_id: str) -> str:
        """Return the name of the profile in force."""
        bed = self._beds[bed_id]
        ward = self.wards.get(bed.ward)
        return bed.profile or (ward.profile if ward else "") or self.profiles.default

    def limits(self, bed_id: str) -> dict[str, ParameterLimit]:
        """Return the limits in force, per parameter."""
        return {**self.profiles.limits[self.profile(bed_id)], **self._beds[bed_id].limits}

    def rhythm(self, bed_id: str) -> Limits:
        """Return the limits of the rhythm alarms in force."""
        return rhythm_limits(self._rhythm(self._beds[bed_id]))

    def _rhythm(self, bed: BedRecord, profile: str = "") -> dict[str, float]:
        return {**self.profiles.rhythm[profile or self.profile(bed.bed_id)], **bed.rhythm}

    def switched_off(self, bed_id: str) -> list[str]:
        """Return what somebody switched off for this bed: codes, and parameters without a limit of their profile."""
        bed = self._beds[bed_id]
        if not bed.limits:
            return bed.disabled
        usual = self.profiles.limits[self.profile(bed_id)]
        without = [
            parameter
            for parameter, limit in bed.limits.items()
            if parameter in usual
            and any(getattr(limit, side) is None and getattr(usual[parameter], side) is not None for side in SIDES)
        ]
        return bed.disabled + without

    def settings(self, bed_id: str, label: str = "") -> BedSettings:
        """Return how a bed is monitored; `label` is what it is called unless it has a name of its own."""
        bed = self._beds[bed_id]
        return BedSettings(
            bed_id=bed_id,
            label=bed.label or label or bed_id,
            ward=bed.ward,
            sources=list(bed.sources),
            profile=self.profile(bed_id),
            limits=self.limits(bed_id),
            own=sorted(bed.limits),
            rhythm={k: float(v) for k, v in asdict(self.rhythm(bed_id)).items()},
            own_rhythm=sorted(bed.rhythm),
            spo2_scale2=bed.spo2_scale2,
            paced=bed.paced,
            standby=bed.standby,
            disabled=list(bed.disabled),
        )

    # ------------------------------------------------------------------ changes

    def apply(self, wanted: SetBed, known_sources: set[str]) -> Applied:
        """Change a bed: all of it, or nothing.

        Parameters
        ----------
        known_sources : set of str
            Sources that may be assigned.

        Raises
        ------
        BedError
            If something of it is not allowed; nothing was changed then.
        """
        if not wanted.by:
            raise BedError("a change needs the name of who makes it")
        old = self._beds.get(wanted.bed_id)
        try:
            token(wanted.bed_id)
            bed = self._changed(old or BedRecord(bed_id=wanted.bed_id, own=True, ward=self.ward), wanted, known_sources)
        except ValueError as error:
            raise BedError(str(error)) from error
        changes = self._differences(old, bed, wanted)
        touched, moved = [bed.bed_id], []
        for source in bed.sources:
            before = self._bed_of.get(source)
            if before == bed.bed_id:
                continue
            moved.append(source)
            if before is not None:
                touched.append(before)
                self.remove_source(source)
        left = [source for source in (old.sources if old else []) if source not in bed.sources]
        self._beds[bed.bed_id] = bed
        self._bed_of |= dict.fromkeys(bed.sources, bed.bed_id)
        for source in left:
            moved.append(source)
            del self._bed_of[source]
            touched.append(self.add_source(source) or source)
        if not bed.sources and not bed.own:
            del self._beds[bed.bed_id]
        return Applied(changes, list(dict.fromkeys(touched)), moved)

    def _changed(self, old: BedRecord, wanted: SetBed, known_sources: set[str]) -> BedRecord:
        bed = msgspec.structs.replace(old, limits=dict(old.limits), rhythm=dict(old.rhythm))
        if wanted.discharged:
            bed.limits, bed.rhythm, bed.disabled, bed.spo2_scale2, bed.standby = {}, {}, [], False, False
            bed.paced = "unknown"
        if wanted.label is not None:
            bed.label = wanted.label.strip()
            if len(bed.label) > MAX_LABEL or not bed.label.isprintable():
                raise ValueError(f"a label has at most {MAX_LABEL} printable characters")
        if wanted.ward is not None:
            if wanted.ward and wanted.ward not in self.wards:
                raise ValueError(f"there is no ward {wanted.ward}")
            bed.ward = wanted.ward
        if wanted.profile is not None:
            if wanted.profile and wanted.profile not in self.profiles.limits:
                raise ValueError(f"there is no profile {wanted.profile}")
            bed.profile = wanted.profile
        if wanted.sources is not None:
            sources = list(dict.fromkeys(wanted.sources))
            if unknown := [source for source in sources if source not in known_sources]:
                raise ValueError(f"there is no source {unknown[0]}")
            if len(sources) > MAX_SOURCES:
                raise ValueError(f"a bed has at most {MAX_SOURCES} sources")
            if bed.bed_id in old.sources and bed.bed_id not in sources:
                raise ValueError(f"the source {bed.bed_id} is the bed's own; give it to another bed first")
            # An own bed without the source it is named after is a place somebody made.
            bed.sources, bed.own = sources, old.own or sources != [bed.bed_id]
        for parameter, limit in (wanted.limits or {}).items():
            if limit is None:
                bed.limits.pop(parameter, None)
            else:
                check_limit(parameter, limit)
                bed.limits[parameter] = limit
        for name, value in (wanted.rhythm or {}).items():
            if value is None:
                bed.rhythm.pop(name, None)
            else:
                bed.rhythm[name] = value
        ward = self.wards.get(bed.ward)
        profile = bed.profile or (ward.profile if ward else "") or self.profiles.default
        rhythm_limits(self._rhythm(bed, profile))
        if wanted.spo2_scale2 is not None:
            bed.spo2_scale2 = wanted.spo2_scale2
        if wanted.paced is not None:
            bed.paced = wanted.paced
        if wanted.standby is not None:
            bed.standby = wanted.standby
        if wanted.disabled is not None:
            for code in wanted.disabled:
                rule = RULES.get(code)
                if rule is None:
                    raise ValueError(f"there is no alarm {code}")
                if rule.fixed:
                    raise ValueError(f"{code} cannot be switched off")
            bed.disabled = sorted(set(wanted.disabled))
        return bed

    @staticmethod
    def _differences(old: BedRecord | None, new: BedRecord, wanted: SetBed) -> list[LimitChange]:
        before, after = _flat(old) if old else {}, _flat(new)
        found = [
            LimitChange(
                at_ns=wanted.at_ns,
                by=wanted.by,
                bed_id=wanted.bed_id,
                what=what,
                before=before.get(what, ""),
                after=after.get(what, ""),
            )
            for what in dict.fromkeys((*before, *after))
            if before.get(what, "") != after.get(what, "")
        ]
        if wanted.discharged:
            found.append(
                LimitChange(
                    at_ns=wanted.at_ns, by=wanted.by, bed_id=wanted.bed_id, what=DISCHARGED, before="", after="yes"
                )
            )
        return found


def _flat(bed: BedRecord) -> dict[str, str]:
    """Return a bed's settings as words, one per thing that can be changed."""
    flat = {
        "label": bed.label,
        "ward": bed.ward,
        "profile": bed.profile,
        "sources": ", ".join(bed.sources),
        "spo2_scale2": "yes" if bed.spo2_scale2 else "",
        "paced": "" if bed.paced == "unknown" else bed.paced,
        "standby": "yes" if bed.standby else "",
        "disabled": ", ".join(bed.disabled),
    }
    for parameter, limit in bed.limits.items():
        for name, value in msgspec.structs.asdict(limit).items():
            flat[f"limits.{parameter}.{name}"] = (
                "off" if value is None else f"{value:g}" if isinstance(value, float | int) else f"{value}"
            )
    flat |= {f"rhythm.{name}": f"{value:g}" for name, value in bed.rhythm.items()}
    return {what: text for what, text in flat.items() if text}
