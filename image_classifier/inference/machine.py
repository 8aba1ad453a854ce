"""The machine: processor, usable cores, instruction sets, GPUs."""

import itertools
import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path

from image_classifier.artifact.record import Machine

RELEVANT_FEATURES = {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"}
"""Instruction sets by which CPU engines choose their kernels, as /proc/cpuinfo names them."""

ABSENT_GPU = "no GPU (imported for one)"
"""Recorded as the GPU's name by an import for a GPU on a machine without one. No serving machine
has this name, so it measures a plan of its own."""


def usable_cores(root: Path = Path("/")) -> int:
    """Return the number of cores this process may use: the lesser of affinity and cgroup quota.

    A quota of 1.5 cores counts as 2, since one thread would leave half a core idle. Sources:
    cgroup v2 `cpu.max` ("max" or "quota period"), cgroup v1 `cpu.cfs_quota_us` (-1 is none).
    """
    cores = len(os.sched_getaffinity(0))
    quota = _quota_cores(root / "sys/fs/cgroup")
    return max(1, min(cores, math.ceil(quota))) if quota else cores


def _quota_cores(cgroup: Path) -> float | None:
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return int(limit) / int(period) if limit.isdecimal() else None  # "max" or -1: no quota


def visible_gpus(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the GPUs that this process may use, as entries of CUDA_VISIBLE_DEVICES.

    If the variable is set, its entries: an index, or the UUID of a GPU or of a MIG slice. As in
    CUDA, any other entry ends the list. Else all GPUs that NVIDIA's driver reports.
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        entries = (entry.strip() for entry in visible.split(","))
        return tuple(
            itertools.takewhile(
                lambda entry: entry.isdecimal() or entry.startswith(("GPU-", "MIG-")), entries
            )
        )
    import pynvml  # comes with BentoML; rarely needed

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # there is no driver
        return ()
    try:
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return tuple(map(pynvml.nvmlDeviceGetUUID, handles))
    finally:
        pynvml.nvmlShutdown()


def first_gpu(environ: Mapping[str, str]) -> str | None:
    """Return the product name of the first of `visible_gpus`, without torch; None without a GPU."""
    if not (gpus := visible_gpus(environ)):
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # there is no driver
        return None
    try:
        index = gpus[0].isdecimal()
        find = pynvml.nvmlDeviceGetHandleByIndex if index else pynvml.nvmlDeviceGetHandleByUUID
        return str(pynvml.nvmlDeviceGetName(find(int(gpus[0]) if index else gpus[0])))
    except pynvml.NVMLError:  # there is no such GPU
        return None
    finally:
        pynvml.nvmlShutdown()


def this_machine(accelerator: str | None = None) -> Machine:
    """Return the machine this process runs on.

    Args:
        accelerator: Name of the GPU that the engine uses, see `accelerator_of`, or None.
    """
    cpu, features = platform.machine(), set[str]()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            cpu = value.strip()
        elif key.strip() in ("flags", "Features"):
            features = set(value.split())
    return Machine(
        cpu=cpu,
        cores=usable_cores(),
        features=tuple(sorted(features & RELEVANT_FEATURES)),
        accelerator=accelerator,
    )
