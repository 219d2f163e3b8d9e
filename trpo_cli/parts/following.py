"""How several processes train one run: the leader orders, and the others follow it from its first to its last order."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trpo_cli.config.settings import Settings
from trpo_cli.errors import UserError
from trpo_cli.parts import Parts
from trpo_cli.parts.building import build_parts, root_settings

if TYPE_CHECKING:
    from trpo_cli.shards.ranks import Ranks

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # that torchrun sets
BUILD = "build"  # the order with which a run begins; all others are methods of its parts
LENT = ("policy", "critic", "normalizer", "reward_scaler")  # parts that another run may have lent


def is_one_of_several() -> bool:
    """Whether `torchrun` started this process, and others with it."""
    return all(os.environ.get(name) for name in VARIABLES) and os.environ["WORLD_SIZE"] != "1"


def run_together(command: Callable[[], None]) -> None:
    """Run a command or, where `torchrun` started several processes, what falls to this one."""
    if not is_one_of_several():
        return command()
    from trpo_cli.shards.ranks import Ranks

    ranks = Ranks.meet()
    try:
        command() if ranks.leads else follow()
    finally:
        ranks.leave()


def build_everywhere(node: dict[str, Any], settings: Settings, begins: bool) -> Parts:
    """Build the parts of a run on all ranks. Raises what `build_parts` raises on any of them."""
    from trpo_cli.shards.ranks import Ranks

    ranks = Ranks.here()
    ranks.order(BUILD, {**node, "plugins": settings.plugins})
    parts = _build(ranks, settings, lambda: build_parts(node, settings, begins, ranks))
    if parts.origin:
        parts.adopt({name: getattr(parts, name).state_dict() for name in LENT})
    return parts


def _build(ranks: Ranks, settings: Settings, make: Callable[[], Parts]) -> Parts:
    made: list[Parts] = []
    ranks.limit(settings.rank_timeout)
    try:
        ranks.attempt(lambda: made.append(make()))
    except Exception:
        for parts in made:
            parts.close()
        raise
    (parts,) = made
    parts.obstacle = next(filter(None, ranks.gather(parts.obstacle)), None)
    return parts


def follow() -> None:
    """Do what the leader does, until its last order."""
    from trpo_cli.run.signals import Heedless
    from trpo_cli.shards.ranks import END, Ranks

    logging.getLogger("trpo_cli").addHandler(logging.NullHandler())  # the leader says it
    ranks, parts = Ranks.here(), None
    with Heedless() as heedless:
        try:
            while (order := ranks.await_order()).name != END:
                try:
                    if order.name == BUILD:
                        if parts is not None:
                            parts.close()
                        parts = _build_as_ordered(ranks, *order.arguments)
                    else:
                        getattr(parts, order.name)(*order.arguments)
                except Exception as error:
                    if error is not ranks.agreed:  # of which the leader knows
                        raise
        except UserError as error:
            heedless.check()  # it was to stop anyway
            raise type(error)(f"rank {ranks.rank}: {error}") from error
        finally:
            if parts is not None:
                parts.close()


def _build_as_ordered(ranks: Ranks, node: dict[str, Any]) -> Parts:
    from trpo_cli.config.plugins import import_plugins
    from trpo_cli.seeding import seed_globals

    def make() -> Parts:
        seed_globals(settings.seed, "plugins")
        import_plugins(settings.plugins)
        return build_parts(node, settings, begins=False, ranks=ranks)

    settings = root_settings(node)
    return _build(ranks, settings, make)
