"""The machine: processor, usable cores, instruction sets, GPUs."""

import itertools
import math
import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
        return tuple(itertools.takewhile(re.compile(r"\d+$|GPU-|MIG-").match, entries))
    with _gpu_driver() as nvml:
        if nvml is None:
            return ()
        handles = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
        return tuple(map(nvml.nvmlDeviceGetUUID, handles))


def first_gpu(environ: Mapping[str, str]) -> str | None:
    """Return the product name of the first of `visible_gpus`, without torch; None without a GPU."""
    gpus = visible_gpus(environ)
    with _gpu_driver() as nvml:
        if nvml is None or not gpus:
            return None
        try:
            if gpus[0].isdecimal():
                gpu = nvml.nvmlDeviceGetHandleByIndex(int(gpus[0]))
            else:
                gpu = nvml.nvmlDeviceGetHandleByUUID(gpus[0])
            return str(nvml.nvmlDeviceGetName(gpu))
        except nvml.NVMLError:  # there is no such GPU
            return None


@contextmanager
def _gpu_driver() -> Iterator[Any]:
    """Yield pynvml, which queries NVIDIA's driver, or None without a driver."""
    import pynvml  # comes with BentoML; rarely needed

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def this_machine(accelerator: str | None = None) -> Machine:
    """Return the machine this process runs on.

    Args:
        accelerator: Name of the GPU that the engine uses, see `accelerator_of`, or None.
    """
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    facts = {key.strip(): value.strip() for key, _, value in lines}
    return Machine(
        cpu=facts.get("model name", platform.machine()),
        cores=usable_cores(),
        features=tuple(sorted(RELEVANT_FEATURES.intersection(facts.get("flags", "").split()))),
        accelerator=accelerator,
    )
