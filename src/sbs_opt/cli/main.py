"""The command `sbs-opt`: parse, call the library, print; and what becomes of errors.

Exit status: 0 done, 2 the user's mistake (one line on standard error), 1 ours, 130 interrupted, 141 when the reader of
standard output has gone.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from sbs_opt._version import __version__
from sbs_opt.cli import compare, list, solve, windows  # noqa: A004  # the command is called list
from sbs_opt.cli.arguments import Parser
from sbs_opt.models.errors import InputError, InternalError, UnsupportedError

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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode still gets its figures
    try:
        given = _parser().parse_args(arguments)
        given.run(given)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else the interpreter fails once more as it leaves
        return 141
    except KeyboardInterrupt:
        return _failed("interrupted; files named as output are as they were", 130)
    except (InputError, UnsupportedError) as error:
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
    for command in (compare, windows, solve, list):
        command.add_to(commands)
    return parser


def _failed(problem: str, status: int) -> int:
    print(f"{_PROGRAM}: {' '.join(problem.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
