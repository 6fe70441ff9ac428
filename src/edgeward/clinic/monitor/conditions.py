"""What the signal processors tell the alarm engine: a condition begins or ends, a parameter has a value.

Responsible for these types, so that those who look at signals and those who decide on alarms need not know each other.
A condition is a statement about a source (its signal, its values), not yet an alarm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ConditionEvent:
    """One condition of one source begins or ends.

    Attributes
    ----------
    source_id
        Who told it.
    code
        Key of ``rules.RULES``.
    present
        True: begins; False: ends.
    at_ns
        Now, by the site's clock.
    received_ns
        Arrival of the packet that carried the decisive sample; `at_ns` if time alone decided.
    onset_sample, decisive_sample
        Indices in the source's stream; -1 if time alone decided.
    onset_ns
        Site time of the onset sample; 0 if unknown.
    args
        Parameters of the translated message.
    unseen
        It ends only because nothing more is known of it (a spot check that went out of date): its alarm stays until
        somebody acknowledged it.
    altered
        It holds as before, but what is said of it has changed: somebody set another limit.
    """

    source_id: str
    code: str
    present: bool
    at_ns: int
    received_ns: int = 0
    onset_sample: int = -1
    decisive_sample: int = -1
    onset_ns: int = 0
    args: dict[str, float | str] = field(default_factory=dict)
    unseen: bool = False
    altered: bool = False


class ValueSink(Protocol):
    """Takes the values of parameters, from whatever measured them; compares them with the limits of the bed."""

    def update(
        self,
        source_id: str,
        parameter: str,
        value: float | None,
        *,
        at_ns: int,
        received_ns: int,
        quality: float | None = None,
    ) -> None:
        """Take one value.

        Parameters
        ----------
        source_id : str
            Who measured it.
        parameter : str
            A name of `edgeward.parameters`.
        value : float or None
            In the parameter's unit. None: the source says that it has no value now (a sensor is off, the signal is too
            poor). A parameter that had values is then told as a technical alarm.
        at_ns : int
            Site time of the measurement: a device's own time must have been corrected for its clock's offset.
        received_ns : int
            When it arrived, site time.
        quality : float, optional
            0..1, of the signal it was measured from.

        Raises
        ------
        KeyError
            If there is no such parameter.
        """
