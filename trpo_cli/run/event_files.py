"""Truncates TensorBoard's event files to the step from which a run resumes.

A file is a sequence of records: the length of the content (8 bytes), the checksum of the length (4), the content, and
its checksum (4).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]


def cut_back(directory: Path, step: int) -> int:
    """Delete what was logged after `step`, and the row at the end of the files, which may be incomplete.

    Returns the first step that may now be missing; rows from there on have to be written again.
    """
    records = {path: list(_records(path)) for path in sorted(directory.glob("events.out.tfevents.*"))}
    steps = [logged for found in records.values() for _, logged in found if logged is not None]
    missing = min(max(steps, default=0), step + 1)  # rows are written in order, so all but the last are complete
    for path, found in records.items():
        end = next((before for before, logged in found if logged is not None and logged >= missing), None)
        os.truncate(path, found[-1][0] if end is None else end)
    return missing


def _records(path: Path) -> Iterator[tuple[int, int | None]]:
    """The position of each record, with its step if it holds a scalar; finally, the end of the complete records."""
    data, begin = path.read_bytes(), 0
    while (end := begin + 16 + int.from_bytes(data[begin : begin + 8], "little")) <= len(data):
        try:
            event = Event.FromString(data[begin + 12 : end - 4])
        except DecodeError:
            break
        yield begin, event.step if event.HasField("summary") else None
        begin = end
    yield begin, None
