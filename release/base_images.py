"""Stand-ins for the official Python image, made of Debian's packages where no registry is."""

import subprocess
from pathlib import Path

from release.errors import ReleaseError
from release.image import Bases

SUITE = "bookworm"
"""Debian 12: its Python is 3.11."""
SOURCES = "/etc/apt/sources.list.d/debian.sources"
RUNTIME = ("essential", "python3,ca-certificates,libgomp1,libstdc++6")
BUILD = ("minbase", "python3,python3-venv,python3-pip,ca-certificates")
WITHOUT = ("man", "doc", "locale")


def stand_in_bases(folder: Path) -> Bases:
    """Make both images, once, and import them into podman's store.

    Raises:
        ReleaseError: Debian's packages cannot be had here.
    """
    runtime = _imported(folder, "python-runtime", *RUNTIME)
    return Bases(base=runtime, build_base=_imported(folder, "python-build", *BUILD))


def _imported(folder: Path, name: str, variant: str, packages: str) -> str:
    tar = folder / f"{name}.tar"
    image = f"localhost/{name}:3.11"
    if not tar.is_file():
        _make(tar, variant, packages)
        _run(["podman", "import", "--quiet", str(tar), image])
    elif subprocess.run(["podman", "image", "exists", image]).returncode:  # noqa: S603, S607
        _run(["podman", "import", "--quiet", str(tar), image])
    return image


def _make(tar: Path, variant: str, packages: str) -> None:
    draft = tar.with_suffix(".draft.tar")
    command = ["mmdebstrap", "--mode=root", f"--variant={variant}", f"--include={packages}"]
    command += [f"--dpkgopt=path-exclude=/usr/share/{one}/*" for one in WITHOUT]
    # Perl's modules have served when the packages are configured; serving has no use for them.
    gone = "usr/lib/python3*/EXTERNALLY-MANAGED usr/share/perl usr/lib/*/perl usr/lib/*/libperl.so*"
    hook = f'cd "$1"; rm -rf {gone}; ln -sf python3 usr/bin/python'
    _run([*command, f"--customize-hook={hook}", SUITE, str(draft), SOURCES])
    draft.rename(tar)


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    except FileNotFoundError as error:
        raise ReleaseError(
            f"{command[0]}: not found; name a base image (BASE=...) or install {command[0]}"
        ) from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no output"])[-1]
        raise ReleaseError(f"{command[0]}: {last}; name a base image (BASE=...)") from error
