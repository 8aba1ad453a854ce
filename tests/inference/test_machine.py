"""Cores of the container, from control groups written by hand, and GPUs of a simulated driver."""

import os
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from image_classifier.inference.machine import usable_cores, visible_gpus

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
        pytest.param({QUOTA: "100000"}, 8, id="v1-without-a-period"),
        pytest.param({QUOTA: "1000", PERIOD: "0"}, 8, id="v1-with-a-period-of-0"),
    ],
)
def test_the_cores_are_those_of_the_affinity_or_the_quota_if_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert usable_cores(tmp_path) == cores
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert usable_cores(tmp_path) == 1


class Driver:
    """What NVIDIA's driver says, for GPUs given by their slices; None: it cannot be divided."""

    def __init__(self, *gpus: tuple[str, ...] | None) -> None:
        self._gpus = gpus

    def device_by_index(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(uuid=f"GPU-{index}", slices=self._gpus[index])

    def slice_by_index(self, gpu: SimpleNamespace, index: int) -> SimpleNamespace:
        if index >= len(gpu.slices):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return SimpleNamespace(uuid=gpu.slices[index])

    def is_divided(self, gpu: SimpleNamespace) -> list[int]:
        if gpu.slices is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [int(gpu.slices != ()), 0]

    def replace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, answer in {
            "Init": lambda: None,
            "Shutdown": lambda: None,
            "DeviceGetCount": lambda: len(self._gpus),
            "DeviceGetHandleByIndex": self.device_by_index,
            "DeviceGetUUID": lambda device: device.uuid,
            "DeviceGetMigMode": self.is_divided,
            "DeviceGetMaxMigDeviceCount": lambda _: 7,
            "DeviceGetMigDeviceHandleByIndex": self.slice_by_index,
        }.items():
            monkeypatch.setattr(pynvml, f"nvml{name}", answer)


def test_without_a_choice_all_gpus_are_visible_and_the_slices_of_a_divided_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Driver(("MIG-a", "MIG-b"), None, ()).replace(monkeypatch)

    assert visible_gpus({}) == ("MIG-a", "MIG-b", "GPU-1", "GPU-2")


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)

    assert visible_gpus({}) == ()


@pytest.mark.parametrize(
    ("given", "visible"),
    [
        ("2, 0", ("2", "0")),
        ("GPU-7f3a,MIG-11ac", ("GPU-7f3a", "MIG-11ac")),
        ("", ()),
        ("1,-1,0", ("1",)),
    ],
)
def test_a_choice_in_the_environment_counts_up_to_its_first_invalid_entry(
    given: str, visible: tuple[str, ...]
) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": given}) == visible
