"""The command line: ``edgeward <verb>``. Thin: it reads arguments and calls the floors.

Responsible for running a verb and for its exit code. What the verbs take is in ``cli.arguments``, what they do in
``cli.site``, ``cli.devices``, ``cli.work`` and ``cli.evaluations``.

Exit codes: 0 done; 1 it was tried and failed; 2 the call, the settings or the input is wrong; 3 the site is not running
or cannot be reached; 4 done, but something needs attention (``doctor``, ``status``, ``results list``,
``demo``).
"""

from __future__ import annotations

import os
import sys

from edgeward.cli.arguments import parser
from edgeward.cli.common import ATTENTION, AWAY, DONE, FAILED, WRONG, CommandError
from edgeward.cli.devices import DEVICE_KINDS
from edgeward.config import ConfigError

__all__ = ["ATTENTION", "AWAY", "DEVICE_KINDS", "DONE", "FAILED", "WRONG", "CommandError", "main", "parser"]


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = parser().parse_args(argv)
    try:
        code = arguments.action(arguments)
    except (CommandError, ConfigError) as error:
        print(f"edgeward: {error}", file=sys.stderr)
        return getattr(error, "code", WRONG)
    except BrokenPipeError:  # the reader of our output has gone, for example `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        expected = {"WrongKey", "SupervisorError", "IdentityError", "ServerError", "BusError", "RegistryError"}
        if type(error).__name__ in expected:
            print(f"edgeward: {error}", file=sys.stderr)
            return FAILED
        raise
    return int(code)
