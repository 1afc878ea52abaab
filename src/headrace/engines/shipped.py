"""An author's process on its way to a cluster: the object pickled, and the modules that it needs in one archive.

The archive has headrace's own modules and every module of the author's that is loaded here and installed nowhere; packages
that are installed here must be installed on the cluster too, `msgspec` among them.
"""

from __future__ import annotations

import base64
import pickle
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

from headrace.errors import PlanError, ProcessError
from headrace.plan.operators import Process

__all__ = ["archive", "pack", "unpack"]

_SCRIPT = ("__main__", "__mp_main__")
_unpacking = Lock()  # a worker's threads open their processes at once, and Python hands out a module that another thread fails to import


def pack(process: Process) -> str:
    """Return a process as a text, which `unpack` makes one of again where the archive is on the path.

    Raises
    ------
    PlanError
        If it cannot be pickled, or not be found there: it was defined inside a function, say, or in the script that runs.
    """
    if type(process.code).__module__ in _SCRIPT:
        what, fix = "cannot be sent to a cluster: its class is in the script that runs", "define it in a module of its own, and import that"
        raise PlanError(what, where=f"process {process.name}", fix=fix)
    try:
        return base64.b64encode(pickle.dumps(process)).decode()
    except Exception as error:  # noqa: BLE001
        fix = "define its class at the top of a module, and give it attributes that can be pickled"
        raise PlanError(f"cannot be sent to a cluster: {type(error).__name__}: {error}", where=f"process {process.name}", fix=fix) from None


def unpack(text: str) -> Process:
    """Return the process of a text.

    Raises
    ------
    ProcessError
        If a module that it needs is not there, or another than where it was packed.
    """
    try:
        with _unpacking:
            process: Process = pickle.loads(base64.b64decode(text))  # noqa: S301  (a text of `pack`, in the job that came with it)
    except ModuleNotFoundError as error:
        fix = f"install {error.name!r} with the Python of every worker"
        raise ProcessError(f"needs module {error.name!r}, which the cluster lacks", where="a process", fix=fix) from None
    except (ImportError, AttributeError) as error:
        raise ProcessError(f"cannot be loaded on the cluster: {error}", where="a process", fix="install the same versions there as here") from None
    return process


def archive(path: Path) -> Path:
    """Write the archive, the same bytes for the same modules, and return its path."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as written:
        modules = dict(_modules())
        folders = {f"{folder}/" for name in modules for folder in Path(name).parents if folder.name}  # without them there are no namespace packages
        for name in sorted({*modules, *folders}):
            entry = zipfile.ZipInfo(name, date_time=(2000, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            written.writestr(entry, modules[name].read_bytes() if name in modules else b"")
    return path


def _modules() -> Iterator[tuple[str, Path]]:
    """Yield the modules to be sent: their names in the archive, and their files."""
    home = Path(__file__).parents[1]
    for file in home.rglob("*.py"):
        yield f"headrace/{file.relative_to(home)}", file
    installed = [Path(path) for path in {*sysconfig.get_paths().values()}]
    for name, module in list(sys.modules.items()):
        file_name = getattr(module, "__file__", None)
        if not file_name or name in _SCRIPT or name.split(".")[0] == "headrace" or not file_name.endswith(".py"):
            continue
        file = Path(file_name).absolute()
        if not any(file.is_relative_to(folder) for folder in installed) and "site-packages" not in file.parts:
            yield f"{name.replace('.', '/')}{'/__init__' if hasattr(module, '__path__') else ''}.py", file
