"""The machine: processor, usable cores, instruction sets, GPUs."""

import contextlib
import itertools
import math
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path

from image_classifier.artifact.record import Machine

RELEVANT_FEATURES = {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"}
"""Instruction sets by which CPU engines choose their kernels, as /proc/cpuinfo names them."""

ABSENT_GPU = "no GPU (imported for one)"
"""Recorded instead of a GPU's name by an import for a GPU on a machine that has none. No serving
machine has this name, so the plan is measured again there."""


def usable_cores(root: Path = Path("/")) -> int:
    """Return the cores this process may use: its affinity, or the container's quota if less.

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
    if not (limit.isdecimal() and period.isdecimal() and int(period)):
        return None  # "max", -1, or of a form that is not known
    return int(limit) / int(period)


def visible_gpus(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the GPUs that this process may use, as entries of CUDA_VISIBLE_DEVICES.

    Where that variable is set, its entries: an index, the UUID of a GPU or of a slice (MIG) of one.
    As CUDA does, an entry of another form ends the list. Else all that NVIDIA's driver reports; of
    a GPU that is divided, its slices.
    """
    given = environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        entries = (entry.strip() for entry in given.split(","))
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
        return tuple(itertools.chain.from_iterable(map(_slices_or_whole, handles)))
    finally:
        pynvml.nvmlShutdown()


def _slices_or_whole(gpu: object) -> Iterator[str]:
    import pynvml

    slices = 0
    with contextlib.suppress(pynvml.NVMLError):  # this kind of GPU cannot be divided
        if pynvml.nvmlDeviceGetMigMode(gpu)[0] == pynvml.NVML_DEVICE_MIG_ENABLE:
            slices = pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)
    if not slices:
        yield pynvml.nvmlDeviceGetUUID(gpu)
    for number in range(slices):
        with contextlib.suppress(pynvml.NVMLError):  # not all possible slices exist
            yield pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, number))


def this_machine(accelerator: str | None = None) -> Machine:
    """Return the machine this process runs on.

    Args:
        accelerator: Name of the GPU that the engine uses, see `accelerator_of`; None without.
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
