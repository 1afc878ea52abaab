"""The plant file as a text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import HeadraceError
from headrace.plant.file import In, Out, Page, PipelinePart, PlantFile, parse_plant, with_parameters

WHOLE = """
[plant]
name = "works"
zone = "Europe/Berlin"
external = ["commands"]

[tags]
file = "tags.csv"

[[in]]
from = "http://127.0.0.1:8001/stream"
to = "topic:readings"
key = "tag"

[[in]]
name = "kiln"
from = "simulate:kiln"
to = "kiln"
seed = 3
quick = true

[[pipeline]]
app = "hot.py"
settings = {limit = 80}
commit_every = "5s"
batch_records = 10

[[out]]
from = "hot"
to = "store.py:x"
token = "${TOKEN}"

[page]
port = 0

[hot]
other = 1

[kafka]
"bootstrap.servers" = "127.0.0.1:9092"
"""


def mistakes_of(text: str) -> list[str]:
    return [str(one).removeprefix("headrace.toml ") for one in parse_plant(text)[1]]


def test_a_whole_file() -> None:
    plant, mistakes = parse_plant(WHOLE)
    assert mistakes == []
    assert plant == PlantFile(
        "works",
        "Europe/Berlin",
        ("commands",),
        "tags.csv",
        (
            In("readings", "http://127.0.0.1:8001/stream", "readings", "tag"),
            In("kiln", "simulate:kiln", "kiln", None, (("seed", "3"), ("quick", "true"))),
        ),
        (PipelinePart("hot.py", {"limit": 80}, {"commit_every": "5s", "batch_records": 10}),),
        (Out("hot:store", "hot", "store.py:x", (("token", "${TOKEN}"),)),),
        Page("127.0.0.1", 0),
        {"hot": {"other": 1}},
    )
    assert plant.pipelines[0].where("settings", "limit") == "headrace.toml line 24, column 13"
    assert plant.where(("hot", "other")) == "headrace.toml line 37, column 1"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[plants]\nname = 'x'", "line 1, column 1: unknown table 'plants'; did you mean 'plant'?"),
        ("[[input]]\nfrom = 'x'", "line 1, column 1: unknown table 'input'; there is: in, kafka, out, page, pipeline, plant, tags"),
        ("name = 'x'", "line 1, column 1: unknown key 'name'; there is: in, kafka, out, page, pipeline, plant, tags"),
        ("plant = 1", "line 1, column 1: 'plant' is not a table; write [plant] above its keys"),
        ("[in]\nfrom = 'x'", "line 1, column 1: 'in' is not a list of tables; write [[in]] above each"),
        ("[plant]\nnam = 'x'", "line 2, column 1: unknown key 'nam'; did you mean 'name'?"),
        ("[plant]\nname = 1", 'line 2, column 1: name is 1, not a text; write it between quotes: "…"'),
        ("[plant]\nzone = 'Europe/Berlim'", "line 2, column 1: there is no time zone 'Europe/Berlim'; did you mean 'Europe/Berlin'?"),
        ("[plant]\nexternal = 'x'", "line 2, column 1: external is 'x', not a list of texts; write external = [\"…\"]"),
        ("[tags]", 'line 1, column 1: file is missing; write file = "…"'),
        ("[page]\nport = 70000", "line 2, column 1: port is 70000; give 1 to 65535, or 0 for any that is free"),
        ("[page]\n  prt = 7", "line 2, column 3: unknown key 'prt'; did you mean 'port'?"),
        ("[[in]]\nto = 'a'", 'line 1, column 1: from is missing; write from = "…"'),
        ("[[in]]\nfrom = 'http://h/'\n", 'line 1, column 1: to is missing; write to = "…"'),
        (
            "[[in]]\nfrom = 'x'\nto = 'mqtt://h/a'",
            "line 3, column 1: to is 'mqtt://h/a', not the name of a topic; name a topic: letters, digits and . _ -; an address belongs to 'from'",
        ),
        ("[[in]]\nfrom = 'x'\nto = 'a'\nname = 'a b'", "line 4, column 1: name is 'a b'; use letters, digits and . _ : -"),
        ("[[in]]\nfrom = 'x'\nto = 'a'\nqos = [1]", 'line 4, column 1: qos is [1], not a text or a number; write it between quotes: "…"'),
        (
            "[[in]]\nfrom = 'mqtt://u:secret@h/'\nto = 'a'",
            "line 2, column 1: from contains a password; write ${NAME} for it, and set NAME in the environment",
        ),
        (
            "[[in]]\nfrom = 'x'\nto = 'a'\n[[in]]\nfrom = 'y'\nto = 'a'\nname = 'b'",
            (
                "line 6, column 1: two sources fill the topic 'a'; give each source a topic of its own, and let a pipeline read both; "
                "the other: headrace.toml line 3, column 1"
            ),
        ),
        (
            "[[in]]\nfrom = 'x'\nto = 'a'\n[[out]]\nfrom = 'b'\nto = 'y:'\nname = 'a'",
            "line 7, column 1: two parts have the name 'a'; give one of them another name; the other: headrace.toml line 1, column 1",
        ),
        ("[[pipeline]]\n", 'line 1, column 1: app is missing; write app = "…"'),
        ("[[pipeline]]\napp = 'a'\nsetings = {}", "line 3, column 1: unknown key 'setings'; did you mean 'settings'?"),
        ("[[pipeline]]\napp = 'a'\nsettings = 3", "line 3, column 1: settings is 3, not a table; write settings = {name = value}"),
        ("[[pipeline]]\napp = 'a'\nbatch_records = true", "line 3, column 1: batch_records is True; give a whole number, 1 or more"),
    ],
)
def test_a_mistake(text: str, says: str) -> None:
    assert mistakes_of(text) == [says]


def test_all_mistakes_are_found_at_once_and_no_password_is_shown() -> None:
    found = mistakes_of("[plant]\nzone = 1\n[[in]]\nfrom = 'mqtt://u:secret@h'\n[[out]]\n[page]\nport = 'x'\n")
    assert len(found) == 6
    assert not any("secret" in one for one in found)


def test_parameters_are_added_to_an_address() -> None:
    assert with_parameters("mqtt://h/a", []) == "mqtt://h/a"
    assert with_parameters("mqtt://h/a", [("x", "a b&c"), ("n", "1")]) == "mqtt://h/a?x=a%20b%26c&n=1"
    assert with_parameters("mqtt://h/a?q=1", [("x", "2")]) == "mqtt://h/a?q=1&x=2"


_pieces = st.sampled_from([
    "[plant]\n", "[tags]\n", "[[in]]\n", "[[pipeline]]\n", "[[out]]\n", "[page]\n", "[in]\n", "[hot]\n", "plant = 1\n", "from = 'a'\n", "to = 'b'\n", "to = 1\n",
    "name = ''\n", "zone = '\\u0000'\n", 'zone = "../x"\n', "app = 'x'\n", "settings = {a.b = 1}\n", "settings = []\n", "port = -1\n", "host = 1979-05-27\n",
    "external = [1]\n", "file = '''\n'''\n", "key = inf\n", "commit_every = 5\n", "[[in.x]]\n", "= \n", "\ud7ff",
])  # fmt: skip


@given(st.lists(_pieces | st.text(max_size=3), max_size=20).map("".join))
def test_no_text_leads_to_anything_but_a_plant_or_errors_with_their_fixes(text: str) -> None:
    try:
        _, mistakes = parse_plant(text)
    except HeadraceError as error:
        mistakes = [error]
    for one in mistakes:
        assert one.where
        assert one.fix
