"""Time: one form, exact to the millisecond, in the order of the text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.errors import FormatError
from tapestry.protocol.clock import add_seconds, format_time, parse_time, seconds_between

moments = st.datetimes(timezones=st.just(UTC)).map(
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
)


@given(moments)
def test_both_ways(moment: datetime) -> None:
    assert parse_time(format_time(moment)) == moment


@given(moments, moments)
def test_text_sorts_as_time_does(one: datetime, other: datetime) -> None:
    assert (one < other) == (format_time(one) < format_time(other))
    assert seconds_between(format_time(one), format_time(other)) == (other - one).total_seconds()


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
    st.integers(-(10**9), 10**9),
)
def test_adding_is_exact_in_milliseconds(moment: datetime, ms: int) -> None:
    start = format_time(moment)
    assert parse_time(add_seconds(start, ms / 1000)) == parse_time(start) + timedelta(milliseconds=ms)


def test_other_zones_become_utc_and_microseconds_are_cut() -> None:
    moment = datetime(2026, 5, 1, 1, 0, 0, 999_999, tzinfo=timezone(timedelta(hours=2)))
    assert format_time(moment) == "2026-04-30T23:00:00.999Z"
    assert format_time(datetime(1, 1, 1, tzinfo=UTC)) == "0001-01-01T00:00:00.000Z"
    with pytest.raises(ValueError, match="time zone"):
        format_time(datetime(2026, 5, 1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-05-01",
        "2026-05-01T12:00:00Z",
        "2026-05-01T12:00:00.000",
        "2026-05-01T12:00:00.000+00:00",
        "2026-05-01T12:00:00.000Z\n",
        "2026-05-01 12:00:00.000Z",
        "2026-13-01T12:00:00.000Z",
        "2026-02-29T12:00:00.000Z",
        "2026-05-01T24:00:00.000Z",
        "2026-05-01T23:59:60.000Z",
        "0000-05-01T12:00:00.000Z",
        "٢٠٢٦-05-01T12:00:00.000Z",
    ],
)
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        parse_time(text)


def test_the_calendar_ends() -> None:
    with pytest.raises(FormatError, match="calendar"):
        add_seconds("9999-12-31T23:59:59.999Z", 1)
