"""What detectors and models cost in a pipeline, row by row and in batches; both give the same rows.

The rows are those of the simulated water plant: 39 tags that come as texts in a MAP. Prints µs of CPU time a row, the median of `--runs` interleaved runs.

python bench/detectors.py [--rows 20000] [--runs 3] [--only KIND]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np

import headrace as hr
from headrace.detect.calibration import Calibration
from headrace.detect.fitting import fit
from headrace.detect.inference import Inference
from headrace.detect.process import Detector
from headrace.simulate.water import Water

KINDS = ("robust_z", "stuck", "ewma", "cusum", "states", "pca", "mahalanobis", "lagged_pca", "var", "adwin")
START = 1_767_225_600_000
TAGS = 39
SCHEMA = {"plant": "STRING NOT NULL", "time": "BIGINT NOT NULL", "fields": "MAP<STRING, STRING>"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", help="a kind, or onnx")
    asked = parser.parse_args()
    with TemporaryDirectory() as folder:
        file = Path(folder, "rows.ndjson")
        values, tags = written(file, asked.rows)
        print(f"| kind | row by row, µs | in batches, µs | ratio |\n|---|---|---|---|\n{line('reading alone', partial(passing, tags), file, asked)}")
        for kind in (*KINDS, "onnx"):
            if asked.only in {None, kind}:
                print(line(kind, partial(made, kind, values, tags, Path(folder)), file, asked), flush=True)


def line(name: str, pipeline: Any, file: Path, asked: argparse.Namespace) -> str:
    ready = pipeline()
    spent(ready, file)
    alone, together = [], []
    for _ in range(asked.runs):
        with patch.object(Detector, "_in_batches", lambda *_: False), patch.object(Inference, "_in_batches", lambda *_: False):
            alone.append(spent(ready, file))
        together.append(spent(ready, file))
    before, after = (median(found) / asked.rows * 1e6 for found in (alone, together))
    return f"| {name} | {before:.1f} | {after:.1f} | {before / after:.1f} |"


def spent(pipeline: hr.Pipeline, file: Path) -> float:
    begun = time.process_time()
    pipeline.run({"rows": file})
    return time.process_time() - begun


def written(file: Path, count: int) -> tuple[Any, list[str]]:
    """Write rows of the plant, and return their values and the names of the tags."""
    rows: list[list[float]] = []
    tags: list[str] = []
    with file.open("w") as out:
        for place, texts in enumerate(plant(count)):
            tags = tags or [name for name, text in texts.items() if name != "t_stamp" and is_number(text)][:TAGS]
            fields = {tag: texts[tag] for tag in tags}
            rows.append([float(text) if is_number(text) else np.nan for text in fields.values()])
            out.write(json.dumps({"plant": "water", "time": START + 1000 * place, "fields": fields}) + "\n")
    return np.array(rows), tags


def plant(count: int) -> Iterator[dict[str, str]]:
    for line_of, *_ in islice(Water(seed=5).line_batches(START), count):
        yield json.loads(line_of)


def is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "", 1).isdigit()


def stream() -> hr.Stream:
    return hr.stream("rows", schema=SCHEMA, event_time="TO_TIMESTAMP_LTZ(time, 3)")


def passing(tags: list[str]) -> hr.Pipeline:
    @hr.pipeline("passing", version="1")
    def passing_on() -> dict[str, hr.Stream]:
        return {"out": stream().derive(one=f"fields['{tags[0]}']").select("plant", "time", "one")}

    return passing_on


def made(kind: str, values: Any, tags: list[str], folder: Path) -> hr.Pipeline:
    whole = values[np.isfinite(values).all(axis=1)]
    moving = [place for place in range(len(tags)) if np.ptp(whole[: int(len(whole) * 0.6), place]) > 0]
    model = folder / "model.onnx"
    if kind == "onnx":
        model.write_bytes(network(whole[:, moving].astype(np.float32)))
    else:
        fitted = fit(kind, whole[:, moving], [tags[place] for place in moving], calibration=Calibration(false_alarm_rate=0))

    @hr.pipeline("measured", version="1")
    def measured() -> dict[str, hr.Stream]:
        if kind == "onnx":
            return {
                "out": hr.infer(stream(), model, by=["plant"], values="fields", inputs=[tags[place] for place in moving]).select(
                    "plant", "time", "variable"
                )
            }
        return hr.detect(stream(), fitted, by=["plant"], values="fields").topics("measured")

    return measured


def network(rows: Any) -> bytes:
    """Return a network of two layers that forecasts the first tag from the others, as ONNX."""
    from skl2onnx import to_onnx
    from sklearn.neural_network import MLPRegressor

    fitted = MLPRegressor(hidden_layer_sizes=(32, 16), solver="lbfgs", max_iter=20_000, random_state=0).fit(rows[:1000], rows[:1000, 0])
    return to_onnx(fitted, rows[:1]).SerializeToString()


if __name__ == "__main__":
    main()
