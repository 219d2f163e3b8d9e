"""Errors in environments, raised where neither the name of the task nor the step is known."""

from __future__ import annotations

from trpo_cli.errors import EnvironmentContractError, EnvironmentFault, UserError
from trpo_cli.run.signals import Stopped

INTERRUPTS = (Stopped, KeyboardInterrupt)
"""Raised by signals, even inside an environment. Anything else, even `SystemExit`, is an error of the environment."""


class Failure(Exception):
    """An error in an environment as plain text, which crosses processes: `summary`, the step, `details`."""

    def __init__(self, summary: str, details: str = "") -> None:
        super().__init__(summary, details)
        self.summary, self.details = summary, details

    def as_user_error(self, name: str, step: int) -> UserError:
        """This error for the user, with the name of the environment and the step."""
        return EnvironmentFault(f"{name}{self.summary} at step {step}{self.details}")


class ContractViolation(Failure):
    """An environment returned something it does not declare. That is a mistake in its code and would happen again."""

    def as_user_error(self, name: str, step: int) -> UserError:
        return EnvironmentContractError(f"{name}{self.summary} at step {step}{self.details}")


def as_failure(index: int, error: BaseException, where: str = "") -> Failure:
    """A `Failure` for an `error` that environment `index` raised. Raises `INTERRUPTS` again."""
    if isinstance(error, INTERRUPTS):
        raise error
    return Failure(f" raised{where}", f" of environment {index}: {describe_error(error)}")


def describe_error(error: BaseException) -> str:
    """The class of an error, and its message if it has one."""
    name, said = type(error).__name__, str(error)
    return f"{name}: {said}" if said else name
