"""Arguments: a parser whose errors are one line, and the types that several commands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from sbs_opt.cli.standard_output import to_standard_output
from sbs_opt.models.errors import InputError

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

    from sbs_opt.models.cost import CostModel
    from sbs_opt.models.deployment import Deployment


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `InputError` instead of printing its usage and leaving."""

    def error(self, message: str) -> NoReturn:
        """Raise the problem as one line that says where help is."""
        raise InputError(f"{message}; see {self.prog} --help")

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        # argparse passes over a standard output that cannot be written, and would leave with status 0
        if file is not None:
            with to_standard_output():
                file.write(message)


def names(text: str) -> list[str]:
    """Return the names of a list separated by commas, each once."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} holds an empty name; write a,b,c")
    if len(set(found)) != len(found):
        raise argparse.ArgumentTypeError(f"{text!r} holds a name twice; give each once")
    return found


def load(text: str) -> float:
    """Return a load: a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no load; give a number above 0, like 0.7")
    return value


def loads(text: str) -> list[float]:
    """Return the loads of a list separated by commas, each once."""
    values = [load(part.strip()) for part in text.split(",")]
    if len(set(values)) != len(values):
        raise argparse.ArgumentTypeError(f"{text!r} holds a load twice; give each once")
    return values


def whole(text: str) -> int:
    """Return a whole number from 0 to 2⁶³ − 1."""
    if not (text.isascii() and text.isdigit() and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to 2^63 - 1")
    return int(text)


def positive(text: str) -> int:
    """Return a whole number of at least 1."""
    value = whole(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 is too few; give at least 1")
    return value


def milliseconds(text: str) -> float:
    """Return a time budget in seconds, given in milliseconds."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; give milliseconds, at least 0")
    return value / 1e3


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", metavar="PATH", help="also write the rows as JSON; - is standard output")


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add `--seed`."""
    parser.add_argument("--seed", type=whole, default=0, metavar="N", help="seed of everything drawn (default 0)")


def add_trace(parser: argparse.ArgumentParser) -> None:
    """Add the trace, its format and the deployment."""
    from sbs_opt.models.catalogue import DEFAULT_DEPLOYMENT

    parser.add_argument("trace", metavar="TRACE", help="a trace file, or sample for the bundled generated one")
    parser.add_argument("--format", metavar="F", help="format of the trace (default: known by its fields)")
    parser.add_argument(
        "--deployment",
        default=DEFAULT_DEPLOYMENT,
        metavar="NAME|FILE",
        help=f"a bundled deployment or a .toml file (default {DEFAULT_DEPLOYMENT})",
    )


def input_files(given: argparse.Namespace) -> list[str]:
    """Return the files among the arguments of `add_trace`; what is bundled is none."""
    from sbs_opt.instances.trace import SAMPLE
    from sbs_opt.models.catalogue import is_deployment_file

    trace = [given.trace] if given.trace != SAMPLE else []
    return trace + [given.deployment] * is_deployment_file(given.deployment)


def load_fleet(given: argparse.Namespace) -> tuple[Deployment, CostModel]:
    """Return the deployment that `--deployment` names, and its cost model."""
    from sbs_opt.models.catalogue import cost_model_of, load_deployment

    deployment = load_deployment(given.deployment)
    with naming(given.deployment):
        return deployment, cost_model_of(deployment)


@contextmanager
def naming(source: str) -> Iterator[None]:
    """Put the file or flag that a mistake comes from before its message: the library knows neither."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
