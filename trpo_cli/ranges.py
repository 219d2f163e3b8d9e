"""Ranges of settings as types, so that signatures are the schema of the configuration.

`config/build.py` checks every configured value against the annotation of the parameter that receives it.
"""

from __future__ import annotations

from math import inf
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

Positive = Annotated[float, Gt(0), Lt(inf)]
NonNegative = Annotated[float, Ge(0), Lt(inf)]
Finite = Annotated[float, Gt(-inf), Lt(inf)]
UnitInterval = Annotated[float, Ge(0), Le(1)]
Fraction = Annotated[float, Gt(0), Le(1)]
Shrink = Annotated[float, Gt(0), Lt(1)]
Seconds = Annotated[float, Gt(0), Le(1e6)]  # gloo counts nanoseconds
Count = Annotated[int, Ge(1)]
Span = Annotated[int, Ge(3)]  # steps that units at first remember; each another number, from 2 on
Threads = Annotated[int, Ge(1), Le(1024)]  # more threads can crash the process
NonNegativeInt = Annotated[int, Ge(0)]
