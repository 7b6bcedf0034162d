"""Exact conversions of what trace files hold: whole numbers, decimal seconds, ISO dates; integers come out."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from decimal import Decimal, InvalidOperation
from functools import lru_cache

from sbs_opt.instances.source import shown
from sbs_opt.models.checks import INT64_MAX
from sbs_opt.models.errors import TraceError

Fail = Callable[[str, str], TraceError]
"""Makes the error of the current row from (field, problem)."""

NANOSECONDS = 1_000_000_000

LATEST_NS = 2**62
"""Arrivals beyond it (the year 2116 as an epoch) would leave a simulation no room to add to them."""

_LONGEST_DECIMAL = 100

_ISO = re.compile(r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):?(\d\d))?", re.ASCII)
_EPOCH_DAY = date(1970, 1, 1).toordinal()


def whole_number(value: object, field: str, fail: Fail) -> int:
    """Return `value`, a JSON number or the text of a CSV cell, as an integer in [0, 2⁶³)."""
    if type(value) is int:
        number = value
    else:
        text = value.strip() if isinstance(value, str) else ""
        if text.isdecimal() and text.isascii() and len(text) <= 19:
            number = int(text)
        elif value is None or value == "":
            raise fail(field, "is missing; every row needs it")
        elif text.startswith("-"):
            raise fail(field, f"{shown(value)} is negative or no number; write a whole number of at least 0")
        else:
            raise fail(field, f"{shown(value)} is not a whole number below 2^63; write a plain integer")
    if number < 0:
        raise fail(field, f"{number} is negative; write a whole number of at least 0")
    if number > INT64_MAX:
        raise fail(field, f"{shown(number)} does not fit a signed 64-bit integer")
    return number


def arrival(value_ns: int, field: str, fail: Fail) -> int:
    """Return an arrival in nanoseconds, refused where it would overflow later sums."""
    if value_ns > LATEST_NS:
        raise fail(field, f"lies beyond 2^62 ns ({value_ns}); is its unit right?")
    return value_ns


def decimal_seconds_to_ns(value: object, field: str, fail: Fail) -> tuple[int, bool]:
    """Return (nanoseconds, whether digits finer than one were rounded off, half up); never through binary floats."""
    if value is None or value == "":
        raise fail(field, "is missing; every row needs it")
    number = None
    if type(value) is int or (isinstance(value, str) and len(value) <= _LONGEST_DECIMAL):
        with suppress(InvalidOperation):
            number = Decimal(str(value).strip())
    if number is None or not number.is_finite():
        raise fail(field, f"{shown(value)} is not a number of seconds; write a decimal such as 12.345")
    if number < 0:
        raise fail(field, f"{shown(value)} is negative; arrivals start at 0")
    if number > LATEST_NS // NANOSECONDS:
        raise fail(field, f"{shown(value)} seconds lies beyond 2^62 ns; is its unit right?")
    return _nanoseconds(number)


def _nanoseconds(number: Decimal) -> tuple[int, bool]:
    parts = number.as_tuple()
    digits = int("".join(map(str, parts.digits)) or "0")
    shift = int(parts.exponent) + 9
    if digits == 0:
        return 0, False  # before 0e999999999 would raise ten to it
    if shift >= 0:
        return digits * 10**shift, False
    if -shift > len(parts.digits) + 1:
        return 0, True
    scale = 10**-shift
    quotient, rest = divmod(digits, scale)
    return quotient + (2 * rest >= scale), rest != 0


@lru_cache(maxsize=64)
def _days(year: int, month: int, day: int) -> int:
    return date(year, month, day).toordinal() - _EPOCH_DAY


def iso_to_ns(text: str, field: str, fail: Fail) -> tuple[int, bool]:
    """Return (nanoseconds since 1970-01-01 UTC, whether the stamp named its zone); up to nine fractional digits.

    A stamp without a zone is read as UTC: only differences matter, and no local clock may change them.
    """
    match = _ISO.fullmatch(text)
    if match is None:
        if text and not any(c.isdigit() for c in text):
            raise fail(field, f"{shown(text)} is no time: the file has no times; compare needs arrival times")
        raise fail(field, f"{shown(text)} is not a time like 2023-11-16 18:17:03.9799600")
    year, month, day, hour, minute, second, fraction, sign, zone_hour, zone_minute = match.groups()
    try:
        days = _days(int(year), int(month), int(day))
    except ValueError as error:
        raise fail(field, f"{shown(text)} is no date ({error})") from error
    if int(hour) > 23 or int(minute) > 59 or int(second) > 59:
        raise fail(field, f"{shown(text)} is no time of day; hours go to 23, minutes and seconds to 59")
    seconds = ((days * 24 + int(hour)) * 60 + int(minute)) * 60 + int(second)
    if sign:
        zone = (int(zone_hour) * 60 + int(zone_minute)) * 60
        seconds += zone if sign == "-" else -zone
    if seconds < 0:
        raise fail(field, f"{shown(text)} lies before 1970; shift the trace")
    nanoseconds = seconds * NANOSECONDS + (int(fraction.ljust(9, "0")) if fraction else 0)
    return arrival(nanoseconds, field, fail), sign is not None or text.endswith("Z")
