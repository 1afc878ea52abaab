"""`hr.detect` in a pipeline: scores, conditions, what is unknown, and models that do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import headrace as hr
from headrace.detect.calibration import Calibration
from headrace.detect.fitting import fit
from headrace.detect.model_file import load, save
from headrace.errors import EnvironmentFault, PlanError
from headrace.plant.tags import Tag, Tags

TAGS = ("flow", "level", "valve")
SCHEMA = {"plant": "STRING NOT NULL", "time": "BIGINT NOT NULL"}
BEGAN = 1_767_225_600_000
TIME = "TO_TIMESTAMP_LTZ(time, 3)"


def history(rows: int, seed: int = 3) -> np.ndarray:
    random = np.random.default_rng(seed)
    flow = np.cumsum(random.normal(size=rows)) * 0.1
    return np.column_stack([flow, 2 * flow + 0.1 * random.normal(size=rows), (np.arange(rows) // 50) % 2])


@pytest.fixture(scope="module")
def model() -> hr.Model:
    states = {"valve": ("Closed", "Open")}
    calibration = Calibration(false_alarm_rate=0, k=2, n=3)
    return fit("mahalanobis", history(300), TAGS, name="tank", units={"level": "MMT"}, states=states, calibration=calibration)


def records(rows: np.ndarray) -> list[dict[str, Any]]:
    return [
        {"plant": "w", "time": BEGAN + 1000 * place, "flow": flow, "level": f"{level}", "valve": ("Closed", "Open")[int(valve)]}
        for place, (flow, level, valve) in enumerate(rows.tolist())
    ]


def rows_of(schema: dict[str, str] | None = None) -> hr.Stream:
    return hr.stream("rows", schema={**SCHEMA, **(schema or {"flow": "DOUBLE", "level": "STRING", "valve": "STRING"})}, event_time=TIME)


def run(model: hr.Model, records: list[dict[str, Any]], **options: Any) -> dict[str, list[dict[str, Any]]]:
    @hr.pipeline("detecting", version="1")
    def detecting() -> dict[str, hr.Stream]:
        return hr.detect(rows_of(), model, by=["plant"], **options).topics("tank")

    found = detecting.run({"rows": records})
    return {topic: found[topic].rows() for topic in ("alarm-conditions", "tank.scores", "tank.unknown", "tank.older")}


def test_a_leak_begins_and_ends_an_anomaly_and_the_tags_that_contribute_are_named(model: hr.Model) -> None:
    rows = history(40, seed=9)
    rows[20:30, 1] += 5.0
    found = run(model, records(rows))
    scores = found["tank.scores"]
    assert [(row["time"] - BEGAN) // 1000 for row in scores if row["anomaly"]] == [*range(21, 31)]  # two of three
    assert all((row["score"] > model.threshold) == (row["contributions"] is not None) for row in scores)
    assert set(scores[25]["contributions"]) <= set(TAGS)
    assert scores[25]["contributions"]["level"] > 0.5
    began, ended = found["alarm-conditions"]
    assert (began["tag"], began["definition"], began["time"], began["active"], began["version"]) == ("w", "tank", BEGAN + 21_000, True, model.version)
    assert (ended["time"], ended["active"]) == (BEGAN + 31_000, False)
    assert began["value"] == scores[21]["score"]


def test_missing_values_are_left_out_and_too_many_make_a_row_unknown(model: hr.Model) -> None:
    given = records(history(12, seed=9))
    given[3]["level"] = "Bad Input"
    given[4]["valve"] = "1"  # no state that was fitted
    for place in (5, 6):
        given[place] |= {"level": None, "flow": None}
    found = run(model, given)
    scores = found["tank.scores"]
    assert [scores[place]["missing"] for place in (2, 3, 4)] == [None, ["level"], ["valve"]]
    assert scores[3]["score"] is not None
    assert [row["score"] is None for row in scores] == [place in {5, 6} for place in range(12)]
    assert found["tank.unknown"] == [
        {"plant": "w", "time": BEGAN + 5000, "unknown": True, "missing": ["flow", "level"]},
        {"plant": "w", "time": BEGAN + 7000, "unknown": False, "missing": []},
    ]
    assert not found["alarm-conditions"]


def test_restarts_between_any_rows_change_no_score_and_repeat_no_condition(model: hr.Model) -> None:
    fitted = fit("cusum", history(300), TAGS, name="tank", states=model.states, residual="var", calibration=Calibration(false_alarm_rate=0, n=2))
    rows = history(30, seed=9)
    rows[12:20, 0] += 5.0
    given = records(rows)
    expected = run(fitted, given)
    assert [row["active"] for row in expected["alarm-conditions"]] == [True]

    @hr.pipeline("detecting", version="1")
    def detecting() -> dict[str, hr.Stream]:
        return hr.detect(rows_of(), fitted, by=["plant"]).topics("tank")

    found: dict[str, list[dict[str, Any]]] = {topic: [] for topic in expected}
    with hr.test(detecting) as live:
        for place in range(0, 30, 3):
            live.feed("rows", given[place : place + 3])
            for topic, written in found.items():
                written.extend(live.rows(topic))
            live.restart()
    assert found == expected


def test_a_row_that_is_older_than_the_last_changes_nothing(model: hr.Model) -> None:
    given = records(history(12, seed=9))
    early = {**given[4], "flow": 1e6}
    found, without = run(model, [*given[:8], early, *given[8:]]), run(model, given)
    assert found["tank.older"] == [{"plant": "w", "time": BEGAN + 4000, "last_time": BEGAN + 7000}]
    assert found["tank.scores"] == without["tank.scores"]


def test_tags_may_be_the_entries_of_a_map(model: hr.Model) -> None:
    given = records(history(20, seed=9))

    @hr.pipeline("mapped", version="1")
    def mapped() -> dict[str, hr.Stream]:
        return hr.detect(rows_of({"fields": "MAP<STRING, STRING>"}), model, by=["plant"], values="fields").topics("tank")

    nested = [{"plant": row["plant"], "time": row["time"], "fields": {tag: str(row[tag]) for tag in TAGS} | {"other": "x"}} for row in given]
    found = mapped.run({"rows": nested})["tank.scores"].rows()
    assert len(found) == 20
    assert found == run(model, given)["tank.scores"]


def test_a_model_of_another_version_begins_anew(model: hr.Model) -> None:
    from headrace.detect.process import Detector

    code, state = Detector(model, "tank", None), hr.fresh_state(Detector(model, "tank", None), plant="w")
    row = records(history(1))[0]
    [(_, first)] = code.on_record(row, state)
    changed = Detector(msgspec.structs.replace(model, threshold=0.0), "tank", None)
    state.time = 1000
    found = list(changed.on_record(row, state))
    assert first["version"] != found[0][1]["version"]
    assert [name for name, _ in found] == [""]  # one of three is above: the earlier row does not count for it


def test_a_model_that_was_fitted_for_other_tags_or_units_is_refused(model: hr.Model) -> None:
    narrow = rows_of({"flow": "DOUBLE", "levels": "DOUBLE"})
    with pytest.raises(
        PlanError, match=r"^detector tank: the model needs the columns 'level', 'valve', which the rows do not have; did you mean 'levels'"
    ):
        hr.detect(narrow, model, by=["plant"])
    with pytest.raises(PlanError, match=r"column 'level' is a ARRAY<DOUBLE>, and must be a DOUBLE or a STRING"):
        hr.detect(rows_of({"flow": "DOUBLE", "level": "ARRAY<DOUBLE>", "valve": "STRING"}), model, by=["plant"])
    with pytest.raises(PlanError, match="there is no column 'field'"):
        hr.detect(rows_of({"fields": "MAP<STRING, STRING>"}), model, by=["plant"], values="field")
    listed = [Tag("w/flow", unit="MQH"), Tag("w/level", unit="MTR")]
    with pytest.raises(PlanError) as caught:
        hr.detect(rows_of(), model, by=["plant"], tags=Tags(listed))
    assert "tag 'level' has the unit MTR, and the model was fitted with MMT; convert the values, or fit the model again" in str(caught.value)
    assert "the model needs tag 'valve', which is not in the tag list" in str(caught.value)
    hr.detect(rows_of(), model, by=["plant"], tags=Tags([replace(listed[1], unit="MMT"), listed[0], Tag("w/valve")]))


def test_a_model_is_the_same_after_it_was_written_and_read(model: hr.Model, tmp_path: Path) -> None:
    save(model, tmp_path / "tank.json")
    assert load(tmp_path / "tank.json") == model
    assert load(tmp_path / "tank.json").version == model.version
    assert (tmp_path / "tank.json").read_text().startswith('{\n  "format": 1,\n  "name": "tank",')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "has format 2, and this version of headrace reads format 1"),
        ({"tags": ["flow"]}, "is not a model: scale does not fit the tags"),
        ({"k": 4}, "is not a model: k is 4 and n is 3"),
        ({"smoothing": 0}, "smoothing is not in"),
        ({"surplus": 1}, "is not a model: Object contains unknown field `surplus`"),
        ({"threshold": "high"}, "is not a model: Expected `float`, got `str`"),
        ({"kind": "magic"}, "is not a model: unknown kind 'magic'"),
        ({"kind": "pca"}, "is not a model: pca needs the parameter 'variance'"),
        ({"fitted": {}}, "is not a model: mahalanobis needs scale"),
        ({"kind": "ewma"}, "is not a model: ewma needs the parameter 'weight'"),
        ({"name": ""}, "is not a model: it has no name"),
        ({"states": {"flows": ["a"]}}, "is not a model: states are those of another tag"),
        ({"states": {"valve": ["a", "a"]}}, "is not a model: states are those of another tag, or one of them is there twice"),
    ],
)
def test_a_file_that_is_no_model_is_refused(model: hr.Model, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "tank.json"
    save(model, path)
    path.write_bytes(msgspec.json.encode(msgspec.json.decode(path.read_bytes()) | change))
    with pytest.raises(PlanError) as caught:
        load(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("rate", {"rate": [0.0, 1.0, 1.0]}),
        ("stuck", {"unchanged": [1.0, -1.0, 1.0]}),
        ("states", {"discrete": [2, 2]}),
        ("states", {"discrete": [3]}),
        ("states", {"combinations": []}),
        ("range", {"low": [0.0]}),
    ],
)
def test_bounds_with_which_no_score_can_be_computed_are_refused(tmp_path: Path, kind: str, change: dict[str, Any]) -> None:
    path = tmp_path / "m.json"
    save(fit(kind, history(300), TAGS), path)
    document = msgspec.json.decode(path.read_bytes())
    document["fitted"]["bounds"] |= change
    path.write_bytes(msgspec.json.encode(document))
    with pytest.raises(PlanError, match=r"is not a model: .*bounds"):
        load(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', "\0", "1e999"])
def test_a_text_that_is_no_model_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(PlanError, match="is not a model"):
        load(tmp_path / "x.json")
    with pytest.raises(EnvironmentFault, match="cannot be read: No such file or directory; make it with headrace fit"):
        load(tmp_path / "y.json")


def test_a_model_of_which_bytes_were_changed_is_refused_or_gives_finite_scores(model: hr.Model) -> None:
    from headrace.detect.model import encoded
    from headrace.detect.model_file import decoded
    from headrace.detect.scorer import scorer_of

    random, whole, read = np.random.default_rng(5), encoded(model), 0
    rows = [[0.0, 0.0, 0.0], [1e308, -1e308, 1.0], [None, 1.0, 0.0], [None, None, None], [-1e308, 1e308, 1.0]]
    for _ in range(300):
        changed = bytearray(whole)
        changed[random.integers(len(whole))] ^= 1 << random.integers(8)
        try:
            one = decoded(bytes(changed), "model m.json")
        except PlanError as error:
            assert "fit it again with headrace fit" in str(error)
            continue
        read += 1
        scorer = scorer_of(one)
        state = scorer.start()
        scores = [scorer.score(row, BEGAN + 1000 * place, state).score for place, row in enumerate(rows)]
        assert all(score is None or np.isfinite(score) for score in scores)
    assert 0 < read < 300


def test_a_model_file_with_other_bytes_or_too_many_brackets_is_refused(model: hr.Model, tmp_path: Path) -> None:
    from headrace.detect.model import encoded

    path, whole = tmp_path / "m.json", encoded(model)
    for given in (whole.replace(b"tank", b"t\xffnk"), whole[: len(whole) // 2], b'{"format": 1, "x": ' + b"[" * 100_000, b"\0\xff"):
        path.write_bytes(given)
        with pytest.raises(PlanError, match=r"m\.json: is not a model: "):
            load(path)


def test_what_is_no_model_no_tag_list_or_no_key_is_refused(model: hr.Model) -> None:
    given: Any = 5
    with pytest.raises(PlanError, match=r"hr\.detect: 5 is not a model; give a file that headrace fit has made"):
        hr.detect(rows_of(), given, by=["plant"])
    with pytest.raises(PlanError, match=r"detector tank tags: 5 is not a tag list; give hr\.Tags or the file of the list"):
        hr.detect(rows_of(), model, by=["plant"], tags=given)
    with pytest.raises(PlanError, match="the key column 'time' has the name of a column of the detector's output; rename it"):
        hr.detect(rows_of(), model, by=["plant", "time"])
    with pytest.raises(PlanError, match="unknown column 'plants'"):
        hr.detect(rows_of(), model, by="plants")


def test_the_key_may_be_one_name_and_its_columns_may_have_any_name(model: hr.Model) -> None:
    rows = history(40, seed=9)
    rows[20:30, 1] += 5.0
    assert run_by(model, rows, "plant") == run_by(model, rows, ["plant"]) == run_by(model, rows, "the `plant`") == ["w", "w"]


def run_by(model: hr.Model, rows: np.ndarray, by: Any) -> list[str]:
    """Return the tags of the conditions, with keys by a column of any name."""

    @hr.pipeline("keyed", version="1")
    def keyed() -> dict[str, hr.Stream]:
        given = rows_of({"flow": "DOUBLE", "level": "STRING", "valve": "STRING", "the `plant`": "STRING NOT NULL"})
        return hr.detect(given, model, by=by).topics("tank")

    found = keyed.run({"rows": [{**row, "the `plant`": "w"} for row in records(rows)]})
    return [row["tag"] for row in found["alarm-conditions"].rows()]


def test_rows_of_a_window_are_scored(model: hr.Model) -> None:
    @hr.pipeline("windowed", version="1")
    def windowed() -> dict[str, hr.Stream]:
        means = rows_of().window(hr.tumbling(hr.seconds(2)), by=["plant"]).aggregate(flow="AVG(flow)", level="MAX(level)", valve="MAX(valve)")
        return hr.detect(means, model, by=["plant"]).topics("tank")

    scores = windowed.run({"rows": records(history(20, seed=9))})["tank.scores"].rows()
    assert [row["time"] for row in scores] == [BEGAN + 2000 * place + 1999 for place in range(10)]
    assert all(row["score"] is not None for row in scores)
