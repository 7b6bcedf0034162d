"""Numbers as text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sbs_opt.reports.numbers import ABSENT, count, duration, milliseconds, percent, significant


@given(st.floats(1e-9, 1e9))
def test_three_digits_are_within_half_a_unit_of_the_last(value: float) -> None:
    text = significant(value)
    assert "e" not in text
    shown = float(text.replace(",", ""))
    assert abs(shown - value) <= 0.51e-2 * value


@given(st.floats(0.001, 1e6), st.floats(0.001, 1e6))
def test_order_survives(a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert float(significant(low).replace(",", "")) <= float(significant(high).replace(",", ""))


def test_forms() -> None:
    assert [significant(v) for v in (0, 0.0421, 1.5, 23.44)] == ["0", "0.0421", "1.50", "23.4"]
    assert [significant(v) for v in (999.6, 1234.5)] == ["1,000", "1,234"]
    assert [duration(v) for v in (0, 0.0421, 1.5, 120.0)] == ["0 s", "42.1 ms", "1.50 s", "120 s"]
    assert (percent(0.1234), count(12345.0), milliseconds(0.002)) == ("12.3 %", "12,345", "2.00")
    assert [form(None) for form in (significant, percent, count, milliseconds)] == [ABSENT] * 4
