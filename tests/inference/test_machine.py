"""Cores of the container, from control groups written by hand."""

import os
from pathlib import Path

import pytest

from image_classifier.inference.machine import this_machine, usable_cores


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


def cgroup(root: Path, **files: str) -> Path:
    """A file system with control group files; "__" in a name stands for "/"."""
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("cpu_max", "cores"),
    [
        pytest.param("max 100000\n", 8, id="no-quota"),
        pytest.param("200000 100000\n", 2, id="two"),
        pytest.param("150000 100000\n", 2, id="one-and-a-half-counts-as-two"),
        pytest.param("50000 100000\n", 1, id="half-a-core"),
        pytest.param("1000 100000\n", 1, id="never-none"),
        pytest.param("6400000 100000\n", 8, id="more-than-there-are"),
        pytest.param("100000 50000\n", 2, id="another-period"),
    ],
)
def test_a_quota_of_cgroup_v2_limits_the_cores(tmp_path: Path, cpu_max: str, cores: int) -> None:
    assert usable_cores(cgroup(tmp_path, cpu_dot_max=cpu_max)) == cores


@pytest.mark.parametrize(
    ("quota", "period", "cores"),
    [("-1\n", "100000\n", 8), ("300000\n", "100000\n", 3), ("250000\n", "100000\n", 3)],
)
def test_a_quota_of_cgroup_v1_limits_the_cores(
    tmp_path: Path, quota: str, period: str, cores: int
) -> None:
    root = cgroup(tmp_path, cpu__cpu_dot_cfs_quota_us=quota, cpu__cpu_dot_cfs_period_us=period)

    assert usable_cores(root) == cores


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({}, id="no-cgroup"),
        pytest.param({"cpu_dot_max": ""}, id="empty"),
        pytest.param({"cpu_dot_max": "many few"}, id="no-numbers"),
        pytest.param({"cpu__cpu_dot_cfs_quota_us": "100000"}, id="v1-without-period"),
        pytest.param(
            {"cpu__cpu_dot_cfs_quota_us": "", "cpu__cpu_dot_cfs_period_us": ""}, id="v1-empty"
        ),
        pytest.param(
            {"cpu__cpu_dot_cfs_quota_us": "1000", "cpu__cpu_dot_cfs_period_us": "0"},
            id="v1-without-a-period-to-divide-by",
        ),
    ],
)
def test_where_no_quota_can_be_read_the_affinity_decides(
    tmp_path: Path, files: dict[str, str]
) -> None:
    assert usable_cores(cgroup(tmp_path, **files)) == 8


def test_the_affinity_limits_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})

    assert usable_cores(cgroup(tmp_path, cpu_dot_max="400000 100000")) == 1


def test_this_machine_is_the_same_each_time_and_names_its_processor() -> None:
    assert this_machine() == this_machine()
    assert this_machine().cpu
    assert list(this_machine().features) == sorted(this_machine().features)
    assert this_machine("one").accelerator == "one"
