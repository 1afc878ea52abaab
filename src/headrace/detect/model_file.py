"""Models in files: a JSON text, read only if nothing in it contradicts itself."""

from __future__ import annotations

from pathlib import Path

import msgspec

from headrace._durable import put, write_fault
from headrace._json import NOT_JSON
from headrace.detect.faults import faults_of
from headrace.detect.model import FORMAT, Model, encoded
from headrace.errors import EnvironmentFault, PlanError

__all__ = ["decoded", "load", "save"]


def save(model: Model, path: Path) -> None:
    """Write a model to a file, which is replaced as a whole.

    Raises
    ------
    EnvironmentFault
        If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, encoded(model))
    except OSError as error:
        raise write_fault(path, error) from None


def load(path: Path | str) -> Model:
    """Return the model of a file.

    Raises
    ------
    EnvironmentFault
        If the file cannot be read.
    PlanError
        If it is not a model, or one of a format that this version does not know.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise EnvironmentFault(f"cannot be read: {error.strerror}", where=f"model {path}", fix="make it with headrace fit") from None
    return decoded(data, f"model {path}")


def decoded(data: bytes, where: str) -> Model:
    """Return the model of a text. Raises PlanError if the text is not a model."""
    fix = "fit it again with headrace fit"
    try:
        form = msgspec.json.decode(data, type=_Form)
    except NOT_JSON as error:
        raise PlanError(f"is not a model: {error}", where=where, fix=fix) from None
    if form.format != FORMAT:
        raise PlanError(f"has format {form.format}, and this version of headrace reads format {FORMAT}", where=where, fix=fix)
    try:
        model = msgspec.json.decode(data, type=Model)
    except NOT_JSON as error:
        raise PlanError(f"is not a model: {error}", where=where, fix=fix) from None
    if (wrong := next(faults_of(model), None)) is not None:
        raise PlanError(f"is not a model: {wrong}", where=where, fix=fix)
    return model


class _Form(msgspec.Struct):
    format: int
