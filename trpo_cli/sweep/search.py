"""Hyperparameter search with Optuna. Each trial is a set of values; each of its seeds is a job, as in any sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trpo_cli.errors import ConfigError, RunDirectoryError, TrainingError, require_packages
from trpo_cli.sweep.job import Job
from trpo_cli.sweep.sweeper import Sweep

if TYPE_CHECKING:  # Optuna is optional
    from trpo_cli.sweep.space import Space
    from trpo_cli.sweep.trials import Options, Trials

EVALUATED = "final_evaluation_return"


class Search(Sweep):
    """The sweeper of `trpo-train -m hydra/sweeper=optuna`."""

    __module__ = "hydra_plugins.trpo_cli"  # Hydra accepts sweepers from this namespace only

    def __init__(self, params: dict[str, str] | None, **options: Any) -> None:
        super().__init__(None, params)
        self.given = options

    def sweep(self, arguments: list[str]) -> None:
        """Run the trials that have not ended. Raises `ConfigError` if there is nothing to search, or no Optuna."""
        require_packages("hydra/sweeper=optuna", "optuna", "optuna")
        from trpo_cli.sweep.space import make_space

        options = self._options()
        overrides = self.parse_overrides(arguments)
        plain = [str(each.input_line) for each in overrides if not each.is_sweep_override()]
        config = self.campaign.compose(plain)
        if options.metric == EVALUATED and not config.eval.every:
            raise ConfigError(f"hydra.sweeper.metric: {EVALUATED} needs evaluations, but eval.every=0 turns them off")
        found = make_space(overrides, config)
        default = found.default(config)
        sample = self._sample(found, options) if default is None else default
        self.campaign.compose(found.overrides(sample))  # raises for a key that does not exist, before any trial
        if self.campaign.settings.dry_run:
            self._dry_run(found, options, sample, default is not None)
        else:
            self._search(found, options, default)

    def _options(self) -> Options:
        from trpo_cli.config.build import fill
        from trpo_cli.sweep.trials import Options

        options = fill(Options, self.given, "hydra.sweeper.")
        if len(set(options.seeds)) < len(options.seeds):
            raise ConfigError(f"hydra.sweeper.seeds: got {options.seeds}; each seed may occur only once")
        return options

    def _search(self, space: Space, options: Options, default: dict[str, Any] | None) -> None:
        from optuna.exceptions import StorageInternalError

        from trpo_cli.sweep.trials import Trials

        try:
            with self.campaign.stoppable():
                with self.campaign as campaign:
                    trials = Trials(campaign.directory, space, options)
                    trials.run(campaign, default)
                self._conclude(trials)
        except StorageInternalError as error:
            raise RunDirectoryError(f"{self.campaign.directory}: the study cannot be saved: {error}") from error

    def _conclude(self, trials: Trials) -> None:
        """Print and save the results. Raises `TrainingError` if no trial is complete."""
        from trpo_cli.sweep import results

        results.write(trials)
        print(f"\n{results.table(trials)}")
        if self.campaign.settings.report:
            self.campaign.report()
        if not any(trial.state.name == "COMPLETE" for trial in trials.all()):
            first = next((trial.user_attrs["error"] for trial in trials.all() if "error" in trial.user_attrs), "")
            raise TrainingError(f"no trial has a result. The first failed: {first}")
        print(f"best trial:  {results.best_command(trials)}")

    def _sample(self, space: Space, options: Options) -> dict[str, Any]:
        """A random point of the space."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(options.seed))
        return study.ask(dict(space.distributions)).params

    def _dry_run(self, space: Space, options: Options, sample: dict[str, Any], is_default: bool) -> None:
        """Print the search space and build one sample of it. Raises `TrainingError` if the sample cannot start."""
        from trpo_cli.parts.building import check

        for key, words in space.describe().items():
            print(f"{key}: {words}")
        texts = (*space.overrides(sample), f"seed={options.seeds[0]}")
        if problem := self.campaign.find_problem(Job("sample", texts, self.campaign.directory / "sample"), check):
            raise TrainingError(f"a sample cannot start: {' '.join(texts)}: {problem}")
        runs = options.n_trials * len(options.seeds)
        what = "the default configuration is the first trial" if is_default else "the default lies outside the space"
        print(f"{options.n_trials} trials of {len(options.seeds)} seeds, at most {runs} jobs; {what}; nothing was run")
