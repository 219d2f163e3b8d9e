"""What goes wrong in an environment, as those who notice it can say it: they know neither the task nor the step."""

from __future__ import annotations

from trpo_cli.errors import EnvironmentFault, EnvironmentMisfit, UserError
from trpo_cli.run.signals import Stopped

NOT_ITS_OWN = (Stopped, KeyboardInterrupt)
"""What the program raises wherever it is, inside an environment too. All else is the environment's, `sys.exit` too."""


class Failure(Exception):
    """`what` went wrong, in words that the step follows, and `more` after it; plain text, for it crosses processes."""

    def __init__(self, what: str, more: str = "") -> None:
        super().__init__(what, more)
        self.what, self.more = what, more

    def fault(self, name: str, step: int) -> UserError:
        """The same of the environment `name` at a step."""
        return EnvironmentFault(f"{name}{self.what} at step {step}{self.more}")


class Misfit(Failure):
    """An environment returned what it does not declare: it is written that way, and would do so again."""

    def fault(self, name: str, step: int) -> UserError:
        return EnvironmentMisfit(f"{name}{self.what} at step {step}{self.more}")


def raised(index: int, error: BaseException, where: str = "") -> Failure:
    """Environment `index` raised `error`. What is not its own is raised again."""
    if isinstance(error, NOT_ITS_OWN):
        raise error
    return Failure(f" raised{where}", f" of environment {index}: {worded(error)}")


def worded(error: BaseException) -> str:
    """The class of an error, and what it says if it says anything."""
    name, said = type(error).__name__, str(error)
    return f"{name}: {said}" if said else name
