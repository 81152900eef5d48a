"""Progress bars on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm  # type: ignore[import-untyped]


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[..., object]]:
    """A bar for the length of the ``with`` block, filled by calls, each 1 or as much as is given."""
    with tqdm(total=total, desc=f"{what:<36}", unit="", dynamic_ncols=True) as bar:
        yield bar.update
