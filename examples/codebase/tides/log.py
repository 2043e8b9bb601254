"""The log of a gauge: one reading per line, `2026-03-01T04:10Z 312`."""

from datetime import datetime
from pathlib import Path
from statistics import median

SPIKE = 40  # centimetres from the median of the neighbours: a gull on the float, or a passing ship


def read_log(path: Path) -> list[tuple[datetime, int]]:
    """Time (UTC) and height (centimetres above chart datum) of each reading. Raises ValueError for a malformed line."""
    readings = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        when, space, height = line.partition(" ")
        if not space:
            raise ValueError(f"{path}:{number}: no height")
        readings.append((datetime.fromisoformat(when), int(height)))
    return readings


def without_spikes(readings: list[tuple[datetime, int]]) -> list[tuple[datetime, int]]:
    """The readings that are within SPIKE of the median of the two before and the two after."""
    kept = []
    for at, (when, height) in enumerate(readings):
        near = [h for _, h in readings[max(0, at - 2) : at + 3]]
        if abs(height - median(near)) <= SPIKE:
            kept.append((when, height))
    return kept
