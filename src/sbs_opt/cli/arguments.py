"""Arguments: a parser whose errors are one line, and the types that several commands share."""

from __future__ import annotations

import argparse
import math
from typing import NoReturn

from sbs_opt.models.errors import InputError


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `InputError` instead of printing its usage and leaving."""

    def error(self, message: str) -> NoReturn:
        """Raise the problem as one line that says where help is."""
        raise InputError(f"{message}; see {self.prog} --help")


def names(text: str) -> list[str]:
    """Return the names of a list separated by commas."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} holds an empty name; write a,b,c")
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
