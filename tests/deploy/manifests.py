"""Kubernetes manifests as kustomize renders them."""

import functools
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.imports import ROOT
from tests.programs import run_program

KUBERNETES = ROOT / "deploy" / "kubernetes"
Manifest = dict[str, Any]


def rendered(folder: Path) -> list[Manifest]:
    return list(yaml.safe_load_all(_rendered_text(folder)))


@functools.cache
def _rendered_text(folder: Path) -> str:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    done = run_program("kubectl", "kustomize", folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def of_kind(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def pod_of(manifests: list[Manifest]) -> tuple[Manifest, Manifest]:
    """Return the pod's specification and its only container."""
    spec: Manifest = of_kind(manifests, "Deployment")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container
