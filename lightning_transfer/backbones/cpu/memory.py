"""Memory that a training step needs again stays with the process."""

import ctypes
import gc
import sys

# Of mallopt, in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_LARGE = 2**30  # bytes: a tensor of this size still goes back to the system at once


def keep_freed_memory() -> bool:
    """Let this process keep the memory that tensors on the CPU leave behind.

    glibc gives every block above 32 MiB back to the system when it is freed, and the top of its
    heap, too. The gradient of an embedding table is such a block: in each step the system clears
    and maps it anew, page by page, on one core. Between peaks the process holds on to more, and its
    peak is a little higher (0.2 to 3.5 % with MiniLM). It cannot be undone.

    Returns:
        Whether it could be arranged; there is no such thing outside of Linux with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl has none
        return False
    # Some versions of glibc take no threshold above 32 MiB, but all can do without such blocks.
    kept = mallopt(_MMAP_THRESHOLD, _LARGE) or mallopt(_MMAP_MAX, 0)
    return bool(kept and mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def give_back_freed_memory() -> bool:
    """Give what :func:`keep_freed_memory` has kept back to the system, once.

    Between one training and the next: the models of several stages and seeds would otherwise add
    up, since what each leaves behind is in pieces that the next one does not fit into.

    Returns:
        Whether there was something to give back; there is no such call outside of Linux with glibc.
    """
    gc.collect()  # a trainer and its module know each other
    if not sys.platform.startswith("linux"):
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return bool(trim is not None and trim(0))
