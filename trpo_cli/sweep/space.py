"""The search space: Hydra's sweep grammar as Optuna's distributions, and values as overrides again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from trpo_cli.errors import ConfigError, did_you_mean

TAGS = ("log", "int", "float")
RUN_ONLY = ("hydra", "resume=", "sweep.")
"""Prefixes of overrides that say how to run trials, and so are no part of the space."""


@dataclass(frozen=True)
class Space:
    """What is searched, by the key of its override, and the overrides that all trials share."""

    distributions: Mapping[str, BaseDistribution]
    constants: tuple[str, ...]

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """The overrides of a trial with these values. A category is the text from the command line."""
        return [*self.constants, *(f"{key}={params[key]}" for key in self.distributions)]

    def default(self, config: DictConfig) -> dict[str, Any] | None:
        """The values in `config`; None if one of them lies outside the space."""
        values = {key: _configured_value(config, key, each) for key, each in self.distributions.items()}
        return values if all(_contains(each, values[key]) for key, each in self.distributions.items()) else None

    def describe(self) -> dict[str, str]:
        """A description of each key's values."""
        return {key: _describe(each) for key, each in self.distributions.items()}


def make_space(overrides: Sequence[Override], config: DictConfig) -> Space:
    """The search space that these overrides describe; the types of its numbers come from `config`.

    Raises `ConfigError` if no key has several values, or a key cannot be searched.
    """
    last = {override.get_key_element(): override for override in overrides}
    if "seed" in last:
        raise ConfigError("seed: cannot be searched; hydra.sweeper.seeds=[0,1,2] sets the seeds of each trial")
    searched = {key: _distribution(key, each, config) for key, each in last.items() if each.is_sweep_override()}
    if not searched:
        raise ConfigError("nothing to search: give a key several values, for example 'algo.delta=interval(0.003,0.1)'")
    constants = [
        f"{key}={each.get_value_element_as_str()}" if not each.is_delete() else str(each.input_line)
        for key, each in last.items()
        if key not in searched
    ]
    return Space(searched, tuple(constants))


def _distribution(key: str, override: Override, config: DictConfig) -> BaseDistribution:
    sweep: Any = override.value()
    tags: set[str] = getattr(sweep, "tags", set())
    for tag in tags - set(TAGS):
        raise ConfigError(
            f"{key}: unknown tag '{tag}'" + (did_you_mean(tag, TAGS) or f"; choose from {', '.join(TAGS)}")
        )
    try:
        match sweep:
            case IntervalSweep():
                return _interval(key, sweep, OmegaConf.select(config, key.lstrip("+")))
            case RangeSweep():
                return _range(sweep)
    except ValueError as error:
        raise ConfigError(f"{key}: {override.get_value_string()}: {error}") from error
    if tags or getattr(sweep, "shuffle", False):
        raise ConfigError(f"{key}: {override.get_value_string()}: choices take no tags and cannot be shuffled")
    return CategoricalDistribution(tuple(dict.fromkeys(override.sweep_string_iterator())))


def _interval(key: str, sweep: IntervalSweep, default: object) -> BaseDistribution:
    low, high, log = float(sweep.start or 0), float(sweep.end or 0), "log" in sweep.tags
    if "int" in sweep.tags or type(sweep.start) is int:
        return IntDistribution(int(low), int(high), log=log)
    if type(default) is int and "float" not in sweep.tags:
        raise ConfigError(
            f"{key}: {default} is a whole number; write tag(int,interval({low:g},{high:g})) or tag(float,interval(...))"
        )
    return FloatDistribution(low, high, log=log)


def _range(sweep: RangeSweep) -> BaseDistribution:
    values = sorted(sweep.range())
    if not values:
        raise ValueError("the range is empty")
    log = "log" in sweep.tags
    if isinstance(values[0], int):
        return IntDistribution(values[0], values[-1], log=log, step=int(abs(sweep.step)))
    return FloatDistribution(values[0], values[-1], log=log, step=float(abs(sweep.step)))


def _configured_value(config: DictConfig, key: str, distribution: BaseDistribution) -> Any:
    """The value of a key without its override: a number, or the text of a category."""
    choices = config.hydra.runtime.choices
    value = choices[key] if key in choices else OmegaConf.select(config, key)
    if not isinstance(distribution, CategoricalDistribution):
        return value
    plain: Any = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    return Transformer.str(plain)


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return value in choices
        case IntDistribution(low=low, high=high, step=step):
            return isinstance(value, int) and low <= value <= high and (value - low) % step == 0
        case FloatDistribution(low=low, high=high, step=None):
            return isinstance(value, int | float) and low <= value <= high
    return False


def _describe(distribution: BaseDistribution) -> str:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return f"one of {', '.join(map(str, choices))}"
        case IntDistribution(low=low, high=high, step=step, log=log):
            scale = ", log scale" if log else f", by {step}" if step > 1 else ""
            return f"a whole number from {low} to {high}{scale}"
        case FloatDistribution(low=low, high=high, step=step, log=log):
            scale = ", log scale" if log else f", by {step:g}" if step else ""
            return f"from {low:g} to {high:g}{scale}"
    raise TypeError(distribution)
