"""What the viewer in the browser is told of an item: pure functions, no I/O.

Responsible for the shape of that, and for leaving out what its reader may not see. Not responsible for how it is drawn
(``static/js/viewer``).
"""

from __future__ import annotations

from typing import Any

from edgeward.console.present import ItemView, item_view, person_name
from edgeward.console.views import datetime_text
from edgeward.messages import FrameFinding, ItemSummary, Lesion, Rendered


def lesion_data(lesion: Lesion) -> dict[str, Any]:
    """Return one lesion as the viewer draws it, in source pixels."""
    return {
        "contour": [[round(x, 2), round(y, 2)] for x, y in lesion.contour],
        "box": [round(value, 2) for value in lesion.box],
        "long": lesion.long_axis,
        "short": lesion.short_axis,
        "area": lesion.area,
        "unit": lesion.unit,
        "probability": lesion.probability,
    }


def frame_data(found: FrameFinding) -> dict[str, Any]:
    """Return what the AI says of one frame."""
    return {
        "frame": found.frame,
        "status": found.status,
        "reason": found.reason,
        "lesions": [lesion_data(lesion) for lesion in found.lesions],
        "label": found.label,
        "malignancy": found.malignancy,
        "suspicious": found.suspicious,
    }


def frames_of(item: ItemSummary) -> list[FrameFinding]:
    """Return what the AI says per sampled frame; of a single frame the finding itself is that."""
    finding = item.finding
    if finding is None:
        return []
    if finding.frame_findings:
        return finding.frame_findings
    return [
        FrameFinding(
            frame=finding.frame,
            status=finding.status,
            reason=finding.reason,
            lesions=finding.lesions,
            label=finding.label,
            probabilities=finding.probabilities,
            malignancy=finding.malignancy,
            suspicious=finding.suspicious,
        )
    ]


def verification(view: ItemView) -> str:
    """Return how far the finding may be relied on: preliminary | confirm | correct | reject, or nothing to verify."""
    if view.verdict is not None:
        return view.verdict.action
    return "preliminary" if view.item.finding is not None and view.item.finding.status == "analysed" else ""


def viewer_data(item: ItemSummary, *, identity: bool) -> dict[str, Any]:
    """Return everything the viewer needs but the pixels."""
    view = item_view(item, identity=identity)
    finding = item.finding
    return {
        "id": item.item_id,
        "title": person_name(item.patient_name) if identity else "",
        "study": item.study_description if identity else "",
        "modality": item.modality,
        "received": item.received_ns // 1_000_000,
        "patientId": item.patient_id if identity else "",
        "examined": datetime_text(view.examined),
        "state": item.state,
        "frame": finding.frame if finding else 0,
        "frames": finding.frames if finding else 1,
        "rows": finding.rows if finding else 0,
        "columns": finding.columns if finding else 0,
        "spacing": finding.spacing_mm if finding else None,
        "spacingSource": finding.spacing_source if finding else "",
        "pixelAspect": finding.pixel_aspect if finding else 1.0,
        "found": [frame_data(found) for found in frames_of(item)],
        "verification": verification(view),
        "by": view.verdict.by if view.verdict else "",
        "label": view.verdict.label if view.verdict and view.verdict.label else view.label,
        "model": f"{finding.model} {finding.model_version}" if finding else "",
        "preview": finding is not None,
        "series": bool(item.series_instance_uid),
    }


def picture_facts(rendered: Rendered) -> dict[str, Any]:
    """Return what the viewer needs to know of one rendered picture. ASCII only: it travels in a header."""
    return {
        "width": rendered.width,
        "height": rendered.height,
        "scale": rendered.scale,
        "rows": rendered.rows,
        "columns": rendered.columns,
        "frame": rendered.frame,
        "frames": rendered.frames,
        "frameTime": rendered.frame_time_ms,
        "center": rendered.window_center,
        "windowWidth": rendered.window_width,
        "lowest": rendered.lowest,
        "highest": rendered.highest,
        "dark": rendered.inverted,
        "spacing": rendered.spacing_mm,
        "spacingSource": rendered.spacing_source.encode("ascii", "replace").decode(),
        "pixelAspect": rendered.pixel_aspect,
        "scales": [[*one.box, one.spacing_mm] for one in rendered.scales],
        "plane": rendered.plane,
        "reference": rendered.frame_of_reference.encode("ascii", "replace").decode(),
    }


KEYS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "look",
        (
            ("drag ↑ ↓", "brightness"),
            ("drag W E", "contrast"),
            ("I", "invert"),
            ("Ctrl+wheel pinch + -", "zoom"),
            ("0", "fit"),
            ("1", "full"),
            ("H Shift+←↑→↓", "pan"),
            ("L", "loupe"),
            ("R", "reset"),
            ("F", "screen"),
        ),
    ),
    (
        "loop",
        (
            ("space", "play"),
            ("wheel ← → [ ]", "step"),
            ("PageUp PageDown", "leap"),
            (", .", "mark"),
            ("B", "best"),
            ("Home End", "ends"),
            ("< >", "speed"),
        ),
    ),
    ("ai", (("C", "contour"), ("X", "axes"), ("G", "box"), ("Shift+1…9", "lesion"))),
    (
        "measure",
        (
            ("M", "distance"),
            ("O", "ellipse"),
            ("Enter ←↑→↓", "cross"),
            ("T", "select"),
            ("Del", "remove"),
            ("Esc", "window"),
        ),
    ),
    ("beside", (("S", "beside"), ("A", "other"), ("Y", "link"))),
    ("case", (("V", "verdict"), ("Shift+Enter", "confirm_next"), ("N", "go_next"), ("U", "go_list"), ("?", "help"))),
)  # what the help shows; the keys themselves are in static/js/viewer/viewer.js, and a test compares the two
