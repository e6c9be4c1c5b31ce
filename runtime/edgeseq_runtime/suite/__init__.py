"""Parity of many bundles: found in folders, measured in parallel processes, reported to continuous integration."""

from edgeseq_runtime.suite.find import find_bundles
from edgeseq_runtime.suite.junit import junit_xml
from edgeseq_runtime.suite.outcome import Job, Outcome, exit_code, failed, failures, measure, metric_text, row_text, suite_json
from edgeseq_runtime.suite.workers import default_jobs, measure_all

__all__ = [
    "Job",
    "Outcome",
    "default_jobs",
    "exit_code",
    "failed",
    "failures",
    "find_bundles",
    "junit_xml",
    "measure",
    "measure_all",
    "metric_text",
    "row_text",
    "suite_json",
]
