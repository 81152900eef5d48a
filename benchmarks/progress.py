"""Progress bars on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[..., object]]:
    """A bar for the length of the ``with`` block, filled by calls, each 1 or as much as is given.

    Without tqdm, there is none.
    """
    if find_spec("tqdm") is None:
        yield lambda _=1: None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=f"{what:<36}", unit="", dynamic_ncols=True) as bar:
        yield bar.update
