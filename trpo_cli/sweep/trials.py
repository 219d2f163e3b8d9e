"""The trials of a search: asks Optuna for values, runs each of their seeds, and reports the results back."""

from __future__ import annotations

import inspect
import json
import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import hydra.utils
import numpy as np
import optuna
from annotated_types import MinLen
from hydra.errors import InstantiationException
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import URL

from trpo_cli.errors import ConfigError, TrainingError
from trpo_cli.ranges import Count, NonNegativeInt
from trpo_cli.run.layout import SUMMARY
from trpo_cli.run.state import ENDED, FINISHED
from trpo_cli.shell import shell_argument
from trpo_cli.sweep.campaign import Campaign
from trpo_cli.sweep.job import Job
from trpo_cli.sweep.space import RUN_ONLY, Space

STUDY = "study.db"
WAYS_OUT = (
    "episodes have more time to end with fewer sampler.num_envs or more total_steps, "
    "and hydra.sweeper.metric=final_evaluation_return does not depend on them"
)
OVER_SEEDS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "median": statistics.median,
    "min": min,
    "max": max,
}


@dataclass(frozen=True)
class Options:
    """The options of a search, `hydra.sweeper.*`."""

    n_trials: Count
    seeds: Annotated[list[NonNegativeInt], MinLen(1)]
    trials_at_once: Count
    seeds_at_once: Count
    metric: Literal["final_training_return", "final_evaluation_return", "best_training_return"]
    over_seeds: Literal["mean", "median", "min", "max"]
    direction: Literal["maximize", "minimize"]
    seed: NonNegativeInt
    sampler: dict[str, Any]
    pruner: dict[str, Any]


class Trials:
    """The trials of a search. Optuna keeps them in `study.db`, an SQLite file that survives `kill -9`."""

    def __init__(self, directory: Path, space: Space, options: Options) -> None:
        self.directory, self.space, self.options = directory, space, options
        address = URL.create("sqlite", database=str(directory / STUDY)).render_as_string()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.study = optuna.create_study(
            storage=address,
            study_name="search",
            direction=options.direction,
            pruner=instantiate("pruner", options.pruner),
            load_if_exists=True,
        )
        self._refuse_other_search()

    def _refuse_other_search(self) -> None:
        """Raise `ConfigError` if the directory holds the trials of another search."""
        given = {
            "space": self.space.describe(),
            "constants": [text for text in self.space.constants if not text.startswith(RUN_ONLY)],
            "seeds": self.options.seeds,
            "metric": [self.options.metric, self.options.over_seeds, self.options.direction],
        }
        for name, value in given.items():
            before = self.study.user_attrs.get(name, value)
            if before != value:
                raise ConfigError(f"{self.directory} holds another search, with {name} {before} instead of {value}")
            self.study.set_user_attr(name, value)

    def run(self, campaign: Campaign, default: Mapping[str, Any] | None) -> None:
        """Run every trial to its end, interrupted ones first. The values `default`, if any, are the first trial."""
        before = self.all()
        if default is not None and not self.study.get_trials(deepcopy=False):
            self.study.enqueue_trial(dict(default))
        campaign.status.add([job for trial in before if trial.state.is_finished() for job in self.jobs(trial)])
        while batch := self._batch():
            self._evaluate(campaign, batch)

    def all(self) -> list[FrozenTrial]:
        """All trials that have been started, in order."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state is not TrialState.WAITING]

    def jobs(self, trial: FrozenTrial | Trial, seeds: Sequence[int] | None = None) -> list[Job]:
        """The jobs of a trial, one for each of `seeds`, by default those that have a result."""
        given = self.options.seeds[: len(trial.intermediate_values)] if isinstance(trial, FrozenTrial) else []
        texts = self.space.overrides(trial.params)
        names = [(f"trial_{trial.number:03d},seed={seed}", seed) for seed in (given if seeds is None else seeds)]
        return [Job(name, (*texts, f"seed={seed}"), self.directory / name) for name, seed in names]

    def _batch(self) -> list[Trial]:
        """The trials to run next. Trial numbers delimit batches, so that a resumed search asks in the same order."""
        together = self.options.trials_at_once
        asked = self.all()
        batch = [self._reopen(trial) for trial in asked if trial.state is TrialState.RUNNING]
        count = len(asked)
        while count < self.options.n_trials and (not batch or count % together):
            batch.append(self._ask(count))
            count += 1
        return batch

    def _ask(self, number: int) -> Trial:
        """A new trial. It draws from a seed of its own, so that interruptions change nothing."""
        self._seed(number)
        return self.study.ask(dict(self.space.distributions))

    def _seed(self, number: int) -> None:
        [seed] = np.random.SeedSequence([self.options.seed, number]).generate_state(1)
        self.study.sampler = instantiate("sampler", self.options.sampler, seed=int(seed))

    def _reopen(self, known: FrozenTrial) -> Trial:
        """An interrupted trial. Values that it lacks are drawn as they would have been without the interruption."""
        missing = self.space.distributions.keys() - known.params.keys()
        if missing:
            self._seed(known.number)
        trial = Trial(self.study, known._trial_id)
        for name, distribution in self.space.distributions.items() if missing else ():
            if name in known.params and name not in known.system_attrs.get("fixed_params", {}):
                self.study.sampler.sample_independent(self.study, known, name, distribution)  # repeats the draw
            trial._suggest(name, distribution)
        return trial

    def _evaluate(self, campaign: Campaign, trials: list[Trial]) -> None:
        """Run the trials, a few seeds at a time; after each step, failed and pruned trials drop out."""
        seeds, together = self.options.seeds, self.options.seeds_at_once
        for first in range(0, len(seeds), together):
            some = seeds[first : first + together]
            jobs = {trial.number: self.jobs(trial, some) for trial in trials}
            self._run(campaign, [job for each in jobs.values() for job in each])
            trials = [trial for trial in trials if self._record(campaign, trial, jobs[trial.number], first)]
        for trial in trials:
            self._tell(trial, TrialState.COMPLETE)

    def _run(self, campaign: Campaign, jobs: Sequence[Job]) -> None:
        campaign.wait(jobs)  # workers of a killed search may still be running them
        campaign.run(jobs)
        if any(campaign.state(job).status not in ENDED for job in jobs):
            place = shell_argument("sweep.resume=", self.directory)
            raise TrainingError(
                f"the search stopped, since one of its jobs was stopped before its end; {place} resumes it"
            )

    def _record(self, campaign: Campaign, trial: Trial, jobs: Sequence[Job], first: int) -> bool:
        """Report the results of these jobs to Optuna. Returns whether the trial continues."""
        before = self._values(trial)
        for index, job in enumerate(jobs, first):
            state = campaign.state(job)
            value = result(job, self.options.metric) if state.status == FINISHED else state.error or "the run failed"
            if isinstance(value, str):
                trial.set_user_attr("error", value)
                self._tell(trial, TrialState.FAIL)
                return False
            if index >= len(before):
                trial.report(value, index)
        # no second decision after an interruption: it might differ, since other trials may have ended since
        if len(before) > first or first + len(jobs) == len(self.options.seeds) or not trial.should_prune():
            return True
        self._tell(trial, TrialState.PRUNED)
        return False

    def _values(self, trial: Trial) -> list[float]:
        return list(self.study.get_trials(deepcopy=False)[trial.number].intermediate_values.values())

    def _tell(self, trial: Trial, state: TrialState) -> None:
        value = OVER_SEEDS[self.options.over_seeds](self._values(trial)) if state is TrialState.COMPLETE else None
        self.study.tell(trial, value, state)
        outcome = f"{value:.5g}" if value is not None else trial.user_attrs.get("error", "")
        print("  ".join([f"{state.name.lower():8}", f"trial_{trial.number:03d}", outcome]).rstrip(), flush=True)


def instantiate(kind: str, node: Mapping[str, Any], **arguments: Any) -> Any:
    """Optuna's `sampler` or `pruner` described by `node`. Raises `ConfigError` if it cannot be made."""
    from trpo_cli.config.build import check_value

    path = f"hydra.sweeper.{kind}"
    try:
        known = inspect.signature(hydra.utils.get_class(node["_target_"])).parameters
        for key in known.keys() & node.keys():
            if type(known[key].default) in (bool, int, float):  # Optuna checks these late or never
                check_value(node[key], type(known[key].default), f"{path}.{key}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return hydra.utils.instantiate(dict(node), **arguments)
    except (InstantiationException, ImportError, AttributeError) as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from error


def result(job: Job, metric: str) -> float | str:
    """The result of a finished run; if it is no finite number, a text that says why."""
    summary = json.loads((job.directory / SUMMARY).read_text(encoding="utf-8"))
    value: float | None = summary[metric]
    if value is None and "training" in metric:
        return f"no episode ended in {summary['env_steps']:,} steps, so there is no {metric}; {WAYS_OUT}"
    if value is None:
        return "the environments of the last evaluation failed; the log says how"
    return value if math.isfinite(value) else f"its {metric} is {value}"
