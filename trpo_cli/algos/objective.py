"""Which surrogate an algorithm maximises, and what it asks of the sampler."""

from __future__ import annotations

from trpo_cli.errors import ConfigError
from trpo_cli.samplers import PolicySampler
from trpo_cli.surrogates import Surrogate, full_action_sum, importance_sampled, self_normalised

NEEDS_SEVERAL, NEEDS_ALL = (self_normalised,), (full_action_sum,)
"""Those that weigh several actions of a state, or all of them, against each other."""


def fitting_surrogate(sampler: PolicySampler) -> Surrogate:
    """The estimator for the actions that the sampler tries, where the configuration names none."""
    if not sampler.random:
        return full_action_sum
    return self_normalised if sampler.actions_per_state > 1 else importance_sampled


def refuse_too_few_actions(surrogate: Surrogate, sampler: PolicySampler) -> None:
    """Raise `ConfigError` if the surrogate needs more actions of a state than the sampler tries."""
    function = getattr(surrogate, "func", surrogate)  # without its keyword arguments
    tries = "all" if sampler.tries_all else "several" if sampler.actions_per_state > 1 else "one"
    if function in NEEDS_ALL and tries != "all":
        needed, setting = "all", "all"
    elif function in NEEDS_SEVERAL and tries == "one":
        needed, setting = "several", "4"
    else:
        return
    raise ConfigError(
        f"algo.surrogate: {function.__name__} weighs {needed} actions of each state against each other, and the "
        f"sampler tries {tries}; sampler=vine with sampler.actions_per_state={setting} tries {needed}"
    )
