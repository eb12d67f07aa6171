"""Report: one evaluation as a page that explains itself, needs nothing, and can be printed."""

from steerkit.report.page import write_report as write_report
