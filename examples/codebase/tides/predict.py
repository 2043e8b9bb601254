"""When the next high water is."""

from datetime import datetime, timedelta

BETWEEN = timedelta(hours=12, minutes=25)  # two high waters of a half-day tide, on average


def high_waters(readings: list[tuple[datetime, int]]) -> list[datetime]:
    """The times of readings that are higher than the one before and not lower than the one after."""
    triples = zip(readings, readings[1:], readings[2:], strict=False)
    return [when for (_, before), (when, height), (_, after) in triples if before < height >= after]


def next_high_water(readings: list[tuple[datetime, int]]) -> datetime | None:
    """The last high water of the log plus 12 h 25 min; None if the log has fewer than two, as one may be a spike."""
    times = high_waters(readings)
    return times[-1] + BETWEEN if len(times) >= 2 else None
