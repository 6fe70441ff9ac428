"""Verbs that measure the AI on labelled data, and replay a recording. They need no site."""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from pathlib import Path
from typing import Any

from edgeward.cli.common import ATTENTION, DONE, CommandError, say


def evaluate_ultrasound(arguments: argparse.Namespace) -> int:
    """Measure the breast ultrasound model on labelled images."""
    module = import_module("edgeward.compute.evaluate")
    try:
        result = module.evaluate_ultrasound(Path(arguments.directory))
    except (OSError, ValueError) as error:
        raise CommandError(str(error)) from error
    say(arguments, result, "\n".join(f"{key:16} {_number(value)}" for key, value in result.items()))
    return DONE


def evaluate_ecg(arguments: argparse.Namespace) -> int:
    """Measure beat detection and classification on annotated WFDB records."""
    module = import_module("edgeward.clinic.monitor.evaluate")
    try:
        result = module.evaluate_ecg(Path(arguments.directory))
    except (OSError, ValueError) as error:
        raise CommandError(str(error)) from error
    text = [f"{key:18} {json.dumps(value)}" for key, value in result.items() if key != "records"]
    text += [f"  {name:8} {json.dumps(value)}" for name, value in result.get("records", {}).items()]
    say(arguments, result, "\n".join(text))
    return DONE if not result.get("errors") else ATTENTION


def evaluate_ec13(arguments: argparse.Namespace) -> int:
    """Measure the monitor on generated waveforms, beside what makers disclose."""
    module = import_module("edgeward.clinic.monitor.ec13")
    result = module.evaluate_ec13()
    say(arguments, result, module.table(result))
    return DONE


def replay(arguments: argparse.Namespace) -> int:
    """Print the alarms that a WFDB record raises."""
    module = import_module("edgeward.clinic.monitor.replay")
    try:
        result = module.replay(Path(arguments.record))
    except (OSError, ValueError) as error:
        raise CommandError(str(error)) from error
    result = list(result) if not isinstance(result, dict | list) else result
    rows = result if isinstance(result, list) else result.get("alarms", [])
    say(arguments, result, "\n".join(json.dumps(row, default=str) for row in rows) or "no alarm")
    return DONE


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
