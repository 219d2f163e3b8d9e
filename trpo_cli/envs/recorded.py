"""Recorded episodes on disk: datasets of Minari, in HDF5, which other programs read and write too.

Observations are what the environment gave, and actions what it received. A dataset appears complete or not at all.
Reading one runs nothing that it names: spaces and arrays are taken from it, and no environment is made.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector.utils import concatenate, create_empty_array
from numpy.typing import NDArray

from trpo_cli.envs.failure import ContractViolation, describe_error
from trpo_cli.envs.leaf import Leaf
from trpo_cli.errors import UserError
from trpo_cli.run import durable
from trpo_cli.run.signals import ExitAtOnce
from trpo_cli.shell import short_path

log = logging.getLogger("trpo_cli")
Space = gymnasium.Space[Any]
PACKAGES = ("minari", "h5py")  # of the extra `record`
DATA, METADATA, MAIN = "data", "metadata.json", "main_data.hdf5"  # as Minari names them
SPACES = ("observation_space", "action_space")
REWARD, FLAG = spaces.Box(-np.inf, np.inf, (), np.float64), spaces.Discrete(2)
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


@dataclass(frozen=True)
class Record:
    """A dataset: the file with its episodes, how many these are, and the spaces of their environment."""

    file: Path
    observation_space: Space
    action_space: Space
    count: int

    def read_episodes(self) -> list[Episode]:
        """Read all episodes. Raises `RecordError`, naming episode and entry, for what is not in its space.

        As in environments, observations may exceed the bounds of a Box, and integers of any type are accepted.
        """
        import h5py  # type: ignore[import-untyped]

        with _name_damage(f"{short_path(self.file)}"):
            _check_regular(self.file)
            with h5py.File(self.file, "r") as opened:
                groups = (_open(opened, f"episode_{number}") for number in range(self.count))
                return [_read_episode(group, self.observation_space, self.action_space) for group in groups]


def stack(space: Space, items: Sequence[Any]) -> Any:
    """A batch of `items` of the space."""
    empty: Any = create_empty_array(space, len(items))
    return concatenate(space, items, empty)


@contextlib.contextmanager
def new_record(
    directory: Path, of: tuple[Space, Space], spec: EnvSpec | None, about: dict[str, Any]
) -> Iterator[Callable[[Episode], None]]:
    """A function that adds an episode to a dataset, which appears in `directory` at the end.

    Its values are `of` the spaces of observations and of actions. `about` is kept with it, as JSON. Raises
    `RecordError` if it cannot be written, or its spaces cannot be kept.
    """
    from minari import __version__  # type: ignore[import-untyped]
    from minari.data_collector import EpisodeBuffer  # type: ignore[import-untyped]
    from minari.dataset.minari_storage import MinariStorage  # type: ignore[import-untyped]

    directory.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", suffix=".part", dir=directory.parent))
    part.chmod(0o755)
    with ExitAtOnce(lambda by: shutil.rmtree(part, ignore_errors=True)):
        try:
            storage = MinariStorage.new(part / DATA, *of, _portable(spec), "hdf5", jpeg_encoding=False)
            name = directory.name if VERSIONED.fullmatch(directory.name) else f"{_as_id(directory.name)}-v0"
            storage.update_metadata({"dataset_id": name, "minari_version": __version__, OURS: about})
            yield lambda episode: storage.update_episodes([EpisodeBuffer(**episode._asdict())])
            durable.publish(part, directory)
        except (NotImplementedError, OSError) as error:
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
            raise RecordError(f"--record: {short_path(directory)} cannot be written: {reason}") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _portable(spec: EnvSpec | None) -> EnvSpec | None:
    """The spec that makes such an environment again, None if it is not plain data."""
    if spec is not None:
        try:
            spec.to_json()
        except (TypeError, ValueError) as error:
            log.warning(
                "Minari's recover_environment will not work with this record, since %s is registered with more than "
                "plain data such as entry_point='MODULE:CLASS': %s",
                spec.id,
                error,
            )
            return None
    return spec


def _as_id(name: str) -> str:
    return re.sub(r"[^-\w]", "_", name, flags=re.ASCII).strip("-") or "record"


def read_record(directory: Path) -> Record:
    """Read what a dataset of Minari says about itself. Raises `RecordError` if it is none, or damaged."""
    from minari.serialization import deserialize_space  # type: ignore[import-untyped]

    folder = directory / DATA if (directory / DATA).is_dir() else directory
    file = folder / METADATA
    if not os.path.lexists(file):
        raise RecordError(f"{short_path(directory)} is no dataset of Minari: it has no {DATA}/{METADATA}")
    with _name_damage(f"{short_path(file)}"):
        _check_regular(file)
        about = json.loads(file.read_text(encoding="utf-8"))
        if type(about) is not dict or about.get("data_format") != "hdf5" or not about.keys() >= set(SPACES):
            raise ValueError("the dataset does not keep its spaces and its episodes in HDF5")
        count = about.get("total_episodes")
        if type(count) is not int or count < 0:
            raise ValueError(f"total_episodes is {count}, which is no number of episodes")
    found = []
    for name in SPACES:
        with _name_damage(f"{short_path(file)}: {name}"):
            found.append(deserialize_space(about[name]))
    return Record(folder / MAIN, found[0], found[1], count)


def _check_regular(file: Path) -> None:
    """Raise `ValueError` unless reading the file ends: that of a pipe or a device need not."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise ValueError("it is not a regular file")


@contextlib.contextmanager
def _name_damage(what: str) -> Iterator[None]:
    """Raise `RecordError` for whatever JSON, Minari and HDF5 raise when they read what somebody else wrote."""
    try:
        yield
    except RecursionError as error:
        raise RecordError(f"{what} cannot be read: it is nested too deeply") from error
    except MemoryError as error:
        raise RecordError(f"{what} cannot be read: it does not fit into memory") from error
    except Exception as error:
        reason = str(error) if type(error) is ValueError else describe_error(error)
        reason = reason if str(error) else "it is not what Minari writes"
        raise RecordError(f"{what} cannot be read: {reason}") from error


def _read_episode(group: Any, observation_space: Space, action_space: Space) -> Episode:
    """Read an episode of an HDF5 file. Raises `ValueError` if anything is missing, or not in its space."""
    shape = _open_values(group, "rewards").shape
    if not shape or not shape[0]:
        raise ValueError(f"{group.name[1:]}/rewards: its shape is {shape}, but an episode has one step or more")
    steps = shape[0]
    actions = _read(group, "actions", action_space, steps)
    if isinstance(action_space, spaces.Box):
        inside = (action_space.low <= actions) & (actions <= action_space.high)
        if not inside.all():
            odd = f"such as {actions[~inside][0]:g}; declared: {action_space}"
            raise ValueError(f"{group.name[1:]}/actions: it holds numbers outside their bounds, {odd}")
    return Episode(
        observations=_read(group, "observations", observation_space, steps + 1),
        actions=actions,
        rewards=_read(group, "rewards", REWARD, steps),
        terminations=_read(group, "terminations", FLAG, steps).astype(np.bool_),
        truncations=_read(group, "truncations", FLAG, steps).astype(np.bool_),
    )


def _read(group: Any, name: str, space: Space, count: int) -> Any:
    """Read a batch of so many values of a space. Raises `ValueError` as `_read_episode` does."""
    match space:
        case spaces.Dict():
            return {key: _read(_open(group, name), key, inner, count) for key, inner in space.items()}
        case spaces.Tuple():
            inner_group = _open(group, name)
            return tuple(_read(inner_group, f"_index_{place}", one, count) for place, one in enumerate(space))
    found = _open_values(group, name)
    try:
        batch = _decode_images(found, space) if _holds_images(found, space) else found[()]
        return Leaf(space, None, rows=count).check(batch)
    except ContractViolation as violation:
        raise ValueError(f"{found.name[1:]}{violation.details}") from None


def _open_values(group: Any, name: str) -> Any:
    import h5py

    found = _open(group, name)
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"{found.name[1:]} is a {type(found).__name__} in place of an array")
    return found


def _open(group: Any, path: str) -> Any:
    """Return what the group itself holds at the path. Raises `ValueError` if it lies anywhere else, perhaps in
    another file."""
    import h5py

    found = group
    for name in path.split("/"):
        above, where = found, f"{found.name}/{name}".lstrip("/")
        link = above.get(name, getlink=True) if isinstance(above, h5py.Group) else None
        if link is None:
            raise ValueError(f"{where} is missing")
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"{where} is a link, and what it leads to may lie outside the file")
        found = above[name]
    if isinstance(found, h5py.Dataset) and (found.external or found.is_virtual):
        raise ValueError(f"{where} lies outside the file")
    return found


def _holds_images(found: Any, space: Space) -> bool:
    """Whether each value is an image in JPEG, as Minari keeps them unless told otherwise."""
    from minari.dataset.minari_storage import is_image_space

    return bool(is_image_space(space)) and found.ndim <= 2


def _decode_images(found: Any, space: Space) -> NDArray[np.uint8]:
    from PIL import Image

    images = []
    for data in found[()]:
        image = Image.open(io.BytesIO(bytes(data)), formats=["JPEG"])
        if image.size[::-1] != (space.shape or ())[:2]:
            raise ValueError(f"{found.name[1:]}: an image has {image.width} x {image.height} pixels; declared: {space}")
        images.append(np.asarray(image))
    return np.stack(images)
