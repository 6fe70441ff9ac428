"""What the numbers of packets say: which follows which, whether a stream has begun anew, what was lost.

Responsible for these rules, for ECG and other signals alike. Pure. The usual packet, which follows its predecessor, is
known by compiled code (``streams``). Not responsible for what follows (``bank``, ``signals``, ``reorder``).
"""

from __future__ import annotations

import math
from typing import Any

SEQUENCE = 2**32
#: A packet this far behind is not a late one: the device has started again.
RESTART_BEHIND = 64
#: A jump of more than this is no loss but another stream.
GAP_MOST_S = 6 * 3600.0
#: One lost packet is nobody's business. What is lost adds up and fades with this time constant; two packets of a second
#: within a minute are told, one is not, nor are single short ones of 0.2 s a minute.
LOSS_FADES_S = 60.0
LOSS_TOLD_S = 1.3
LOSS_PACKETS = 2


def steps_ahead(sequence: int, before: int) -> int:
    """Return by how many packets one sequence number is ahead of another, across the wrap."""
    return (sequence - before + SEQUENCE // 2) % SEQUENCE - SEQUENCE // 2


def began_anew(ahead: int, first_sample: int, samples: int, *, sequence: int, expected: int, rate_hz: float) -> bool:
    """Return whether a packet is of a stream that its device has begun anew.

    Parameters
    ----------
    ahead : int
        By how much its number is ahead of that of the packet before.
    first_sample, samples : int
        Stream index of its first sample, and how many it has (1 or more).
    sequence : int
        Its number.
    expected : int
        Stream index after the packet before.
    rate_hz : float
    """
    if ahead <= -RESTART_BEHIND:
        return True
    jump_s = (first_sample - expected) / rate_hz
    if jump_s > GAP_MOST_S:
        return True
    if ahead > 0:
        return jump_s < -GAP_MOST_S or first_sample + samples <= expected
    return first_sample == 0 and sequence == 0 and expected > samples


def lose(stream: Any, packets: int, seconds: float, received_ns: int) -> bool:
    """Take the loss of packets; return whether that, with what was lost lately, is worth telling.

    Parameters
    ----------
    stream : row of `streams.STREAM`
        Is changed.
    packets : int
        How many were lost.
    seconds : float
        How much of the signal.
    received_ns : int
        When that was noticed.
    """
    since_s = max(0.0, (received_ns - int(stream["missing_ns"])) / 1e9)
    fading = math.exp(-since_s / LOSS_FADES_S) if stream["loss_packets"] else 0.0
    stream["loss_s"] = float(stream["loss_s"]) * fading + seconds
    stream["loss_packets"] = packets + (int(stream["loss_packets"]) if since_s <= LOSS_FADES_S else 0)
    stream["missing_ns"] = received_ns
    return bool(stream["loss_s"] >= LOSS_TOLD_S and stream["loss_packets"] >= LOSS_PACKETS)
