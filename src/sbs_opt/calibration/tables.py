"""Reading the calibration tables: named columns as float64, and the sha256 that a profile quotes."""

from __future__ import annotations

import csv
import hashlib
import math
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sbs_opt.models.errors import InputError, TraceError

FloatArray = npt.NDArray[np.float64]
Rows = list[dict[str, str]]
PathLike = str | os.PathLike[str]

GEMM = "infersim_h800/gemm_fp8.csv"
GROUPED_PREFILL = "infersim_h800/grouped_gemm_prefill.csv"
GROUPED_DECODE = "infersim_h800/grouped_gemm_decode.csv"
MLA_PREFILL = "infersim_h800/mla_prefill.csv"
MLA_DECODE = "infersim_h800/mla_decode.csv"
ALLTOALL_NORMAL = "deepep_h800/readme_normal.csv"
ALLTOALL_LOW_LATENCY = "deepep_h800/readme_low_latency.csv"
DEEPGEMM = "deepgemm_h800/readme_tables.csv"
CHUNKS = "frontier_h800/prefill_chunk_over_prefix.csv"
PROBE = "hopper_probe/fit.csv"

ALL = (
    GEMM, DEEPGEMM, GROUPED_PREFILL, GROUPED_DECODE, MLA_PREFILL, MLA_DECODE, ALLTOALL_NORMAL,
    ALLTOALL_LOW_LATENCY, CHUNKS, PROBE,
)  # fmt: skip


def table_path(folder: Path, name: str) -> Path:
    """Return the path of a table in a calibration folder."""
    path = folder / name
    if not path.is_file():
        raise InputError(f"calibration folder {folder}: lacks {name}; docs/cost-model.md says where each table is from")
    return path


def read_file(path: Path) -> Rows:
    """Return the rows of a CSV file as dictionaries of strings; there is at least one."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not rows:
        raise TraceError(f"{path}: holds no rows")
    return rows


def columns(rows: Rows, *names: str, zero: tuple[str, ...] = ()) -> tuple[FloatArray, ...]:
    """Return float64[n] per name, positive; those in `zero` may be 0.

    Raises
    ------
    TraceError
        Names the column and the row, counted from 1 among those given.
    """
    return tuple(
        np.array([_number(row, name, k, name in zero) for k, row in enumerate(rows, 1)], np.float64) for name in names
    )


def _number(row: dict[str, str], name: str, place: int, may_be_zero: bool) -> float:
    text = row.get(name)
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0 or (value == 0 and not may_be_zero):
        raise TraceError(f"row {place}: {name} = {text!r}: must be a {'' if may_be_zero else 'positive '}number")
    return value


def checksum(folder: Path, name: str) -> str:
    """Return the sha256 of a table, hexadecimal."""
    return hashlib.sha256((folder / name).read_bytes()).hexdigest()


def write_rows(path: PathLike, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file; a write that fails leaves the file that was there.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    target = Path(os.path.realpath(path))  # a symbolic link stays one
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
