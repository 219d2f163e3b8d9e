"""`python -m trpo_cli.report` is `trpo-report`."""

from trpo_cli.cli.start import report

report()
