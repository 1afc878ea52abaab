"""Connectors: between topics and the outside world. Two runners, `Ingest` and `Forward`, and one module for each outside system.

The scheme of an address names the module: `http://…` is `headrace/connectors/http.py`. A module that is found there and has
`source(address)` can be bridged from; one that has `target(address)` can be bridged to. So a new connector is one module. One whose
source takes the parameter `tags=FILE` says so with `TAKES_TAGS = True`: in a plant file it gets the plant's list of tags.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from types import ModuleType

__all__ = ["find"]


def find(address: str) -> ModuleType | None:
    """Return the module of a connector; None if there is none for the address.

    Its name is the scheme up to the first `.`, `+` or `-`: `opc.tcp://…` is `opc`. Where no module has that name, an `s` at its end
    stands for TLS: `https` is `http`.
    """
    scheme, colon, _ = address.partition(":")
    name = re.split(r"[.+-]", scheme.lower())[0]
    if not colon or not name.isidentifier():
        return None
    for one in (name, name.removesuffix("s")):
        if one and importlib.util.find_spec(f"{__name__}.{one}") is not None:
            return importlib.import_module(f"{__name__}.{one}")
    return None
