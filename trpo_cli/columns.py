"""The names of columns of `metrics.csv` that several rooms share."""

from __future__ import annotations

STEPS = "env_steps"
RETURN = "rollout/episode_return_mean"  # of the last 100 episodes that ended in training
RECENT = "rollout/recent_return_mean"  # of the episodes that ended in an iteration
EPISODES = "rollout/episodes"  # that ended in training, from the beginning
EVALUATION = "eval/episode_return_mean"
EXACT_RETURN = "exact/return"
INFO = "/info/"  # between `rollout` or `eval` and the name of a number from infos
