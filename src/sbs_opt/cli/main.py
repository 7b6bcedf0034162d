"""The command `sbs-opt`: parse, call the library, print; and what becomes of errors.

Exit status: 0 done, 2 the user's mistake (one line on standard error), 1 ours, 130 interrupted, 141 when the reader of
standard output has gone.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sbs_opt._version import __version__
from sbs_opt.cli import bench, calibrate, compare, cost, list, serve, solve, windows  # noqa: A004  # the command is called list
from sbs_opt.cli.arguments import Parser
from sbs_opt.cli.standard_output import drop_output, to_standard_output
from sbs_opt.models.errors import InputError, InternalError, PlacementError, UnsupportedError

_PROGRAM = "sbs-opt"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments
        The command line without the program's name; None takes that of the process.

    Returns
    -------
    int
        The exit status. An error that nobody foresaw is raised, so that its traceback can be reported.
    """
    if sys.stdout is None:  # the process was started with the descriptor closed
        return _failed("cannot write to standard output: it is closed; send it to a file or to /dev/null", 2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode still gets its figures
    try:
        try:
            given = _parser().parse_args(arguments)
            with warnings.catch_warnings():
                warnings.showwarning = _told
                given.run(given)
        finally:  # --help leaves by an exception
            with to_standard_output():
                sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
        return 141
    except KeyboardInterrupt:
        return _failed("interrupted; files named as output are as they were", 130)
    except (InputError, UnsupportedError, PlacementError) as error:  # the last is of a solver that a package offers
        return _failed(str(error), 2)
    except InternalError as error:
        return _failed(f"{error}: this is a bug of sbs-opt, please report it with the command that you gave", 1)
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog=_PROGRAM,
        allow_abbrev=False,
        description="Which waiting LLM request goes to which data-parallel attention unit, and when.",
    )
    parser.add_argument("--version", action="version", version=f"{_PROGRAM} {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")
    for command in (compare, windows, solve, bench, cost, calibrate, serve, list):
        command.add_to(commands)
    return parser


def _told(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """Tell a warning as one line, without the place in the code where the library noticed."""
    _say(f"{'' if issubclass(category, UserWarning) else category.__name__ + ': '}{message}")


def _failed(problem: str, status: int) -> int:
    _say(problem)
    return status


def _say(text: str) -> None:
    if sys.stderr is not None:  # print would take standard output instead
        with suppress(OSError):
            print(f"{_PROGRAM}: {' '.join(text.split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
