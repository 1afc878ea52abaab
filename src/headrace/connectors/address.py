"""Addresses of outside systems, with their parameters, and the secrets that they name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from headrace.errors import EnvironmentFault, PlanError, near

__all__ = ["Address", "local", "seconds"]

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "": 1.0}
_VARIABLE = re.compile(r"\$\{(\w+)\}")


class Address:
    """An address of an outside system: `scheme://user:password@host:port/path?parameters`.

    Parameters
    ----------
    text
        The address.
    known
        The names of the parameters that it may have.
    example
        An address that would do, for the fix of an error.
    where
        What errors call the address.

    Attributes
    ----------
    host, port
        None where they are left out.
    path
        With its first `/`; empty where there is none.
    user, password
        `${NAME}` in them is the environment's.

    Raises
    ------
    PlanError
        If it is none, or has a parameter that is not known.
    EnvironmentFault
        If a variable is not set.
    """

    def __init__(self, text: str, known: Iterable[str], example: str, where: str = "FROM") -> None:
        self.example, self.where = example, where
        head, _, query = text.partition("?")
        try:
            parts = urlsplit(head)
            self.host, self.port, self.path = parts.hostname, parts.port, parts.path
            user, password = parts.username, parts.password
            whole = bool(parts.netloc or query) and self.port != 0 and not parts.fragment and not re.search(r"\s", head)
        except ValueError:
            whole = False
        if not whole:
            raise self.wrong("is not an address")
        self.scheme = parts.scheme
        self.user, self.password = (None if one is None else secret(unquote(one), where) for one in (user, password))
        self._given = self._parameters(query, frozenset(known))

    def _parameters(self, query: str, known: frozenset[str]) -> Mapping[str, str]:
        given: dict[str, str] = {}
        for part in filter(None, query.split("&")):
            name, equals, value = part.partition("=")
            if name not in known:
                raise PlanError(f"has no parameter {name!r}", where=self.where, fix=near(name, known))
            if not equals or not value or name in given:
                raise self.wrong(f"parameter {name} is given twice" if name in given else f"parameter {name} has no value")
            given[name] = unquote(value)
        return given

    def wrong(self, what: str) -> PlanError:
        """Return the error of an address that is wrong, without the address: it may have a password."""
        return PlanError(what, where=self.where, fix=f"give an address such as {self.example}")

    def get(self, name: str) -> str | None:
        """Return a parameter's text."""
        return self._given.get(name)

    def choice(self, name: str, among: Iterable[str]) -> str:
        """Return a parameter that is one of some words; the first of them if it is not given."""
        words = list(among)
        given = self._given.get(name, words[0])
        if given not in words:
            raise PlanError(f"parameter {name} is {given!r}", where=self.where, fix=near(given, words))
        return given

    def number(self, name: str, default: float, least: float = 0.0, most: float = 1e15) -> float:
        """Return a parameter that is a number."""
        text = self._given.get(name)
        if text is None:
            return default
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not least <= number <= most:
            raise PlanError(f"parameter {name} is {text!r}", where=self.where, fix=f"give a number from {least:g} to {most:g}")
        return number

    def names(self, name: str) -> tuple[str, ...] | None:
        """Return a parameter that is a list of names."""
        text = self._given.get(name)
        if text is None:
            return None
        found = tuple(text.split(","))
        if "" in found or len(set(found)) < len(found):
            raise PlanError(f"parameter {name} is {text!r}", where=self.where, fix="give names, each once, with commas between them")
        return found

    def seconds(self, name: str, default: float, least: float = 0.001, most: float = 86_400.0) -> float:
        """Return a parameter that is a duration, in seconds."""
        text = self._given.get(name)
        if text is None:
            return default
        found = seconds(text)
        if found is None or not least <= found <= most:
            raise PlanError(f"parameter {name} is {text!r}", where=self.where, fix="give a duration such as 500ms, 1s or 5m")
        return found


def local(text: str, known: Iterable[str], example: str, where: str = "FROM", what: str = "file") -> tuple[str, Address]:
    """Return the path of an address `scheme:PATH?parameters` of this machine, and its parameters. `%3F` in the path is `?`.

    Raises
    ------
    PlanError
        If it has no path, or a parameter that is not known.
    """
    head, _, query = text.partition(":")[2].partition("?")
    given = Address(f"local://here?{query}", known, example, where)
    path = unquote(head.removeprefix("//"))
    if not path or "\0" in path:
        raise given.wrong(f"names no {what}")
    return path, given


def seconds(text: str) -> float | None:
    """Return a duration such as `500ms`, `1s`, `5m`, `1h`, `30d` or bare seconds, in seconds; None if it is none."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d|)", text, re.ASCII)
    return float(match[1]) * _SECONDS[match[2]] if match else None


def secret(text: str, where: str) -> str:
    """Return a text in which `${NAME}` is replaced by the environment's. Raises EnvironmentFault if a variable is not set."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise EnvironmentFault(f"the variable {match[1]} is not set", where=where, fix=f"export {match[1]}=…")
        return os.environ[match[1]]

    return _VARIABLE.sub(value, text)


def secret_file(path: str) -> str:
    """Return the first line of a file that holds a secret. Raises EnvironmentFault if it cannot be read."""
    try:
        return (Path(path).read_text(encoding="utf-8").splitlines() or [""])[0]
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentFault(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=path, fix="give a text file") from None
