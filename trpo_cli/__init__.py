"""Trust-region policy optimisation from the command line. Read `train.py` first."""

__version__ = "0.1.0"
