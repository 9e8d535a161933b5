"""The report of a sweep: one page of HTML that needs no other file and no network."""

from tuning.report.page import build_report, write_report

__all__ = ["build_report", "write_report"]
