"""The real command in several processes, as `torchrun` starts them, without the one that watches over them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path


def launch(size: int, *overrides: str, folder: Path | None = None) -> list[subprocess.Popen[str]]:
    """Start `trpo-train` with these overrides on so many ranks; one is started as ever."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    if size > 1:
        met = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        shared |= {name: str(value) for name, value in met.items()}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "trpo_cli", *overrides],
            env={**os.environ, **shared, **({"RANK": str(rank)} if size > 1 else {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        for rank in range(size)
    ]


def finish(ranks: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Wait for all, and return the status, the output and the errors of each."""
    told = [process.communicate(timeout=300) for process in ranks]
    return [(process.returncode, *said) for process, said in zip(ranks, told, strict=True)]
