"""Measures coverage, and reports it within pytest's own summary.

Loaded with ``-p tests.measure``. Trepid's pytest plugin is an entry point, so the package is imported before an
ordinary coverage plugin would begin; a plugin named on the command line comes earlier. The report stands above the
closing line of pytest, which stays the last word of the run.

The processes of pytest-xdist are measured like those that tests start: coverage begins in them by itself, before
anything is imported. They only have to write down what they have when they are done.
"""

import io
import os
import warnings

import coverage
import coverage.exceptions
import pytest

IN_WORKER = "PYTEST_XDIST_WORKER" in os.environ

if IN_WORKER:
    measurement = coverage.Coverage.current()
else:
    measurement = coverage.Coverage(auto_data=False, messages=False)
    measurement.erase()
    measurement.start()
report = io.StringIO()


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session):
    outcome = yield
    if session.config.option.collectonly:
        return outcome
    measurement.stop()
    measurement.save()
    if IN_WORKER:
        return outcome
    combined = coverage.Coverage()
    with warnings.catch_warnings():
        # A process that a test has killed leaves half a file; what it ran is missed, and that is all.
        warnings.filterwarnings("ignore", ".*data file", coverage.exceptions.CoverageWarning)
        combined.combine()
    combined.save()
    covered = round(combined.report(file=report), 2)
    wanted = combined.get_option("report:fail_under")
    if covered < wanted:
        session.testsfailed += 1
        report.write(f"\nFAIL: {covered} % of the code is covered, at least {wanted} % must be.\n")
    return outcome


def pytest_terminal_summary(terminalreporter):
    if text := report.getvalue():
        terminalreporter.section("coverage")
        terminalreporter.write_line(text.rstrip())
