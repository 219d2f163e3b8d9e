"""Messages about a run: how it starts, how to resume it, and its results."""

from __future__ import annotations

import contextlib
import logging
import math
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trpo_cli.cli.fitting_network import describe_fitting
from trpo_cli.cli.resume import Plan
from trpo_cli.columns import RETURN
from trpo_cli.config.settings import EVAL, TRAIN, Settings
from trpo_cli.errors import counted, enumerated
from trpo_cli.parts import INEXACT, Parts
from trpo_cli.run.progress import Progress, describe_end
from trpo_cli.run.signals import Stopped
from trpo_cli.shell import shell_argument, shell_command, short_path

if TYPE_CHECKING:
    from gymnasium import Space

    from trpo_cli.data import ObservationSpec
    from trpo_cli.envs.make import Task
    from trpo_cli.run.directory import Run

log = logging.getLogger("trpo_cli")
NORMALISED_IMAGES = (
    "env.normalize_observation: each pixel has a mean and a deviation of its own, and rollouts store floating-point "
    "numbers, whole stacks of them, which take much more memory than single frames of bytes"
)
FLAT_IMAGES = "observations hold images, which %s as flat numbers from 0 to 255"


def announce(parts: Parts, progress: Progress, plan: Plan, run: Run, overrides: Sequence[str]) -> None:
    """Log how a run, for which these overrides were typed, starts or resumes."""
    some = parts.environments[0]
    log.info("training on %s, writing to %s", parts.task.id, run.directory)
    if parts.sampler.random:
        log.info("%s, %s", counted(parts.num_envs, "environment"), some.how)
    if parts.shards.count > 1:
        log.info("%s in %s", counted(parts.shards.count, "shard"), counted(parts.shards.ranks.size, "process"))
    spec = some.spec
    if len(spec.entries) > 1:
        sizes = ", ".join(f"{entry.name} {entry.size}" for entry in spec.entries)
        log.info("the entries of observations are joined to %s numbers: %s", spec.size, sizes)
    if seen := _describe_view(parts.task, some.spaces[0], spec):
        log.info("the policy sees %s", seen)
    if rules := parts.task.describe_rules():
        log.info("%s", rules)
    if plan.continues:
        log.info("resuming after %s steps", f"{progress.env_steps:,}")
    elif parts.origin:
        source, taken = "{run} ({algo} on {task}, {env_steps:,} steps)".format(**parts.origin), parts.origin["taken"]
        log.info("begins with %s of %s", enumerated([f"the {name}" for name in taken]), source)
        for name, problem in parts.origin["not_taken"].items():
            log.warning("the %s of %s is not taken: %s", name, source, problem)
        for difference in parts.origin["differs"]:
            log.warning("the policy of %s was trained otherwise: %s", source, difference)
    for warning in run.warnings:
        log.warning("%s", warning)
    for change in plan.changes:
        log.warning("changed: %s", change)
    for key in plan.rescheduled:
        log.warning(
            "%s: its schedule ends at the new total_steps, so it may resume from another value than it had reached", key
        )
    if some.scale_notice and not plan.continues:
        log.log(logging.INFO if parts.task.rescale_action is True else logging.WARNING, some.scale_notice)
    if not plan.continues and (fitting := describe_fitting(plan.config, overrides)):
        log.info("%s", fitting)
    if any(part.is_image for part in spec.parts) and not plan.continues:
        if flat := [name for name in ("policy", "critic") if not getattr(parts, name).works_in_pieces]:
            log.warning(FLAT_IMAGES, "policy and critic read" if len(flat) > 1 else f"the {flat[0]} reads")
        if parts.normalizer.enabled:
            log.warning(NORMALISED_IMAGES)
    if parts.obstacle:
        log.warning(INEXACT, parts.obstacle)


@contextlib.contextmanager
def hint_at_resume(run: Run, settings: Settings, in_sweep: bool) -> Iterator[None]:
    """When a signal stops a run, print the command that resumes it. A sweep prints its own."""
    try:
        yield
    except Stopped as stopped:
        message = f"stopped by {stopped.by.name}; the last checkpoint is from step {run.saved:,}"
        log.warning(message)
        if not in_sweep:
            print(
                f"{message}\nresume it:  {format_resume_command(run.directory, settings.plugins)}",
                file=sys.stderr,
            )
        raise


def format_resume_command(directory: Path, plugins: Sequence[str]) -> str:
    """Return the command that resumes a run."""
    again = [shlex.quote(f"plugins=[{','.join(plugins)}]")] if plugins else []
    return " ".join([shell_command("trpo-train", plugins), shell_argument("resume=", directory), *again])


def print_results(
    parts: Parts, progress: Progress, settings: Settings, directory: Path, stopped: Mapping[str, Any] | None
) -> None:
    """Print the results, why the run `stopped` early if it did, where they are, and how to look at them."""
    place, plugins, seconds = shell_argument("", directory), settings.plugins, progress.seconds
    headline = parts.algorithm.headline
    reached = [
        f"{name} {value:.5g}"
        for name, value in (
            ("training return" if headline == RETURN else headline, progress.final_training_return),
            ("recent", progress.recent_training_return),
            ("best", progress.best_training_return),
            ("evaluation return", progress.final_evaluation_return),
        )
        if value is not None
    ]
    if progress.final_training_return is None:
        where = " in the last iteration" if progress.best_training_return is not None else ""
        reached.insert(0, f"no episode ended{where}" if headline == RETURN else f"no {headline}")
    print(f"{parts.task.id}: {', '.join(reached)} after {progress.env_steps:,} steps")
    count = parts.num_envs
    if headline == RETURN and progress.best_training_return is None and count > 1:
        each = f"each of {count} environments side by side took {progress.env_steps // count:,} of them"
        print(f"{each}; with a smaller sampler.num_envs each takes more, and episodes end sooner")
    if stopped:
        print(f"ended early by {describe_end(stopped)}")
    if progress.best.value is not None:
        what = {EVAL: "evaluation return", TRAIN: "training return" if headline == RETURN else headline}
        print(
            f"best checkpoint: {what[progress.best.by or EVAL]} {progress.best.value:.5g} "
            f"after {progress.best.env_steps:,} steps; --checkpoint best plays it"
        )
    print(f"{seconds:.0f} s, {progress.env_steps / seconds:,.0f} steps a second; the run is in {short_path(directory)}")
    print(f"look at it:  {shell_command('tensorboard')} --logdir {place}")
    allowed = f" --plugins {' '.join(plugins)}" if plugins else ""
    print(f"play it:     {shell_command('trpo-eval', plugins)} {place}{allowed}")


def _describe_view(task: Task, space: Space[Any], seen: ObservationSpec) -> str:
    """Say what a policy sees of an observation in this space, which becomes what is `seen`; empty if it sees all."""
    numbers, whole = seen.size // task.stack, math.prod(space.shape or ())
    some = f"{numbers} of the {counted(whole, 'number')} of an observation" if (task.observe or task.hide) else ""
    height_width = seen.newest[:2]
    image = f"{'grey ' * task.grey}images of {' x '.join(map(str, height_width))}" if task.grey or task.resize else ""
    last = f"the last {task.stack} observations at once" if task.stack > 1 else ""
    return " and ".join(filter(None, [some, image, last]))
