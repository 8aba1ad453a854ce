"""Cores of the container, from control groups written by hand."""

import os
from pathlib import Path

import pytest

from image_classifier.inference.machine import this_machine, usable_cores

QUOTA, PERIOD = "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        pytest.param({}, 8, id="no-cgroup"),
        pytest.param({"cpu.max": "max 100000\n"}, 8, id="no-quota"),
        pytest.param({"cpu.max": "200000 100000\n"}, 2, id="two"),
        pytest.param({"cpu.max": "150000 100000\n"}, 2, id="one-and-a-half-counts-as-two"),
        pytest.param({"cpu.max": "1000 100000\n"}, 1, id="never-none"),
        pytest.param({"cpu.max": "6400000 100000\n"}, 8, id="more-than-there-are"),
        pytest.param({"cpu.max": "100000 50000\n"}, 2, id="another-period"),
        pytest.param({"cpu.max": ""}, 8, id="empty"),
        pytest.param({"cpu.max": "many few"}, 8, id="no-numbers"),
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


def test_this_machine_is_the_same_each_time_and_names_its_processor() -> None:
    assert this_machine() == this_machine()
    assert this_machine().cpu
    assert list(this_machine().features) == sorted(this_machine().features)
    assert this_machine("one").accelerator == "one"
