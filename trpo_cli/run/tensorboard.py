"""Writes a run for TensorBoard: the rows as scalars, and a description of the run.

Everything is in one event stream. Each session, which is a start or a resume, begins with its configuration and
versions as text, the settings that affect learning for the HParams tab, and a layout of charts. That tab gets no
`Experiment`: without one, TensorBoard shows the settings of all runs, differing ones first, and every scalar as a
metric; with one, it would show only those of a single run. It ticks the first few of each by name, capital letters
before small ones: so the task and the returns have names that come before all others.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from trpo_cli import columns
from trpo_cli.config.settings import select_decisive
from trpo_cli.run.event_files import cut_back

LAYOUT = {
    "return": {
        "training and evaluation": [
            "rollout/episode_return_mean",
            "rollout/recent_return_mean",
            "eval/episode_return_mean",
        ],
        "episode length": ["rollout/episode_length_mean", "eval/episode_length_mean"],
    },
    "trust region": {
        "KL, its largest, and the radius": ["policy/kl", "policy/max_kl", "trust_region/delta"],
        "improvement of the objective, predicted and measured, and of its surrogate": [
            "trust_region/predicted_improvement",
            "trust_region/improvement",
            "policy/surrogate_improvement",
        ],
        "residual of conjugate gradient": ["trust_region/cg_residual"],
        "curvature": ["trust_region/curvature"],
        "step length": ["trust_region/step_length"],
        "backtracks, and whether the step was accepted": ["trust_region/backtracks", "trust_region/accepted"],
        "entropy": ["policy/entropy"],
    },
    "critic": {"explained variance": ["critic/explained_variance"], "loss": ["critic/loss"]},
    "time": {
        "steps a second": ["time/steps_per_second"],
        "seconds an iteration": ["time/sample_seconds", "time/update_seconds"],
    },
}
"""Category -> chart -> tags, for the Custom Scalars tab."""
TASK = "Environment"
HEADLINE, EVALUATION = "Return/training", "Return/evaluation"
"""Names that the HParams tab shows first: the task, and a second time the headline and the evaluation."""
EXTENDED = "total_steps"  # may differ between sessions, but TensorBoard keeps the settings of the first


class TensorBoard:
    """Writes rows until it is closed. Missing values are skipped."""

    def __init__(self, directory: Path, rows: Sequence[Mapping[str, float]], env_steps: int, headline: str) -> None:
        """Continue after `env_steps` steps and these rows: later points are deleted, and missing rows are added.

        `headline` is the metric that says how good the policy is.
        """
        missing = cut_back(directory, env_steps)
        purge = missing if rows else None  # tells a running TensorBoard to drop later points
        self._writer, self._step = SummaryWriter(str(directory), purge_step=purge), env_steps
        self._first = {HEADLINE: headline, EVALUATION: columns.EVALUATION}
        for row in rows:
            if row["env_steps"] >= missing:
                self.write(int(row["env_steps"]), row)

    def write(self, env_steps: int, metrics: Mapping[str, float | None]) -> None:
        """Add every value as a point at `env_steps`."""
        self._step = env_steps
        for name, value in [*metrics.items(), *((name, metrics.get(of)) for name, of in self._first.items())]:
            if value is not None and name != "env_steps":
                self._writer.add_scalar(name, value, self._step)

    def describe(self, config: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Begin a session: write its configuration, versions, settings and charts."""
        self._writer.add_text("run/config", f"```yaml\n{yaml.safe_dump(dict(config), sort_keys=False)}```", self._step)
        self._writer.add_text("run/provenance", _markdown_table(provenance), self._step)
        self._writer.add_custom_scalars({name: _charts(charts) for name, charts in LAYOUT.items()})
        _, start, _ = hparams(_settings(config), {})
        self._add(start)
        self._writer.flush()

    def close(self, finished: bool) -> None:
        """Close the files; mark the run as finished if it is."""
        if finished:
            _, _, end = hparams({}, {})
            self._add(end)
        self._writer.close()

    def _add(self, summary: Any) -> None:
        self._writer._get_file_writer().add_summary(summary, self._step)


def _charts(charts: Mapping[str, list[str]]) -> dict[str, list[Any]]:
    return {title: ["Multiline", tags] for title, tags in charts.items()}


def _settings(config: Mapping[str, Any]) -> dict[str, float | str]:
    """The chosen options and the flat keys that affect learning; values other than numbers become text."""
    chosen = {**config["choices"], "seed": config["seed"], **select_decisive(config)}
    chosen[TASK] = chosen.pop("env.id")
    if chosen[TASK] == chosen.get("env"):
        del chosen["env"]
    return {
        key: value if isinstance(value, float | int) and not isinstance(value, bool) else str(value)
        for key, value in chosen.items()
        if value is not None and key not in ("logger", EXTENDED) and not key.endswith("_target_")
    }


def _markdown_table(provenance: Mapping[str, Any]) -> str:
    """The command line, the git revision and the versions, in Markdown."""
    facts = {
        "command": f"`{shlex.join(['trpo-train', *sys.argv[1:]])}`",
        "git revision": provenance["git_revision"] or "not a git checkout",
        **provenance["versions"],
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())])
