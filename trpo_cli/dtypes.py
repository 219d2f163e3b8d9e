"""A numpy dtype in JSON's words and back: nothing that holds a pointer, nothing that numpy would have to interpret."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np

PLAIN = re.compile(r"[<>|][biufcSUV]\d{1,9}|[<>][mM]8(\[\d{0,9}[a-zA-Z]{1,2}\])?")


def described(dtype: np.dtype[Any]) -> Any:
    """The words for `dtype`. Raises `TypeError` if there are none: Python objects, things of no size, others' types."""
    return _plain(dtype) if dtype.names is None else _same(_structured(dtype), dtype)


def restored(words: Any) -> np.dtype[Any]:
    """The dtype that `described` put into words. Raises `TypeError`, `ValueError` or `KeyError` if it did not."""
    match words:
        case str() if PLAIN.fullmatch(words):
            form: Any = words
        case [base, list(shape)]:
            form = (restored(base), tuple(shape))
        case {"formats": list(formats)}:
            form = {**words, "formats": [restored(part) for part in formats]}
        case _:
            raise ValueError("one of its arrays is of no known type")
    dtype: np.dtype[Any] = np.dtype(form)
    if not dtype.itemsize:  # of which numpy would copy 2**60 one by one
        raise ValueError("one of its arrays is of nothing")
    return dtype


@functools.lru_cache
def _plain(dtype: np.dtype[Any]) -> Any:
    """Asked for every array, and the same few answers."""
    return _same(dtype.str, dtype)


def _structured(dtype: np.dtype[Any]) -> Any:
    """With its fields where they lie, be there gaps between them."""
    if dtype.subdtype is not None:
        return [_structured(dtype.subdtype[0]), list(dtype.subdtype[1])]
    if dtype.fields is None:
        return dtype.str
    fields = [(*dtype.fields[name], None)[:3] for name in dtype.names or ()]  # a title is seldom there
    return {
        "names": list(dtype.names or ()),
        "formats": [_structured(part) for part, _, _ in fields],
        "offsets": [offset for _, offset, _ in fields],
        "titles": [title for _, _, title in fields],
        "itemsize": dtype.itemsize,
        "aligned": dtype.isalignedstruct,
    }


def _same(words: Any, dtype: np.dtype[Any]) -> Any:
    """`words`, if they say all about `dtype`."""
    try:
        if restored(words) == dtype:
            return words
    except ValueError:
        pass
    raise TypeError(f"there are no words for {dtype}")
