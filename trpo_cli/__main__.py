"""`python -m trpo_cli` is `trpo-train`."""

from trpo_cli.cli.start import train

train()
