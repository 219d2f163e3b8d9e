"""Recorded episodes on disk: datasets of Minari, in HDF5, which other programs read and write too.

Observations are what the environment gave, and actions what it received. A dataset appears complete or not at all.
Reading one runs nothing that it names: spaces and arrays are taken from it, and no environment is made.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector.utils import concatenate, create_empty_array
from numpy.typing import NDArray

from trpo_cli.errors import UserError
from trpo_cli.run import durable
from trpo_cli.run.signals import ExitAtOnce

log = logging.getLogger("trpo_cli")
Space = gymnasium.Space[Any]
INSTALL = "pip install 'trpo-cli[record]'"
DATA, METADATA = "data", "metadata.json"  # as Minari names them
OURS = "trpo_cli"  # of the metadata, what only we say
VERSIONED = re.compile(r"[-\w]+-v\d+")  # the id of a dataset


class RecordError(UserError):
    """A record cannot be written or read."""


class Episode(NamedTuple):
    """T steps, in the batches of Gymnasium's vector environments: arrays, or dictionaries and tuples of them."""

    observations: Any  # T + 1, with the last one
    actions: Any  # T
    rewards: NDArray[np.float64]  # (T,)
    terminations: NDArray[np.bool_]  # (T,)
    truncations: NDArray[np.bool_]  # (T,)


class Record(NamedTuple):
    """The episodes of a dataset, and the spaces of their environment."""

    observation_space: Space
    action_space: Space
    episodes: list[Episode]


def require_minari(key: str) -> None:
    """Raise `RecordError` for the option `key` unless Minari and h5py are installed."""
    for name in ("minari", "h5py"):
        if importlib.util.find_spec(name) is None:
            raise RecordError(f"{key}: {name} is not installed: {INSTALL}")


def stack(space: Space, items: Sequence[Any]) -> Any:
    """A batch of `items` of the space."""
    empty: Any = create_empty_array(space, len(items))
    return concatenate(space, items, empty)


@contextlib.contextmanager
def new_record(
    directory: Path, spaces: tuple[Space, Space], spec: EnvSpec | None, about: dict[str, Any]
) -> Iterator[Callable[[Episode], None]]:
    """A function that adds an episode to a dataset, which appears in `directory` at the end.

    `about` is kept with it, as JSON. Raises `RecordError` if it cannot be written, or its spaces cannot be kept.
    """
    from minari import __version__  # type: ignore[import-untyped]
    from minari.data_collector import EpisodeBuffer  # type: ignore[import-untyped]
    from minari.dataset.minari_storage import MinariStorage  # type: ignore[import-untyped]

    directory.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", suffix=".part", dir=directory.parent))
    part.chmod(0o755)
    with ExitAtOnce(lambda by: shutil.rmtree(part, ignore_errors=True)):
        try:
            storage = MinariStorage.new(part / DATA, *spaces, _portable(spec), "hdf5", jpeg_encoding=False)
            name = directory.name if VERSIONED.fullmatch(directory.name) else f"{_as_id(directory.name)}-v0"
            storage.update_metadata({"dataset_id": name, "minari_version": __version__, OURS: about})
            yield lambda episode: storage.update_episodes([EpisodeBuffer(**episode._asdict())])
            durable.publish(part, directory)
        except (NotImplementedError, OSError) as error:
            raise RecordError(f"{directory}: the record cannot be written: {error}") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _portable(spec: EnvSpec | None) -> EnvSpec | None:
    """The spec that makes such an environment again, None if it is not plain data."""
    try:
        if spec is not None:
            spec.to_json()
        return spec
    except (TypeError, ValueError) as error:
        log.warning("the record does not say how to make its environment: %s", error)
        return None


def _as_id(name: str) -> str:
    return re.sub(r"[^-\w]", "_", name, flags=re.ASCII).strip("-") or "record"


def read_record(directory: Path) -> Record:
    """Read a dataset of Minari. Raises `RecordError` if it is none, or damaged."""
    from minari.dataset.minari_storage import MinariStorage

    folder = directory / DATA if (directory / DATA).is_dir() else directory
    try:
        about = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        if not {"observation_space", "action_space"} <= about.keys() or about["data_format"] != "hdf5":
            raise ValueError(
                "it does not keep its spaces and its episodes in HDF5"
            )  # Minari would make its environment
        storage = MinariStorage.read(folder)
        found = storage.get_episodes(range(int(about["total_episodes"])))
        episodes = [Episode(**{name: one[name] for name in Episode._fields}) for one in found]
        for episode in episodes:
            _check(episode)
    except FileNotFoundError as error:
        raise RecordError(f"{directory} is no dataset of Minari: it has no {DATA}/{METADATA}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError, NotImplementedError) as error:
        raise RecordError(f"{directory}: the record cannot be read: {type(error).__name__}: {error}") from error
    return Record(storage.observation_space, storage.action_space, episodes)


def _check(episode: Episode) -> None:
    """Raise `ValueError` unless an episode has as many of everything as it has steps."""
    steps = len(episode.rewards)
    lengths = {len(leaf) for leaf in _leaves(episode.actions)} | {len(episode.terminations), len(episode.truncations)}
    if not steps or lengths != {steps} or {len(leaf) for leaf in _leaves(episode.observations)} != {steps + 1}:
        raise ValueError("an episode has more of one thing than of another")


def _leaves(batch: Any) -> Iterator[Any]:
    if isinstance(batch, dict | tuple):
        for inner in batch.values() if isinstance(batch, dict) else batch:
            yield from _leaves(inner)
    else:
        yield batch
