"""Lists of tags."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace._toml import parse_toml
from headrace.errors import HeadraceError, Mistakes, PlanError
from headrace.plant.quality import Quality
from headrace.plant.reading import Reading
from headrace.plant.tag_files import COLUMNS
from headrace.plant.tags import Tag, Tags, csv_of_tags, load
from headrace.plant.units import UNITS, code_of_unit_id, is_unit, unit_code

CSV = """path,name,class,unit,low,high,ll,l,h,hh,deadband,interpolation,source,spellings
works/kiln/line 1/burner/TT-101,Flame temperature,temperature,CEL,0,1600,100,200,1400,1500,0.5,,plant/burner#$.temp,TT 101|TT101.Pv
works/kiln/line 1/burner/XV-101,,valve,,,,,,,,,stepped,plant/burner/valve,"P1_STATE|a,b"
works/kiln/line 1/fan/FT-102,,flow,MQH,,,,,,,,,ns=2;s=fan.flow,
"""
TOML = """
spellings = "loose"

[[tag]]
path = "works/kiln/TT-101"   # the first
unit = "CEL"
low = 0
high = 1600.5
spellings = ["TT 101", "x"]
"""


def written(folder: Path, text: str, name: str = "tags.csv") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def mistakes_of(path: Path) -> list[str]:
    with pytest.raises(PlanError) as caught:
        load(path)
    return str(caught.value).replace(str(path), path.name).split("\n")


def test_a_csv_list_is_read(tmp_path: Path) -> None:
    tags = load(written(tmp_path, "\ufeff" + CSV.replace("\n", "\r\n")))
    flame = tags.by_path("works/kiln/line 1/burner/TT-101")
    assert flame == Tag(
        "works/kiln/line 1/burner/TT-101", "Flame temperature", "temperature", "CEL", 0, 1600, 100, 200, 1400, 1500, 0.5, "sloped",
        "plant/burner#$.temp", ("TT 101", "TT101.Pv"),
    )  # fmt: skip
    assert flame.symbol == "°C"
    valve = tags.by_source("plant/burner/valve")
    assert valve is not None
    assert (valve.name, valve.interpolation, valve.unit, valve.symbol) == ("XV-101", "stepped", None, "")
    assert tags.named("P1_STATE") is tags.named("a,b") is tags.named(valve.path) is valve
    assert tags.named("p1_state") is None
    assert tags.by_path("works") is tags.by_source("") is None
    assert len(tags) == 3


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters(tmp_path: Path, delimiter: str) -> None:
    text = CSV.replace('"P1_STATE|a,b"', "P1_STATE").replace("ns=2;s=fan.flow", "4").replace(",", delimiter)
    assert [tag.path for tag in load(written(tmp_path, text))] == [tag.path for tag in load(written(tmp_path, CSV))]


def test_a_toml_list_is_read_and_says_how_spellings_are_compared(tmp_path: Path) -> None:
    file = written(tmp_path, TOML, "tags.toml")
    tags = load(file)
    assert list(tags) == [Tag("works/kiln/TT-101", unit="CEL", low=0, high=1600.5, spellings=("TT 101", "x"))]
    assert tags.named("tt101") is tags.named("Works/Kiln/TT-101") is tags.by_path("works/kiln/TT-101")
    assert load(file, loose=False).named("tt101") is None


def test_the_asset_tree(tmp_path: Path) -> None:
    root = load(written(tmp_path, CSV)).tree
    line = root.children["works"].children["kiln"].children["line 1"]
    assert (line.path, line.name, list(line.children)) == ("works/kiln/line 1", "line 1", ["burner", "fan"])
    assert [tag.name for tag in line.tags()] == ["Flame temperature", "XV-101", "FT-102"]
    assert list(root.tags()) == list(load(written(tmp_path, CSV)))
    assert line.tag is None


def test_all_mistakes_of_a_csv_file_are_reported_at_once(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "path,unit,low,high,ll,h,deadband,interpolation,source,spellings,hihi\n"
        "a/b,°C,10,5,,,-1,,s,x|y,\n"
        "\n"
        "a/b,CELS,0,100,,200,,step,s,x,\n"
        '"a\nb",,,,,,,,,,\n'
        "c,,1e999,1_0,,,,,,y,\n"
        "d//e,,0,10,9,8,,,,a/b,\n"
        "f,,,,,,,,,,,1\n",
    )
    levels = "write site/area/line/unit/tag, or fewer levels"
    assert mistakes_of(file) == [
        "tags.csv line 1: unknown column 'hihi'; did you mean 'high'?",
        "tags.csv line 2, column deadband: deadband is -1, less than 0; write 0 or more",
        "tags.csv line 2, column high: high is 5, and low is 10; high must be greater than low",
        "tags.csv line 2, column unit: unknown unit '°C'; did you mean 'CEL' (°C)?",
        "tags.csv line 4, column h: h is 200, outside the range 0 to 100; change the limit, or the range",
        "tags.csv line 4, column unit: unknown unit 'CELS'; did you mean 'CEL' (°C)?",
        "tags.csv line 4, column interpolation: interpolation is 'step'; did you mean 'stepped'?",
        "tags.csv line 4, column path: two tags have the path 'a/b'; the other: tags.csv line 2, column path",
        "tags.csv line 4, column source: two tags have the source 's'; the other: tags.csv line 2, column source",
        f"tags.csv line 5, column path: path 'a\\nb' contains a control character; {levels}",
        "tags.csv line 7, column low: low is '1e999', not a number; write digits and a point, such as 12.5, or leave it out",
        "tags.csv line 7, column high: high is '1_0', not a number; write digits and a point, such as 12.5, or leave it out",
        "tags.csv line 7, column spellings: 'y' is a spelling of two tags, a/b and c; remove it from one of them",
        "tags.csv line 8, column h: h is 8, and ll is 9; the limits rise in the order ll, l, h, hh",
        f"tags.csv line 8, column path: path 'd//e' has an empty level, or one with blanks at its ends; {levels}",
        "tags.csv line 9: has 12 values, and the first line 11; quote a value that contains ','",
    ]


def test_all_mistakes_of_a_toml_file_are_reported_with_line_and_column(tmp_path: Path) -> None:
    file = written(tmp_path, '[[tag]]\nname = 5\nlow = "x"\n[[tag]]\npath = "a"\n  h = 3\n  hh = 2\nspellings = 4\nUnit = "CEL"\n', "tags.toml")
    assert mistakes_of(file) == [
        "tags.toml line 1, column 1: no path; write site/area/line/unit/tag, or fewer levels",
        'tags.toml line 2, column 1: name is 5, not a text; write it between quotes: "…"',
        "tags.toml line 3, column 1: low is 'x', not a number; write digits and a point, such as 12.5, or leave it out",
        "tags.toml line 7, column 3: hh is 2, and h is 3; the limits rise in the order ll, l, h, hh",
        'tags.toml line 8, column 1: spellings is 4; write "FIT 101|FIT101.Pv", or a list of texts',
        "tags.toml line 9, column 1: unknown key 'Unit'; did you mean 'unit'?",
    ]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("tags.csv", "", "tags.csv: is empty; name the columns"),
        ("tags.csv", "tag\nx\n", "tags.csv line 1: no column 'path'"),
        ("tags.csv", 'path\n"a\n', "tags.csv line 2: is not CSV"),
        ("tags.csv", "path\na\nb\na\n", "tags.csv line 4, column path: two tags have the path 'a'; the other: tags.csv line 2, column path"),
        ("tags.csv", "path,source\na,s\nb,s\n", "tags.csv line 3, column source: two tags have the source 's'"),
        ("tags.csv", "path,spellings\na,\nb,a\n", "tags.csv line 3, column spellings: 'a' is a spelling of two tags, a and b"),
        ("tags.toml", "[[tag]]\npath = \n", "tags.toml line 2, column 8: is not TOML"),
        ("tags.toml", "tag = 1", "tags.toml line 1, column 1: 'tag' is not a list of tables"),
        ("tags.toml", "a = " + "[" * 5000, "tags.toml: is nested too deeply"),
        ("tags.toml", f"a = {'9' * 5000}", "tags.toml: is not TOML"),
    ],
)
def test_a_mistake(tmp_path: Path, name: str, text: str, expected: str) -> None:
    assert any(expected in line for line in mistakes_of(written(tmp_path, text, name)))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in mistakes_of(tmp_path / "tags.csv")[0]
    assert "cannot be read" in mistakes_of(tmp_path)[0]
    (tmp_path / "tags.csv").write_bytes(b"path\na\xff\n")
    assert "tags.csv line 2, column 2: is not UTF-8" in mistakes_of(tmp_path / "tags.csv")[0]


def test_a_loose_list_finds_a_spelling_of_two_tags(tmp_path: Path) -> None:
    file = written(tmp_path, "path,spellings\na,FIT 101\nb,fit101\n")
    assert len(load(file)) == 2
    with pytest.raises(PlanError, match="'fit101' is a spelling of two tags, a and b"):
        load(file, loose=True)


def test_a_reading_is_judged_by_the_list() -> None:
    tag = Tag("a", unit="CEL", low=0, high=100)
    assert tag.reading(50, 5) == Reading("a", 5, 50, Quality.GOOD, "CEL", None, 5)
    assert tag.reading(101.5, 5).quality == tag.reading(-1, 5).quality == Quality.UNCERTAIN_ENGINEERING_UNITS_EXCEEDED
    assert tag.reading(101, 5, quality=Quality.BAD_SENSOR_FAILURE).quality == Quality.BAD_SENSOR_FAILURE
    assert tag.reading(None, 5).quality == Quality.BAD_NO_DATA
    assert tag.reading(50, 5, unit="FAH") == Reading("a", 5, None, Quality.BAD_CONFIGURATION_ERROR, "FAH", None, 5)
    assert tag.reading(50, 5, unit="°C") == tag.reading(50, 5)
    assert tag.reading(None, 5, unit="FAH", quality=Quality.BAD_NO_COMMUNICATION).quality == Quality.BAD_NO_COMMUNICATION
    assert Tag("b").reading(50, 5, unit="FAH").unit == "FAH"
    assert tag.reading(True, 5).value is True


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("CEL", "CEL"), ("°C", "CEL"), ("℃", "CEL"), ("deg C", "CEL"), ("C", "CEL"), ("C", "COU"), ("°F", "FAH"), ("RPM", "RPM"), ("r/min", "RPM"),
        ("m3/h", "MQH"), ("m^3/h", "MQH"), ("mg/L", "M1"), ("kWh", "KWH"), ("MW", "MAW"), ("mW", "C31"), ("Nm", "NU"), ("nm", "C45"), ("%", "P1"),
        ("µS/cm", "G42"), ("\u03bcS/cm", "G42"),
    ],
)  # fmt: skip
def test_a_unit_is_known_by_its_code_and_its_symbol(text: str, code: str) -> None:
    assert is_unit(text, code)
    assert unit_code(text) == ("C" if text == "C" else code), "C may be two units"
    assert {other for other in UNITS if is_unit(text, other)} == ({"CEL", "COU"} if text == "C" else {code})


@pytest.mark.parametrize("text", ["", "barg", "psig", "foo", "nM", "mpa", "deg"])
def test_what_is_no_unit_stays_as_it_is(text: str) -> None:
    assert unit_code(text) == text
    assert not any(is_unit(text, code) for code in UNITS)


def test_each_symbol_means_its_own_unit() -> None:
    assert [code for code, symbol in UNITS.items() if not is_unit(symbol, code)] == []
    assert [code for code, symbol in UNITS.items() if unit_code(symbol) != code] == ["FAR", "COU"], "F and C are also used for °F and °C"


def test_the_unit_id_of_opc_ua_is_the_unece_code() -> None:
    assert code_of_unit_id(4408652) == "CEL"
    assert code_of_unit_id(13384) == "4H"
    assert [code_of_unit_id(one) for one in (0, -1, 1 << 24, 1)] == [None] * 4
    assert {code_of_unit_id(int.from_bytes(code.encode())) for code in UNITS} == set(UNITS)


_names = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="/|"), min_size=1, max_size=6)
_tags = st.builds(
    Tag,
    path=st.lists(_names, min_size=1, max_size=5).map("/".join),
    name=_names,
    tag_class=_names | st.just(""),
    unit=st.sampled_from([None, *UNITS]),
    low=st.none() | st.floats(-100, -50),
    high=st.none() | st.floats(50, 100),
    ll=st.none() | st.floats(-50, -1),
    h=st.none() | st.floats(1, 50),
    deadband=st.none() | st.floats(0, 1e300),
    interpolation=st.sampled_from(["stepped", "sloped"]),
    source=st.none(),
)


@given(st.lists(_tags, max_size=5, unique_by=lambda tag: tag.path))
def test_a_written_list_is_read_back(tmp_path_factory: pytest.TempPathFactory, tags: list[Tag]) -> None:
    file = written(tmp_path_factory.mktemp("tags"), csv_of_tags(tags))
    assert list(load(file)) == tags
    assert {tag.path for tag in Tags(tags).tree.tags()} == {tag.path for tag in tags}


_pieces = st.sampled_from([
    *(f"{name} = " for name in COLUMNS), *COLUMNS, "[[tag]]\n", "[tag]\n", "\n", ",", ",,", '"', "'''", "=", "1", "-1e9", "inf", "CEL", '"a/b"', "[", "]", "{",
    "}", "#", "|", "\0", "\r", "spellings", "é", "path,low,high\n", "a.b",
])  # fmt: skip


@given(st.lists(_pieces | st.text(max_size=3), max_size=25).map("".join), st.sampled_from(["tags.csv", "tags.toml"]))
def test_no_file_leads_to_anything_but_tags_or_an_error_with_its_fix(tmp_path_factory: pytest.TempPathFactory, text: str, name: str) -> None:
    file = tmp_path_factory.mktemp("tags") / name
    file.write_bytes(text.encode(errors="surrogatepass"))
    try:
        load(file)
    except HeadraceError as error:
        for one in error.mistakes if isinstance(error, Mistakes) else [error]:
            assert name in (one.where or "")
            assert one.fix


def places_of(value: Any, place: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = {place} if place else set()
    return found.union(*(places_of(part, (*place, key)) for key, part in parts))


_keys = st.sampled_from(["a", "b", "c-1", '"d e"', "'f.g'", '"h\\"\\u00e9"', "a.b", "b . c"])
_scalars = st.sampled_from(["1", "-2.5", "true", '"x # y"', "'z'", '"""m\n"n" \\""""', "'''o\n'p'''", "1979-05-27 07:32:00", '""', "''", '"\\\\"'])
_values = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda parts: "[ " + ", # c ]\n ".join([*parts, ""]) + "]")
        | st.lists(st.tuples(_keys, inner), max_size=3).map(lambda pairs: "{" + ", ".join(f"{key} = {value}" for key, value in pairs) + "}")
    ),
    max_leaves=6,
)
_lines = st.tuples(_keys, _values).map(lambda pair: f"{pair[0]} = {pair[1]} # c")
_headers = st.tuples(st.sampled_from(["[{}]", "[[{}]]", "[ {} ] # c", " [[ {} ]]"]), _keys).map(lambda pair: pair[0].format(pair[1]))


@given(st.lists(_lines | _headers | st.just(""), max_size=8).map("\n".join), st.sampled_from(["\n", "\r\n"]))
def test_the_place_of_every_key_is_known(text: str, newline: str) -> None:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    found, places = parse_toml(text.replace("\n", newline), "f")
    assert found == document
    assert set(places._found) == places_of(document)
    lines = text.split("\n")
    for place in places_of(document):
        line, column = places.line_and_column(place)
        rest = lines[line - 1][column - 1 :]
        if isinstance(place[-1], str) and not rest.startswith("["):
            assert rest.split("=")[0].strip()
        assert rest
