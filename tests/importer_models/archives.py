"""Archives of artifacts, taken apart and put together by zipfile alone."""

import zipfile
from pathlib import Path

import pytest

from model_import import main

FIRST = (1980, 1, 1, 0, 0, 0)
Members = dict[str, bytes]


def members(path: Path) -> Members:
    with zipfile.ZipFile(path) as source:
        return {name: source.read(name) for name in source.namelist()}


def written(path: Path, contents: Members) -> Path:
    with zipfile.ZipFile(path, "w") as target:
        for name, data in contents.items():
            target.writestr(zipfile.ZipInfo(name, FIRST), data)
    return path


def refused(path: Path, store: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """The one line of a refused import; the store is as empty as before."""
    assert main(["import", str(path), "--quiet", *more]) == 1
    assert [one for one in store.rglob("*") if one.is_file()] == []
    assert [one.name for one in store.iterdir()] == ["models"]
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err
