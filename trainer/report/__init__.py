"""The page a run ends with, one HTML file: `build_report(run_dir)`."""

from trainer.report.page import build_report

__all__ = ["build_report"]
