"""What the heavier suites need beyond presseco[dev]: installed on first use, or a clear failure."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def package(name: str, module: str | None = None) -> None:
    """Install a Python package into this environment unless its module is there."""
    if importlib.util.find_spec(module or name) is None:
        command = [sys.executable, "-m", "pip", "install", "-q", "-c", "constraints.txt", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=_ROOT)
        if done.returncode:
            pytest.fail(f"pip install {name}: {done.stderr.strip()[-300:]}")


def program(name: str, debian: str | None = None) -> str:
    """Return the path of a program, installed by apt-get where it is missing."""
    if not shutil.which(name):
        command = ["apt-get", "install", "-y", "-q", debian or name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.fail(f"{name} is missing and there is no apt-get: install {debian or name}")
        if done.returncode:
            pytest.fail(f"{name} is missing; as root: {' '.join(command)}\n{done.stderr[-300:]}")
    return str(shutil.which(name))


_ROOT = Path(__file__).resolve().parent.parent
