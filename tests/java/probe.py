"""The Java reader as a process that answers line by line."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

from headrace.engines import jar
from headrace.errors import EnvironmentFault
from headrace.plan.schema import Schema, Type

SOURCE = Path(__file__).parent / "Probe.java"


def missing() -> str | None:
    """Return what there is not that the Java reader needs, and how to get it."""
    if not shutil.which("javac"):
        return "no JDK (11 or newer) to run the jar's classes with; Debian: apt install openjdk-17-jdk-headless"
    try:
        jar.path()
    except EnvironmentFault as fault:
        return str(fault)
    return None


def column_text(name: str, kind: Type, *, nullable: bool = True) -> str:
    """Return a column as the Java reader is told of it."""
    return f"{quoted(name)} {type_text(kind)}{'' if nullable else ' NOT NULL'}"


def type_text(kind: Type) -> str:
    """Return a type as the Java reader is told of it, the names in it quoted."""
    match kind.kind:
        case "ROW":
            return f"ROW<{', '.join(f'{quoted(name)} {type_text(inner)}' for name, inner in kind.fields())}>"
        case "MAP":
            return f"MAP<STRING, {type_text(kind.element)}>"
        case "ARRAY":
            return f"ARRAY<{type_text(kind.element)}>"
    return kind.kind


def quoted(name: str) -> str:
    return f"`{name.replace('`', '``')}`"


def schema_text(schema: Schema) -> str:
    """Return a schema as the Java reader is told of it."""
    return ", ".join(column_text(field.name, field.type, nullable=field.nullable) for field in schema.fields)


class Probe:
    """A Java process that reads records."""

    def __init__(self) -> None:
        command = ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx256m", "-cp", str(jar.path()), str(SOURCE)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._told = ""

    def read(self, records: list[bytes], schema: str, *, rest: bool = False) -> list[Any]:
        """Return what became of each record: None if it is blank, why it is malformed, or its columns' values as `exact.shown` has them."""
        told = f"S {_word(schema)}{' rest' if rest else ''}"
        if told != self._told:
            self._tell(told)
            self._told = told
        return [_fate(self._ask("R", record)) for record in records]

    def dead_letter(self, topic: str, detail: str, raw: bytes) -> bytes:
        """Return the dead letter, of pipeline "pipe", of a malformed record of partition 3 that arrived at 5."""
        return b64decode(self._ask("D", topic, detail, raw))

    def statements(self, script: str) -> list[str] | str:
        """Return a script's statements, or why it has none."""
        match self._ask("Q", script):
            case ["error", why]:
                return b64decode(why).decode()
            case statements:
                return [b64decode(one).decode() for one in statements]

    def matched(self, pattern: str, text: str, put: str) -> tuple[list[str | None], str]:
        """Return the groups of the first match, none if there is none, and the text with each match replaced."""
        groups, replaced = self._ask("X", pattern, text, put)
        return [None if one is None else b64decode(one).decode() for one in groups], b64decode(replaced).decode()

    def time(self, pattern: str, text: str, *zone: str) -> int | None:
        """Return the milliseconds that a text says in a pattern, and in a zone."""
        return self._ask("T", pattern, text, *zone)  # type: ignore[no-any-return]

    def parts(self, text: str, delimiter: str) -> list[str]:
        """Return the parts of a text."""
        return [b64decode(one).decode() for one in self._ask("P", text, delimiter)]

    def part(self, text: str, delimiter: str, number: int) -> str | None:
        """Return the part of a text that has that number."""
        found = self._ask("N", text, delimiter, str(number))
        return None if found is None else b64decode(found).decode()

    def cut(self, number: float, decimals: int) -> float:
        """Return a number cut off."""
        return float(_shown(self._ask("C", repr(number), str(decimals))))

    def _ask(self, *words: str | bytes) -> Any:
        self._tell(f"{words[0]!s} {' '.join(map(_word, words[1:]))}")
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def end(self) -> None:
        """Have the process end."""
        self._process.communicate(timeout=180)


def _word(word: str | bytes) -> str:
    return b64encode(word.encode() if isinstance(word, str) else word).decode()


def _fate(said: list[Any]) -> Any:
    match said:
        case ["row", values]:
            return tuple(map(_shown, values))
        case ["malformed", detail]:
            return b64decode(detail).decode()
        case ["blank"]:
            return None
    raise AssertionError(f"the Java reader failed: {b64decode(said[1]).decode()}")


def _shown(value: Any) -> Any:
    match value:
        case None:
            return "NoneType", None
        case bool():
            return "bool", value
        case ["s", text]:
            return "str", b64decode(text).decode()
        case ["i", number]:
            return "int", number
        case ["d", bits]:
            return repr(struct.unpack(">d", int(bits, 16).to_bytes(8))[0])
        case ["t", ms]:
            return "ms", ms
        case ["m", entries]:
            return [(_shown(key)[1], _shown(inner)) for key, inner in entries]
        case ["a", items] | ["r", items]:
            return [_shown(inner) for inner in items]
    raise AssertionError(value)
