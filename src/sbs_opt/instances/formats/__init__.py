"""The trace formats: one literal table. A new format is a module with a `TraceFormat` and a line here."""

from __future__ import annotations

from sbs_opt.instances.formats.azure import AZURE
from sbs_opt.instances.formats.base import TraceFormat
from sbs_opt.instances.formats.mooncake import MOONCAKE
from sbs_opt.instances.formats.plain import SBS_CSV, SBS_JSONL

FORMATS: tuple[TraceFormat, ...] = (MOONCAKE, AZURE, SBS_CSV, SBS_JSONL)
