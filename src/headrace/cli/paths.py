"""Files and folders on the command line: paths of this machine, never addresses of servers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, Token

from headrace.errors import PlanError

if TYPE_CHECKING:
    from headrace.plan.pipeline import Plan

__all__ = ["GROUP", "InputPath", "OutputPath", "grouped_inputs", "inputs_of", "local_path", "refuse_equal"]

GROUP = "\0"  # no argument of a process can hold it
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def local_path(text: str, where: str | None = None, *, writes: bool = False) -> Path:
    """Return a path of this machine.

    Parameters
    ----------
    text
        What was given.
    where
        The option or argument that it was given for.
    writes
        Whether it is to be written.

    Raises
    ------
    PlanError
        If it is the address of a server: as a path it would become folders of that name. The address may hold a password,
        and is not shown.
    """
    found = _ADDRESS.search(text)
    if found is None:
        return Path(text)
    scheme = found[1].lower()
    if scheme == "file":
        fix = "write the path alone, without file://"
    elif scheme == "kafka":
        fix = "leave this out, and name the servers: --kafka-servers HOST:PORT (simulate --to takes kafka:TOPIC)"
    elif writes:
        fix = "name a path of this machine and load its files from there; a live run, without --input and --output, writes to topics"
    elif scheme in {"http", "https"}:
        fix = "download it first; a stream of events is brought into a topic by headrace bridge"
    else:
        fix = "export it to a file first, or bring it into a topic"
    raise PlanError(f"'{scheme}://…' is the address of a server, not a path", where=where, fix=fix)


def refuse_equal(written: Iterable[tuple[str, Path | None]], read: Iterable[Path] = ()) -> None:
    """Refuse to write two outputs to one file, or one to an input: one would destroy the other.

    Parameters
    ----------
    written
        Options, and the files that they name; None where they name none.
    read
        Inputs.

    Raises
    ------
    PlanError
        If two are the same file. Devices such as /dev/null may be named twice.
    """
    seen = {os.path.realpath(path): "an input" for path in read}
    for option, path in written:
        if path is None or (path.exists() and not path.is_file()):
            continue
        place = os.path.realpath(path)
        if place in seen:
            raise PlanError(f"is also the file of {seen[place]}", where=f"{option} {path}", fix="name another file")
        seen[place] = option


def _input(_type: object, tokens: Sequence[Token]) -> Path:
    return local_path(tokens[0].value, tokens[0].keyword)


def _output(_type: object, tokens: Sequence[Token]) -> Path:
    return local_path(tokens[0].value, tokens[0].keyword, writes=True)


InputPath = Annotated[Path, Parameter(converter=_input)]
OutputPath = Annotated[Path, Parameter(converter=_output)]


def grouped_inputs(arguments: Sequence[str]) -> list[str]:
    """Return a command line in which all files after one --input are one argument, with GROUP between them.

    A shell writes several files where *.csv stands. `-` is a file, standard input; whatever else begins with a hyphen is an
    option.
    """
    grouped: list[str] = []
    taking = False
    for one in arguments:
        if one.startswith("-") and one != "-":
            taking = one == "--input" or one.startswith("--input=")
            grouped.append(one)
        elif taking and grouped[-1] != "--input":
            grouped[-1] += GROUP + one
        else:
            grouped.append(one)
    return grouped


def inputs_of(plan: Plan, given: Sequence[str]) -> dict[str, list[Path]]:
    """Return the files that --input names, by topic, in their order."""
    topics = [source.topic for source in plan.sources]
    inputs: dict[str, list[Path]] = {}
    for group in given:
        topic: str | None = topics[0] if len(topics) == 1 else None
        for one in group.split(GROUP):
            named, equals, file = one.partition("=")
            if equals and (named in topics or not Path(one).exists()):
                topic = named
                if not file:
                    continue
            else:
                file = one
            if topic is None:
                raise PlanError(f"{one!r} names no topic", where="--input", fix=f"write TOPIC={one}, TOPIC being one of {', '.join(topics)}")
            path = local_path(file, "--input")
            if path.is_dir():
                raise PlanError("is a folder", where=f"--input {file}", fix="name its files: --input FOLDER/*.csv")
            inputs.setdefault(topic, []).append(path)
    if [str(file) for files in inputs.values() for file in files].count("-") > 1:
        raise PlanError("standard input is named twice", where="--input", fix="it can be read once")
    return inputs
