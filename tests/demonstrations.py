"""Records of an untrained policy, to clone."""

from __future__ import annotations

from pathlib import Path

from conftest import built

from trpo_cli.play.episodes import Episodes, Evaluation
from trpo_cli.play.recorder import record
from trpo_cli.play.trained import Trained


def record_episodes(
    directory: Path, *overrides: str, episodes: int = 4, longest: int = 50, sample: bool = False
) -> Evaluation:
    """Write the episodes of a policy with these overrides to `directory`, and return their returns and lengths."""
    parts = built(*overrides)
    parts.close()
    trained = Trained(parts.task, parts.policy, parts.normalizer, 0, parts.environments[0].spaces)
    with record(trained, directory, {"seed": 0}) as audience:
        return trained.evaluate(Episodes(episodes, longest), 0, sample, audience)
