"""A source: the lines of a CSV file that grows, with the columns time, tag and value, as readings of the tags in tags.csv."""

import csv
from datetime import datetime
from pathlib import Path

from headrace._clock import now_ms
from headrace.connectors.protocol import Event, Source, Unavailable
from headrace.plant.tags import load


class GrowingCsv(Source):
    pause_seconds = 1.0  # how often the file is looked at

    def __init__(self, path):
        self.name, self._path, self._tags = f"csv:{path}", Path(path), load("tags.csv")

    async def open(self, position):
        if not self._path.exists():
            raise Unavailable("there is no such file")
        return self._readings(position or 0)

    async def _readings(self, done):
        with self._path.open("rb") as file:
            columns = next(csv.reader([file.readline().decode()]), [])
            done = max(done, file.tell())
            file.seek(done)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # its end is still to come
                done += len(line)  # where the next line begins: after a restart the source resumes there
                reading = self._reading(line, columns)
                if reading is not None:
                    yield Event(reading.encode(), done)

    def _reading(self, line, columns):
        """Return the reading of a line; None if it is of no tag or has no time."""
        row = dict(zip(columns, next(csv.reader([line.decode(errors="replace")]), []), strict=False))
        tag = self._tags.named(row.get("tag", ""))
        try:
            time = round(datetime.fromisoformat(row.get("time", "")).timestamp() * 1000)
        except ValueError:
            return None
        return None if tag is None else tag.reading(_number(row.get("value", "")), now_ms(), source_time=time)


def _number(text):
    try:
        return float(text)
    except ValueError:
        return text


def source(address):
    return GrowingCsv(address.partition(":")[2])
