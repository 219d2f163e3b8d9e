"""Training in a process that is not the program's own, such as that of a notebook, and leaving it as it was."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from hydra import compose, initialize_config_dir
from hydra._internal.sources_registry import SourcesRegistry
from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.types import RunMode
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from trpo_cli.cli.command_line import CommandLine, allow_new_keys, check_overrides, read
from trpo_cli.cli.failures import explain_errors
from trpo_cli.cli.resume import expand_resume
from trpo_cli.cli.search_path import search_everywhere
from trpo_cli.cli.whole_numbers import write_whole_numbers
from trpo_cli.config.groups import CONF
from trpo_cli.errors import ConfigError, UserError, check_names
from trpo_cli.run.signals import Stopped
from trpo_cli.shell import started_in

if TYPE_CHECKING:
    from trpo_cli.play.loaded import LoadedRun

log = logging.getLogger("trpo_cli")
OPTIONS = ("--config-dir", "-cd")
IN_USE = (GlobalHydra, HydraConfig, JobRuntime, VersionBase)
OF_HYDRA = ("hydra.run.dir", "hydra.searchpath")
_training = threading.Lock()


RunAlone = Callable[[DictConfig, HydraConf, bool], None]
"""Trains one run with a composed configuration and Hydra's node of it; False: the process is not the program's own."""


def make_callable(module: ModuleType, run_alone: RunAlone) -> None:
    """Let a module be called as `train_here(arguments)`: a package has one attribute for a module and a function."""

    class CallableModule(ModuleType):
        def __call__(self, arguments: Iterable[str] = ()) -> LoadedRun:
            return train_here(arguments, run_alone)

    module.__class__ = CallableModule


def train_here(arguments: Iterable[str], run_alone: RunAlone) -> LoadedRun:
    """Train as `trpo-train ARGUMENTS` would, and return the run.

    Raises `UserError` for a mistake in the arguments and for whatever else ends a run, and `KeyboardInterrupt`, after a
    checkpoint, if Ctrl-C stops it.
    """
    from trpo_cli.play.loaded import load

    with _in_process(check_names(arguments, "arguments", "overrides: ['algo=trpo', 'env=Hopper-v4']")) as config:
        run_alone(config, config.hydra, False)
        return load(config.hydra.runtime.output_dir, plugins=config.plugins)


@contextlib.contextmanager
def _in_process(arguments: Sequence[str]) -> Iterator[DictConfig]:
    """Compose the configuration, with Hydra's own node.

    On exit the working directory, `sys.argv`, Hydra, threads, the log's level and the global generators are as before.
    """
    from trpo_cli.seeding import isolate_globals
    from trpo_cli.threads import limited_threads

    if not _training.acquire(blocking=False):
        raise UserError("a run is being trained in this process; wait for its end, or start trpo-train beside it")
    argv, level = sys.argv, log.level
    sys.argv = ["trpo-train", *arguments]  # the name of a directory and TensorBoard tell what was typed
    try:
        with started_in(Path.cwd()), _fresh_hydra(), limited_threads(), isolate_globals(0, "plugins"), explain_errors():
            yield _compose(read(arguments))
    except Stopped as stopped:
        if stopped.by.name != "SIGINT":
            raise
        raise KeyboardInterrupt from stopped
    finally:
        sys.argv = argv
        log.setLevel(level)
        _training.release()


@contextlib.contextmanager
def _fresh_hydra() -> Iterator[None]:
    """Hydra without what is in use; on exit, as it was, also if the caller is a program of Hydra's itself.

    `Plugins` stays, since making another one reloads the classes that those of sweeps derive from.
    """
    plugins, sources, instances = Plugins.instance(), SourcesRegistry.instance(), Singleton._instances
    in_use: dict[type, Singleton] = {kind: instances.pop(kind) for kind in IN_USE if kind in instances}
    kinds = {kind: list(found) for kind, found in plugins.plugin_type_to_subclass_list.items()}
    names, types = dict(plugins.class_name_to_class), dict(sources.types)
    try:
        yield
    finally:
        for kind in IN_USE:
            instances.pop(kind, None)
        instances.update(in_use)
        plugins.plugin_type_to_subclass_list.update(kinds)
        plugins.class_name_to_class, sources.types = names, types


def _compose(typed: CommandLine) -> DictConfig:
    options = [text for text in typed.options if text.startswith("-") and text.partition("=")[0] not in OPTIONS]
    if options:
        hint = "one call trains one run, and trpo-train -m runs a sweep" if typed.multirun else "trpo-train has it"
        raise UserError(f"{options[0]}: is an option of the command line: {hint}")
    check_overrides(typed.overrides, typed.config_dir)
    for text in typed.overrides:
        key = text.lstrip("+~").partition("=")[0]
        if key.partition("/")[0].partition(".")[0] == "hydra" and key not in OF_HYDRA:
            raise ConfigError(f"{key}: takes effect only with the command trpo-train; here {' and '.join(OF_HYDRA)} do")
    overrides = expand_resume(write_whole_numbers(allow_new_keys(typed.overrides), typed))
    with search_everywhere(typed), initialize_config_dir(str(CONF), job_name="train", version_base="1.3"):
        config = compose("train", overrides, return_hydra_config=True)
    if config.hydra.mode is RunMode.MULTIRUN:
        raise UserError("this experiment is a sweep, but one call trains one run; trpo-train runs it")
    HydraConfig.instance().set_config(config)  # ${hydra:...} reads it
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(Path(OmegaConf.select(config, "hydra.run.dir")).absolute())
    return config
