"""Gives an unpickled block its program again, at its first call.

Loading traces nothing: the block's children and attributes may not be there yet, and other threads may be running.
"""

from __future__ import annotations

import threading

from torch import nn

from ..conversion.modules import hooks_for_all
from .leaves import PROGRAM, opacity
from .plan import Plan, plan
from .program import StaleProgram

# One thread traces a block, others that call it wait.
_lock = threading.RLock()


def renew(block: nn.Module) -> None:
    """Puts a program for the block as it is now into the place of what is left of the former one, or a reason there.

    Hooks may be there for a while only: where they keep a module out of a tail, the block is looked at again later.
    """
    with _lock:
        stale = getattr(block, PROGRAM)
        if not isinstance(stale, StaleProgram) or stale.fails_for_good:
            return
        hooks = _hooks(block)
        if hooks is not None and hooks == stale.refusal:
            return
        found = plan(block, stale.leaves_of(block), stale.options)
        if found.program is not None and (hooks is None or found.program.size >= stale.size):
            vars(block)[PROGRAM] = found.program
        else:
            stale.refusal, stale.fails_for_good = hooks or _reason(found), hooks is None


def _hooks(block: nn.Module) -> str | None:
    inside = (opacity(module) for module in block.modules() if module is not block)
    return hooks_for_all() or next(filter(None, inside), None)


def _reason(found: Plan) -> str:
    return next(iter(found.refused.values()), "it has no tail any more since it was pickled")
