"""What a study says, for a terminal, for a program and for a browser; nothing is computed here but rankings."""

from __future__ import annotations

from sbs_opt.reports.html.page import html_report
from sbs_opt.reports.json_rows import compare_json
from sbs_opt.reports.request_notes import too_long_notes
from sbs_opt.reports.table import comparison_tables

__all__ = ["compare_json", "comparison_tables", "html_report", "too_long_notes"]
