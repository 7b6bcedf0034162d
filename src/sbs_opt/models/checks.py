"""Turn what callers pass into validated, read-only int64 arrays; the error names field, index and value."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sbs_opt.models.errors import InputError

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

INT64_MAX = int(np.iinfo(np.int64).max)


def _first(field: str, mask: npt.NDArray[np.bool_], raw: npt.NDArray[Any]) -> str:
    index = tuple(int(k) for k in np.argwhere(mask)[0])
    where = ", ".join(map(str, index))
    return f"{field}[{where}] = {raw[index]!s}" if where else f"{field} = {raw[()]!s}"


def int_array(field: str, value: Any, *, minimum: int | None = 0) -> IntArray:
    """Return `value` as a read-only C-contiguous int64 array.

    Parameters
    ----------
    field
        Name used in the error.
    value
        Array-like of integers; floats are accepted where they are whole numbers.
    minimum
        Smallest legal entry; None switches the check off.

    Raises
    ------
    InputError
        On a ragged or non-numeric input, a NaN, a fraction, a number beyond int64 or below `minimum`.
    """
    if isinstance(value, np.ndarray) and value.dtype == np.int64:
        array = value if value.flags.c_contiguous else np.ascontiguousarray(value)
    else:
        array = _converted(field, value)
    if minimum is not None and array.size and array.min() < minimum:
        found = _first(field, array < minimum, array)
        raise InputError(f"{found}: must be at least {minimum}")
    if array is value and (array.flags.writeable or array.base is not None):
        array = array.copy()  # somebody else may write to the same memory
    if array.flags.writeable:
        array.flags.writeable = False
    return array


def _converted(field: str, value: Any) -> IntArray:
    try:
        raw = np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"{field}: rows of unequal length or not numbers; give a rectangular list of integers"
        ) from error
    if raw.size == 0:
        return np.zeros(raw.shape, dtype=np.int64)
    if raw.dtype == object:
        return _converted_objects(field, raw)
    if raw.dtype.kind not in "iufb":
        raise InputError(f"{field}: holds {raw.dtype} where integers are expected")
    if raw.dtype.kind == "f":
        if not isinstance(value, np.ndarray) and (np.abs(raw) >= 2.0**53).any():
            # In a list of ints and floats NumPy has rounded the ints already: look at the originals.
            return _converted_objects(field, np.array(value, dtype=object))
        bad = ~np.isfinite(raw) | (raw != np.floor(raw)) | (np.abs(raw) >= 2.0**63)
        if bad.any():
            raise InputError(f"{_first(field, bad, raw)}: must be a whole number that fits 64 bits; round it first")
    elif raw.dtype == np.uint64:
        bad = raw > INT64_MAX
        if bad.any():
            raise InputError(f"{_first(field, bad, raw)}: does not fit a signed 64-bit integer")
    return np.array(raw, dtype=np.int64, order="C")


def _converted_objects(field: str, raw: npt.NDArray[Any]) -> IntArray:
    out = np.empty(raw.shape, dtype=np.int64)
    for index in np.ndindex(raw.shape):
        entry: object = raw[index]
        where = f"{field}[{', '.join(map(str, index))}]"
        if isinstance(entry, float):
            if not (entry.is_integer() and abs(entry) < 2.0**63):
                raise InputError(f"{where} = {entry!r}: must be a whole number that fits 64 bits; round it first")
            entry = int(entry)
        if isinstance(entry, bool) or not isinstance(entry, int | np.integer):
            raise InputError(f"{where} = {entry!r}: must be an integer")
        if not -INT64_MAX - 1 <= int(entry) <= INT64_MAX:
            raise InputError(f"{where} = {entry!r}: does not fit a signed 64-bit integer")
        out[index] = int(entry)
    return out


def bool_array(field: str, value: Any) -> BoolArray:
    """Return `value` as a read-only bool array; integers 0 and 1 are accepted."""
    try:
        raw = np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{field}: rows of unequal length; give one true or false per entry") from error
    if raw.size == 0:
        raw = raw.astype(np.bool_)
    if raw.dtype != np.bool_:
        numbers = int_array(field, value)
        if numbers.size and numbers.max() > 1:
            raise InputError(f"{_first(field, numbers > 1, numbers)}: must be true or false")
        raw = numbers.astype(np.bool_)
    out = np.array(raw, dtype=np.bool_)
    out.flags.writeable = False
    return out


def expect_shape(field: str, array: npt.NDArray[Any], shape: tuple[int, ...], meaning: str) -> None:
    """Raise when `array` does not have `shape`; `meaning` says what the axes are."""
    if array.shape != shape:
        raise InputError(f"{field} has shape {array.shape}, expected {shape} ({meaning})")
