"""`headrace browse`: what a server of OPC UA and a Modbus device have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plant_servers import PlantServer

from headrace.cli import main
from headrace.connectors.modbus.registers import load as load_map
from headrace.plant.tags import load


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(out: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in out.splitlines()}


def test_variables_are_shown_and_written_as_a_list_of_tags(capsys: pytest.CaptureFixture[str]) -> None:
    definition = json.dumps({"values": {"Temp": 21.5, "NaN": {"nan": 1}}, "units": {"Temp": "CEL"}})
    with PlantServer("opc_server.py", definition) as server:
        address = f"opc.tcp://127.0.0.1:{server.port}/plant/?timeout=60s"
        assert main(["browse", address, "--tags", "tags.csv"]) == 0
        said = capsys.readouterr()
        shown = rows(said.out)
        assert shown["tag"] == ["value", "quality", "unit", "time"]
        assert shown["Line1/Temp"][:3] == ["21.5", "GOOD", "CEL"] and shown["Line1/NaN"][0] == "BAD_NO_DATA"
        assert said.err == "headrace: 3 tags written to tags.csv\n"
        assert [(one.path, one.unit, one.source) for one in load("tags.csv")] == [
            ("Line1/Temp", "CEL", "ns=2;s=Temp"),
            ("Line1/NaN", None, "ns=2;s=NaN"),
            ("Line1/Count", None, "ns=2;i=1000"),
        ]
        assert main(["browse", f"{address}&tags=tags.csv", "--json"]) == 0
        found = {one["tag"]: one["value"] for one in map(json.loads, capsys.readouterr().out.splitlines())}
        assert found == {"Line1/Temp": 21.5, "Line1/NaN": None, "Line1/Count": 0}
        assert main(["browse", f"{address}&tags=tags.csv", "--tags", "tags.csv"]) == 2
        assert capsys.readouterr().err == "headrace: tags.csv: exists already; name a new file, so that nothing is overwritten\n"


def test_registers_of_a_range_are_shown_and_written_as_a_map(capsys: pytest.CaptureFixture[str]) -> None:
    with PlantServer("modbus_server.py", json.dumps({"1": {"holding": {"0": [5, 6], "7": [9]}, "coil": {"3": [True]}}})) as server:
        address = f"modbus://127.0.0.1:{server.port}"
        assert main(["browse", f"{address}?timeout=60s", "--range", "holding:0-8", "--range", "coil:3", "--tags", "map.csv"]) == 0
        shown = rows(capsys.readouterr().out)
        assert shown["holding/1"][:2] == ["6", "GOOD"] and shown["holding/2"][0] == "BAD_CONFIGURATION_ERROR" and shown["coil/3"][0] == "True"
        found = load_map(Path("map.csv"), ("127.0.0.1", server.port))
        assert [one.tag for one in found] == ["holding/0", "holding/1", "holding/7", "coil/3"]
        assert main(["browse", f"{address}?map=map.csv&timeout=60s"]) == 0
        assert set(rows(capsys.readouterr().out)) == {"tag", *(one.tag for one in found)}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["foo:x"], "ADDRESS: cannot be browsed: 'foo'; give opc.tcp://… or modbus://…"),
        (["modbus://h"], "FROM: names no register map; add map=FILE.csv, or --range holding:0-200"),
        (["modbus://h", "--range", "holding:9-3"], "--range: 'holding:9-3' is not a range of registers; write TABLE:FIRST-LAST"),
        (["modbus://h?map=x", "--range", "coil:1"], "--range: has a map already; leave out one of the two"),
        (["modbus://?unit=1", "--range", "coil:1"], "FROM: names no host; "),
        (["opc.tcp://h", "--range", "coil:1"], "--range: is only for modbus; leave it out"),
        (["opc.tcp://127.0.0.1:1"], "opc.tcp://127.0.0.1:1: connection refused; is its server running, and the address right?"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["browse", *arguments]) in {1, 2}
    err = capsys.readouterr().err
    assert err.startswith(f"headrace: {says}") and err.count("\n") == 1
