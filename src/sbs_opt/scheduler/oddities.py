"""Counts of legal but contradictory input: duplicated, late or unknown events never raise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Oddities:
    """How often each kind of contradiction was met."""

    duplicate_arrivals: int = 0
    unknown_ids: int = 0
    late_passes: int = 0
    lost_passes: int = 0
    lost_first_tokens: int = 0
    late_reports: int = 0
    late_failures: int = 0
    malformed_reports: int = 0
    unknown_instances: int = 0
