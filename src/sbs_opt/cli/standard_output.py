"""Standard output that cannot be written: a full device, a closed descriptor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from sbs_opt.models.errors import InputError


@contextmanager
def to_standard_output() -> Iterator[None]:
    """Turn what the system refuses while standard output is written into an error of one line.

    A reader that has gone stays a `BrokenPipeError`: that is nobody's mistake.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_output()
        raise InputError(f"cannot write to standard output: {error.strerror}; send it elsewhere") from error


def drop_output() -> None:
    """Send what is still buffered nowhere, else the interpreter fails once more as it leaves."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
