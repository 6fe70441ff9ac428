"""What the signal processors tell the alarm engine: a condition begins or ends.

Responsible for this one type, so that those who look at signals and those who decide on alarms need not know each
other. A condition is a statement about a source (its signal, its values), not yet an alarm.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ConditionEvent:
    """One condition of one source begins or ends.

    Attributes
    ----------
    source_id
        Who told it.
    code
        Key of ``alarms.RULES``.
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
