"""The arguments of every verb, and what `--help` says of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from edgeward import __version__
from edgeward.cli.devices import DEVICE_KINDS, SIMULATORS, device_enroll, device_list, device_revoke, simulate
from edgeward.cli.evaluations import evaluate_ec13, evaluate_ecg, evaluate_ultrasound, replay
from edgeward.cli.site import ROLE_MODULES, demo, doctor, init, role, status, up
from edgeward.cli.work import orders, quarantine, results_list, results_resend


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    main_parser = argparse.ArgumentParser(
        prog="edgeward",
        description="Edge platform for medical AI. Not a medical device.",
        epilog="`edgeward demo` shows a whole hospital on this machine; `edgeward VERB --help` tells more.",
    )
    main_parser.add_argument("--version", action="version", version=f"edgeward {__version__}")
    verbs = main_parser.add_subparsers(metavar="VERB", required=True)

    def verb(
        name: str,
        action: Callable[[argparse.Namespace], int],
        text: str,
        more: str = "",
        *,
        home: bool = True,
        into: Any = None,
    ) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = (into or verbs).add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}. {more}".strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.set_defaults(action=action)
        if home:
            added.add_argument(
                "--home", help="state directory (default: $EDGEWARD_HOME, else $XDG_STATE_HOME/edgeward)", metavar="DIR"
            )
        added.add_argument("--json", action="store_true", help="print JSON")
        return added

    added = verb("init", init, "make a new site: keys, certificate authority, settings")
    added.add_argument("--name", default="", help="the site's name (default: hospital)")
    added.add_argument("--node", default="", help="this machine's name within the site (default: node1)")
    added.add_argument(
        "--show",
        action="store_true",
        help="show all settings with their values (with --json: what may be set), and change nothing",
    )

    verb("up", up, "run the site on this machine until Ctrl-C")
    verb("status", status, "show what runs and how well; exit code 3 if nothing runs, 4 if something needs attention")
    verb("doctor", doctor, "check this machine and this site, and say what to do")

    results = verbs.add_parser("results", help="where results go: list, and try dead letters again").add_subparsers(
        metavar="VERB", required=True
    )
    verb(
        "list",
        results_list,
        "show destinations and dead letters; exit code 4 if one is down or something was given up",
        into=results,
    )
    added = verb("resend", results_resend, "try dead letters again: all, or of one destination or item", into=results)
    added.add_argument("--destination", default="", help="only those of this destination")
    added.add_argument("--item", default="", help="only those of this item")

    added = verb("orders", orders, "list the orders on the modality worklist (JSON has the patients, text has not)")
    added.add_argument(
        "--status",
        default="",
        choices=("", "scheduled", "started", "completed", "discontinued", "cancelled"),
        help="only those in this state (default: all)",
    )
    added.add_argument("--text", default="", help="part of accession number, procedure or patient")
    added.add_argument("--limit", type=int, default=100, help="at most so many (default: 100)")

    verb("quarantine", quarantine, "list what was refused or set aside, with the reason and what to do")

    devices = verbs.add_parser("device", help="enrol, list, revoke and simulate devices").add_subparsers(
        metavar="VERB", required=True
    )
    added = verb(
        "enroll",
        device_enroll,
        "give a device its identity: a certificate and an entry in the registry",
        "\n\nexamples:\n  edgeward device enroll ward3-bed1 --kind wearable"
        "\n  edgeward device enroll us1 --kind ultrasound --ae-title US1",
        into=devices,
    )
    added.add_argument("name", nargs="+", help="1 to 64 of A-Z a-z 0-9 _ -")
    added.add_argument("--kind", required=True, choices=DEVICE_KINDS, help="what it is, and so what it may do")
    added.add_argument("--ae-title", default="", help="DICOM AE title, for devices that speak DICOM")
    added.add_argument("--label", default="", help="what people call it, for example a bed")
    added.add_argument("--out", default="", metavar="DIR", help="where the device's folder is written")
    added.add_argument("--host", default="", help="address under which the device reaches this site")
    added.add_argument("--count", type=int, default=1, help="enrol NAME-001 ... NAME-<count>")
    added.add_argument("--days", type=int, default=825, help="validity of the certificate")
    verb("list", device_list, "list devices", into=devices)
    added = verb("revoke", device_revoke, "revoke a device; its connections are cut within a second", into=devices)
    added.add_argument("name", help="as `edgeward device list` shows it")
    added = devices.add_parser(
        "simulate", help="run a simulated device: ultrasound, ward, bedside, pacs or emr", add_help=False
    )
    added.add_argument(
        "-h", "--help", dest="wants_help", action="store_true"
    )  # after a simulator it is the simulator's
    added.add_argument("which", choices=tuple(SIMULATORS), nargs="?")
    added.add_argument("rest", nargs=argparse.REMAINDER)
    added.set_defaults(action=simulate)

    added = verb(
        "demo",
        demo,
        "run a whole hospital with simulated devices",
        "\n\nWithout --for it runs until Ctrl-C and prints the console's address and a one-time password. With --for it"
        "\nruns for so many seconds, waits for what is on its way, and prints a summary. A new site is made in"
        "\na temporary directory and removed afterwards, unless --home names one to keep.",
    )
    added.add_argument(
        "--for", dest="seconds", type=float, metavar="SECONDS", help="run this long, then print a summary"
    )
    added.add_argument("--beds", type=int, default=12, help="number of wearables (default 12)")
    added.add_argument("--images-per-s", type=float, default=0.5, help="frames per second (default 0.5)")
    added.add_argument(
        "--images", default="", metavar="DIR", help="send these images (png, jpg, dcm) instead of our own"
    )
    added.add_argument(
        "--wfdb", default="", metavar="DIR", help="replay these WFDB records instead of the built-in one"
    )
    added.add_argument("--port", type=int, default=8042, help="console port; another is taken if it is in use")
    added.add_argument("--quiet", action="store_true", help="no events on the terminal")

    evaluations = verbs.add_parser("evaluate", help="measure the AI on your own labelled data").add_subparsers(
        metavar="WHAT", required=True
    )
    added = verb(
        "ultrasound",
        evaluate_ultrasound,
        "measure the breast ultrasound model",
        "\n\nDIR holds {benign,malignant,normal}/{images,mask}; a mask is named like its image, with _mask, _mask_1 ..."
        "\nPrints dice_lesion, auc_malignant, sensitivity, specificity, ece (all 0..1), refused, n.",
        home=False,
        into=evaluations,
    )
    added.add_argument("directory", metavar="DIR")
    added = verb(
        "ecg",
        evaluate_ecg,
        "measure beat detection and classification on WFDB records with .atr annotations",
        "\n\nPrints qrs{se,ppv,f1} and ventricular{se,ppv} in percent, report_latency_ms{p50,p99}, records{}."
        "\nWindow 150 ms; segments of ventricular flutter or fibrillation are excluded (ANSI/AAMI EC57).",
        home=False,
        into=evaluations,
    )
    added.add_argument("directory", metavar="DIR")
    verb(
        "ec13",
        evaluate_ec13,
        "measure the monitor on generated waveforms after EC13 and IEC 60601-2-27",
        "\n\nPrints heart rate, T waves, small QRS, steps, times to alarm and pacing pulses, beside makers' figures."
        "\nNeeds no data; takes about a minute.",
        home=False,
        into=evaluations,
    )

    added = verb("replay", replay, "print the alarms that a WFDB record raises, with sample times", home=False)
    added.add_argument("record", metavar="RECORD", help="path of the record, with or without .hea")

    hidden = verbs.add_parser("_role")
    hidden.add_argument("role", choices=tuple(ROLE_MODULES))
    hidden.add_argument("--home", default="")
    hidden.add_argument("--standby", action="store_true")
    hidden.set_defaults(action=role, json=False)
    return main_parser
