"""What a result stands for after the verdicts so far: preliminary, final, amended or withdrawn.

Responsible for that one rule, and for what of the AI's answer a verdict leaves standing; FHIR and HL7 each have words
of their own for it (``fhir_bundle``, ``oru``).

A correction is told as an *amendment*, although it may be the first thing a clinician says: the AI's answer was out
already, and whoever read it must notice that it has changed. A rejection withdraws the answer: it is told as an error,
not as cancelled, because the image was analysed and somebody may have acted on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from edgeward.messages import DeliverRequest, Finding, Verdict


class Standing(Enum):
    """How far a result can be relied on."""

    PRELIMINARY = "preliminary"  # nobody has looked yet
    FINAL = "final"  # a clinician confirmed it
    AMENDED = "amended"  # a clinician changed what was sent before, or changed their mind
    WITHDRAWN = "withdrawn"  # a clinician rejected it


@dataclass(frozen=True, slots=True)
class Judged:
    """A revision of a result as the verdicts have left it.

    `label` is the clinician's where there is one, else the AI's. `overruled`: it is not the AI's any more, and nor does
    its probability stand. `lesions_stand`: the outlined lesions still do.

    `label_changed`, `probability_back`, `lesions_back`: an earlier revision said otherwise of it, or had taken it back.
    """

    standing: Standing
    label: str
    overruled: bool
    lesions_stand: bool
    verdict: Verdict | None  # the last
    at_ns: int  # when this revision came about
    label_changed: bool = False
    probability_back: bool = False
    lesions_back: bool = False


def judge(request: DeliverRequest) -> Judged:
    """Return what the revision in `request` stands for."""
    verdicts = request.verdicts[: request.revision]
    now = _judged(request.finding, verdicts)
    before = [_judged(request.finding, verdicts[:count]) for count in range(len(verdicts))]
    return replace(
        now,
        label_changed=any(one.label != now.label or one.standing is Standing.WITHDRAWN for one in before),
        probability_back=any(one.overruled or one.standing is Standing.WITHDRAWN for one in before),
        lesions_back=not all(one.lesions_stand for one in before),
    )


def _judged(finding: Finding, verdicts: Sequence[Verdict]) -> Judged:
    if not verdicts:
        return Judged(Standing.PRELIMINARY, finding.label, overruled=False, lesions_stand=True, verdict=None,
                      at_ns=finding.created_ns)  # fmt: skip
    last = verdicts[-1]
    label = last.label if last.action == "correct" and last.label else finding.label
    overruled = label != finding.label
    withdrawn = last.action == "reject"
    return Judged(
        standing=_standing(verdicts),
        label=label,
        overruled=overruled,
        lesions_stand=not withdrawn and not (overruled and label == "normal"),
        verdict=last,
        at_ns=last.at_ns,
    )


def statement(request: DeliverRequest, judged: Judged) -> list[str]:
    """Return what a person should read of this revision, a sentence or two a line."""
    finding, verdict = request.finding, judged.verdict
    who = verdict.by if verdict else "a clinician"
    if finding.status != "analysed":
        lines = [f"Not analysed: {finding.reason or 'no reason was given'}."]
    else:
        lines = [f"{_what_the_model_says(finding)} by {model_name(finding)}."]
    match judged.standing:
        case Standing.PRELIMINARY:
            lines.append("Preliminary result of an AI algorithm; not verified by a clinician.")
        case Standing.FINAL:
            lines.append(f"Confirmed by {who}.")
        case Standing.AMENDED:
            changed = f"Corrected to: {judged.label}" if judged.overruled else "Confirmed after review"
            lines.insert(0, f"{changed}, by {who}.")
        case Standing.WITHDRAWN:
            lines = [f"Withdrawn: {who} rejected the result of the AI algorithm."]
    if verdict is not None and verdict.comment:
        lines.append(f"Comment: {verdict.comment}")
    return lines


def model_name(finding: Finding) -> str:
    """Return the model with its version."""
    return f"{finding.model or 'unnamed model'} {finding.model_version}".strip()


def _what_the_model_says(finding: Finding) -> str:
    said = f"Classified as {finding.label}" if finding.label else "Not classified"
    if finding.malignancy is not None:
        side = "at or above" if finding.suspicious else "below"
        said += f", probability of malignancy {100 * finding.malignancy:.1f} %, {side} the operating point"
    count = len(finding.lesions)
    return f"{said}, {count or 'no'} lesion{'' if count == 1 else 's'} outlined,"


def _standing(verdicts: Sequence[Verdict]) -> Standing:
    match verdicts[-1].action:
        case "reject":
            return Standing.WITHDRAWN
        case "correct":
            return Standing.AMENDED
        case "confirm":
            changed = any(verdict.action != "confirm" for verdict in verdicts)
            return Standing.AMENDED if changed else Standing.FINAL
