"""`python -m trpo_cli` is `trpo-train`."""

from trpo_cli.start import train

train()
