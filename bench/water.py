"""Pipelines for the figures of the whole water system; `bench/run.py` runs them."""

from __future__ import annotations

import headrace as hr

__all__ = ["ruled", "scored"]

RULES = [
    {"kind": "parameter", "name": "loss", "formula": "FIT201 - FIT301"},
    {"kind": "rule", "name": "mass-balance", "when": "ABS(loss) > 2.5", "for": 30, "value": "loss"},
    {"kind": "rule", "name": "dry", "when": "LIT101 < 250 AND P101 = 2", "value": "LIT101"},
    {"kind": "rule", "name": "filter", "when": "DPIT301 > 30 AND FIT301 < 0.5", "value": "DPIT301"},
    {"kind": "rule", "name": "acid", "when": "AIT202 NOT BETWEEN 6 AND 9.5", "value": "AIT202"},
    {"kind": "rule", "name": "membranes", "when": "PIT501 - PIT502 > 100 OR PIT503 > 300", "value": "PIT501"},
    {"kind": "state", "name": "RUNNING", "when": "FIT101 > 0.5", "for": 600},
    {"kind": "state", "name": "SHUTDOWN", "when": "FIT101 < 0.1", "for": 7200},
]


def _rows() -> hr.Stream:
    return hr.stream(
        "scada.normal",
        schema={"t_stamp": "STRING NOT NULL"},
        event_time="TO_TIMESTAMP_LTZ(TRY_CAST(t_stamp AS BIGINT) / 1000000, 3)",
        watermark=hr.seconds(1),
        rest="fields",
    )


@hr.pipeline("ruled", version="1")
def ruled() -> dict[str, hr.Stream]:
    """Five rules and two run states over all tags of the plant, as one equipment."""
    readings = _rows().unnest("fields", key="parameter", value="raw").derive(value="TRY_CAST(raw AS DOUBLE)", equipment="'water'")
    return hr.rules(readings, RULES).topics(commands="rules.commands")


@hr.pipeline("scored", version="1")
def scored(model: str = "pca.json") -> dict[str, hr.Stream]:
    """The scores of all tags by a detector, which `headrace fit` has made."""
    return hr.detect(_rows().derive(plant="'water'"), model, by=["plant"], values="fields").topics("detector")
