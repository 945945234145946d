"""What `[realtime]` asks of the kernel: a scheduling policy, cores, memory that is never paged out."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_runtime.config import RealtimeConfig
from edge_runtime.errors import ConfigError
from edge_runtime.wire import RealtimeHealth

_POLICIES = {"other": os.SCHED_OTHER, "rr": os.SCHED_RR, "fifo": os.SCHED_FIFO}
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
"""mlockall(2). Only what is touched is locked: address space that libraries reserve costs nothing."""


@contextmanager
def granted(settings: RealtimeConfig | None) -> Iterator[None]:
    """Apply `settings` to the calling thread and to all threads started from now on, until the end of the block.

    Enter it before other threads are started: those of a Python process wait for each other, so that one alone gains
    nothing. Raises ConfigError, with what to grant, where the kernel does not allow it.
    """
    if settings is None:
        yield
        return
    cores, policy, parameters = os.sched_getaffinity(0), os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        _enter(settings)
        yield
    finally:
        if settings.lock_memory:
            ctypes.CDLL(None).munlockall()
        os.sched_setscheduler(0, policy, parameters)
        os.sched_setaffinity(0, cores)


def _enter(settings: RealtimeConfig) -> None:
    if settings.cores:
        try:
            os.sched_setaffinity(0, settings.cores)
        except OSError:
            usable = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
            raise ConfigError(f"realtime: cores are {list(settings.cores)}; this process may use {usable}") from None
    if settings.policy != "other":
        try:
            os.sched_setscheduler(0, _POLICIES[settings.policy], os.sched_param(settings.priority))
        except OSError as error:
            raise ConfigError(
                f"realtime: policy {settings.policy} with priority {settings.priority} is refused ({error.strerror}); "
                f"grant LimitRTPRIO={settings.priority} and RestrictRealtime=no (systemd/realtime.conf)"
            ) from None
    if settings.lock_memory:
        _lock_memory()


def leave(process: int) -> None:
    """Let a child process go back to ordinary scheduling; gone ones are nobody's trouble."""
    try:
        if os.sched_getscheduler(process) != os.SCHED_OTHER:
            os.sched_setscheduler(process, os.SCHED_OTHER, os.sched_param(0))
    except OSError:
        pass


def health(settings: RealtimeConfig) -> RealtimeHealth:
    """What the kernel says of the calling thread and its process."""
    policy = os.sched_getscheduler(0)
    return RealtimeHealth(
        policy=next((name for name, number in _POLICIES.items() if number == policy), str(policy)),
        priority=os.sched_getparam(0).sched_priority,
        cores=sorted(os.sched_getaffinity(0)),
        locked_mb=_locked_kib() / 1024,
        busy_poll_ms=settings.busy_poll_ms,
    )


def _lock_memory() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        code = ctypes.get_errno()
        text = "it may lock none" if code in (errno.EPERM, errno.ENOMEM) else os.strerror(code)
        raise ConfigError(
            f"realtime: memory cannot be locked ({text}); grant LimitMEMLOCK=infinity (systemd/realtime.conf)"
        )


def _locked_kib() -> int:
    """VmLck of proc(5), in KiB; 0 where it is not told."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmLck:")), 0)
