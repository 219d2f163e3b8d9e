"""The ids of games of Atari, as far as a name says it without any import."""

from __future__ import annotations

import re

PACKAGE = "ale_py"
OF_ATARI = re.compile(r"ALE/.*|.*(NoFrameskip|Deterministic)-v\d+")
"""Ids that nothing else has. Others of these games, such as Pong-v4, look like those of any environment."""
