"""`edgeseq report`: what a bundle is and whether it computes what PyTorch computes, on one page that needs no network."""

from edgeseq_runtime.report.measured import Report, measure_report
from edgeseq_runtime.report.page import page_html, write_page

__all__ = ["Report", "measure_report", "page_html", "write_page"]
