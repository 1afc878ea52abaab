"""Programs of Debian's packages for tests, unpacked into a folder without root."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path


def unpack(packages: Sequence[str], folder: Path) -> None:
    """Download packages and unpack them, as far as there are any. The first is the one that is needed, the others are its libraries."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return
    folder.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["apt-get", "download", packages[0]], check=False, cwd=folder, capture_output=True, timeout=300).returncode:
        subprocess.run(["apt-get", "update"], check=False, capture_output=True, timeout=300)  # a fresh machine has no lists of packages yet
    for name in packages:  # a release of the system has not all of the libraries, and does not need them then
        subprocess.run(["apt-get", "download", name], check=False, cwd=folder, capture_output=True, timeout=300)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, folder], check=False, capture_output=True, timeout=300)
        package.unlink()
