"""The machine: processor, usable cores, instruction sets, GPUs."""

import itertools
import math
import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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

    A quota of 1.5 cores counts as 2, since one thread would leave half a core idle.
    """
    cores = len(os.sched_getaffinity(0))
    return max(1, math.ceil(min([cores, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quotas, in cores, of this process's control group and of those above it.

    Sources: cgroup v2 `cpu.max` ("max" or "quota period"), cgroup v1 `cpu.cfs_quota_us` (-1 is
    none). In a container, /proc may name a group outside of it, and then only the topmost exists.
    """
    mount = root / "sys/fs/cgroup"
    folders = {mount: mount, mount / "cpu": mount / "cpu"}
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or "cpu" in controllers.split(","):
                place = mount / "cpu" if controllers else mount
                folders[place] = place / path.lstrip("/")
    for place, folder in folders.items():
        for group in (folder, *folder.parents):
            if group.is_relative_to(place):
                with suppress(OSError, ValueError):
                    yield _quota(group)


def _quota(group: Path) -> float:
    try:
        limit, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        limit = (group / "cpu.cfs_quota_us").read_text().strip()
        period = (group / "cpu.cfs_period_us").read_text().strip()
    return int(limit) / int(period) if limit.isdecimal() else math.inf  # "max" or -1: no quota


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
