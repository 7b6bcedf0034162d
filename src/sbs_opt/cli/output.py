"""Where results go: the terminal, files that appear whole, JSON on standard output; progress on standard error."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from sbs_opt.cli.standard_output import to_standard_output
from sbs_opt.instances import atomic_write, check_name, check_writable
from sbs_opt.models.errors import InputError
from sbs_opt.reports.json_rows import json_text

if TYPE_CHECKING:
    from rich.console import Console

STDOUT = "-"
_PATIENCE_S = 1.0


def check_outputs(files: Sequence[str], json_path: str | None, inputs: Sequence[str]) -> None:
    """Raise, before anything is computed, where an output could not be written or would replace another file in use.

    Parameters
    ----------
    files
        Outputs that must be files.
    json_path
        Where the JSON goes: a file, `STDOUT` or nowhere.
    inputs
        Files that the command reads.
    """
    for path in files:
        if path == STDOUT:
            raise InputError("-: only --json may go to standard output; give the name of a file")
    seen: dict[str, str] = {}
    for path in inputs:
        check_name(path)
        seen[os.path.realpath(path)] = path
    for path in (*files, *([] if json_path in (None, STDOUT) else [json_path])):
        check_writable(path)
        real = os.path.realpath(path)
        if real in seen:
            raise InputError(f"{path}: is the same file as {seen[real]}; give each file a name of its own")
        seen[real] = path


@contextmanager
def writing(path: str) -> Iterator[None]:
    """Turn what the file system refuses while `path` is written into an error of one line."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); free some space or choose another") from error


@contextmanager
def written(path: str | None, text: str) -> Iterator[None]:
    """Write `text`; a file takes the place of `path` only when the block ends well.

    So several outputs appear together or not at all. None writes nothing; `STDOUT` is written and flushed at once.
    """
    if path is None:
        yield
    elif path == STDOUT:
        with to_standard_output():
            sys.stdout.write(text)
            sys.stdout.flush()
        yield
    else:
        with writing(path), atomic_write(path) as file:
            file.write(text)
            file.flush()  # a full disk shows here, before any file of the same command has been replaced
            yield


def write_json(path: str | None, value: Mapping[str, Any]) -> None:
    """Write the JSON form of a result, where one is asked for."""
    with written(path, json_text(value)):
        pass


def console(json_path: str | None) -> Console:
    """Return where people read: standard output, or standard error where the other carries JSON."""
    from rich.console import Console

    class Terminal(Console):
        def print(self, *objects: Any, **options: Any) -> None:
            with nullcontext() if self.stderr else to_standard_output():
                super().print(*objects, **options)

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # `main` knows what to do; rich would leave at once

    return Terminal(stderr=json_path == STDOUT, highlight=False, emoji=False, markup=False)


@contextmanager
def progress_bar() -> Iterator[Callable[[float, str], None]]:
    """Yield a function that takes the share done and a label, and shows a bar once a second has passed.

    Only where standard error is a terminal.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda share, label: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    bar = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
    task = bar.add_task("", total=1.0)
    began = time.monotonic()

    def advance(share: float, label: str) -> None:
        bar.update(task, completed=share, description=label)
        if time.monotonic() - began > _PATIENCE_S:
            bar.start()

    try:
        yield advance
    finally:
        bar.stop()
