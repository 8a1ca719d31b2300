"""Moments of a run as people write them."""

from datetime import UTC, datetime


def moment(iso: str) -> str:
    """``26 November 2026, 15:20 UTC`` of a time in ISO 8601; without a zone it is taken for UTC.

    What is no time stays as it is: files of results come from elsewhere too.
    """
    when = _parsed(iso)
    return iso if when is None else f"{_day(when)}, {when:%H:%M} UTC"


def span(started: str, finished: str) -> str:
    """From when to when, the day said once: ``26 November 2026, 15:20 to 15:24 UTC``."""
    first, last = _parsed(started), _parsed(finished)
    if first is None or last is None or first.date() != last.date():
        return f"{moment(started)} to {moment(finished)}"
    if f"{first:%H:%M}" == f"{last:%H:%M}":
        return moment(started)
    return f"{_day(first)}, {first:%H:%M} to {last:%H:%M} UTC"


def _parsed(iso: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(iso)
    except ValueError:
        return None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def _day(when: datetime) -> str:
    return f"{when.day} {when:%B %Y}"
