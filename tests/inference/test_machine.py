"""Cores of the container, from control groups written by hand, and GPUs of a simulated driver."""

import os
from pathlib import Path

import pynvml
import pytest

from image_classifier.inference.machine import first_gpu, usable_cores, visible_gpus

QUOTA, PERIOD = "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        pytest.param({}, 8, id="no-cgroup"),
        pytest.param({"cpu.max": "max 100000\n"}, 8, id="no-quota"),
        pytest.param({"cpu.max": "75000 50000\n"}, 2, id="one-and-a-half-counts-as-two"),
        pytest.param({"cpu.max": "6400000 100000\n"}, 8, id="more-than-there-are"),
        pytest.param({"cpu.max": ""}, 8, id="empty"),
        pytest.param({QUOTA: "-1\n", PERIOD: "100000\n"}, 8, id="v1-no-quota"),
        pytest.param({QUOTA: "250000\n", PERIOD: "100000\n"}, 3, id="v1"),
        pytest.param({"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3, id="above"),
        pytest.param({f"cpu/a/b/{QUOTA[4:]}": "1", f"cpu/a/b/{PERIOD[4:]}": "1"}, 1, id="own-v1"),
    ],
)
def test_the_cores_are_the_lesser_of_affinity_and_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:cpu,cpuacct:/a/b\n3:cpuset:/c\n0::/a/b\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert usable_cores(tmp_path) == cores
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert usable_cores(tmp_path) == 1


def test_without_cuda_visible_devices_all_gpus_of_the_driver_are_visible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda handle: f"GPU-{handle}")

    assert visible_gpus({}) == ("GPU-0", "GPU-1")


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)

    assert visible_gpus({}) == ()
    assert first_gpu({"CUDA_VISIBLE_DEVICES": "0"}) is None


@pytest.mark.parametrize(
    ("value", "name"), [("1,0", "name of 1"), ("MIG-11ac", "name of MIG-11ac"), ("", None)]
)
def test_the_first_visible_gpu_has_a_name(
    monkeypatch: pytest.MonkeyPatch, value: str, name: str | None
) -> None:
    for function in ("nvmlInit", "nvmlShutdown"):
        monkeypatch.setattr(pynvml, function, lambda: None)
    for function in ("nvmlDeviceGetHandleByIndex", "nvmlDeviceGetHandleByUUID"):
        monkeypatch.setattr(pynvml, function, lambda handle: handle)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", "name of {}".format)

    assert first_gpu({"CUDA_VISIBLE_DEVICES": value}) == name


@pytest.mark.parametrize(
    ("value", "visible"),
    [
        ("2, 0", ("2", "0")),
        ("GPU-7f3a,MIG-11ac", ("GPU-7f3a", "MIG-11ac")),
        ("", ()),
        ("1,-1,0", ("1",)),
    ],
)
def test_cuda_visible_devices_counts_up_to_its_first_invalid_entry(
    value: str, visible: tuple[str, ...]
) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": value}) == visible
