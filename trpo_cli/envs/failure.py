"""What goes wrong in an environment, as those who notice it can say it: they know neither the task nor the step."""

from __future__ import annotations


class Failure(Exception):
    """`what` went wrong, in words that the step follows, and `more` after it; plain text, for it crosses processes."""

    def __init__(self, what: str, more: str = "") -> None:
        super().__init__(what, more)
        self.what, self.more = what, more


def raised(index: int, error: Exception, where: str = "") -> Failure:
    """Environment `index` raised `error`."""
    return Failure(f" raised{where}", f" of environment {index}: {type(error).__name__}: {error}")
