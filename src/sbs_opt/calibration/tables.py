"""Reading the calibration tables: named columns as float64, and the sha256 that a profile quotes."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sbs_opt.models.errors import InputError, TraceError

FloatArray = npt.NDArray[np.float64]
Rows = list[dict[str, str]]

GEMM = "infersim_h800/gemm_fp8.csv"
GROUPED_PREFILL = "infersim_h800/grouped_gemm_prefill.csv"
GROUPED_DECODE = "infersim_h800/grouped_gemm_decode.csv"
MLA_PREFILL = "infersim_h800/mla_prefill.csv"
MLA_DECODE = "infersim_h800/mla_decode.csv"
ALLTOALL_NORMAL = "deepep_h800/readme_normal.csv"
ALLTOALL_LOW_LATENCY = "deepep_h800/readme_low_latency.csv"
DEEPGEMM = "deepgemm_h800/readme_tables.csv"
PROBE = "hopper_probe/fit.csv"

ALL = (
    GEMM, DEEPGEMM, GROUPED_PREFILL, GROUPED_DECODE, MLA_PREFILL, MLA_DECODE, ALLTOALL_NORMAL,
    ALLTOALL_LOW_LATENCY, PROBE,
)  # fmt: skip


def read_rows(folder: Path, name: str) -> Rows:
    """Return the rows of a table as dictionaries of strings."""
    path = folder / name
    if not path.is_file():
        raise InputError(f"calibration folder {folder}: lacks {name}; docs/cost-model.md says where each table is from")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise TraceError(f"{path}: holds no rows")
    return rows


def columns(rows: Rows, *names: str) -> tuple[FloatArray, ...]:
    """Return float64[n] per name."""
    try:
        return tuple(np.array([float(row[name]) for row in rows], dtype=np.float64) for name in names)
    except (KeyError, ValueError) as error:
        raise TraceError(f"calibration table: column missing or not a number: {error}") from error


def checksum(folder: Path, name: str) -> str:
    """Return the sha256 of a table, hexadecimal."""
    return hashlib.sha256((folder / name).read_bytes()).hexdigest()
