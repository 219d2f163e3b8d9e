"""TensorBoard's event files, cut back to where a run goes on from.

A file is a sequence of records: the length of its content in 8 bytes and their checksum in 4, the content, and its
checksum in 4.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]


def cut_back(directory: Path, step: int) -> int:
    """Drop what was logged after `step`, and the last row before it unless that is sure to be whole.

    Returns the first step that may be missing now: from there on, rows have to be written again.
    """
    records = {path: list(_records(path)) for path in sorted(directory.glob("events.out.tfevents.*"))}
    steps = [logged for found in records.values() for _, logged in found if logged is not None]
    missing = min(max(steps, default=0), step + 1)  # rows are written in order: those before the last are whole
    for path, found in records.items():
        end = next((before for before, logged in found if logged is not None and logged >= missing), None)
        os.truncate(path, found[-1][0] if end is None else end)
    return missing


def _records(path: Path) -> Iterator[tuple[int, int | None]]:
    """Where each record begins and, if a row's scalar is in it, its step; last of all, where the whole ones end."""
    data, begin = path.read_bytes(), 0
    while (end := begin + 16 + int.from_bytes(data[begin : begin + 8], "little")) <= len(data):
        try:
            event = Event.FromString(data[begin + 12 : end - 4])
        except DecodeError:
            break
        yield begin, event.step if event.HasField("summary") else None
        begin = end
    yield begin, None
