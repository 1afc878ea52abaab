"""The fingerprint job as a careful programmer would fuse it by hand: plain Python, orjson, a dict of lists.

It keeps none of the rules of reading, of time by partition, of the ledger or of commits. `python bench/plain.py IN OUT`.
"""

from __future__ import annotations

import sys
import uuid

import orjson

WINDOW_MS, DELAY_MS = 60_000, 10_000
NAMESPACE = uuid.UUID(bytes=b"headrace.uuid.v5")


def summary(values: list[float]) -> dict[str, float]:
    values.sort()
    count, middle = len(values), len(values) // 2
    mean = sum(values) / count
    median = values[middle] if count % 2 else (values[middle - 1] + values[middle]) / 2
    deviation = (sum((value - mean) ** 2 for value in values) / count) ** 0.5
    return {"min": values[0], "max": values[-1], "median": median, "mean": mean, "std_dev": deviation}


def close(out, start: int, groups: dict) -> None:
    for equipment in sorted(groups, key=str):
        data = {sensor: summary(values) for sensor, values in sorted(groups[equipment].items())}
        name = f"fingerprint/1\x1f{equipment}\x1f{start}"
        print_ = {
            "uuid": str(uuid.uuid5(NAMESPACE, name)),
            "equip_id": str(equipment),
            "type": "kiln",
            "start_ms": start,
            "end_ms": start + WINDOW_MS,
            "data": data,
        }
        out.write(orjson.dumps({"fingerprint": print_}) + b"\n")


def main(source: str, target: str) -> None:
    windows: dict[int, dict] = {}
    greatest = 0
    with open(source, "rb") as lines, open(target, "wb") as out:
        for line in lines:
            try:
                message = orjson.loads(line)
                time, equipment, data = message["timestamp"], message["equip_id"], message["data"]
                start = time - time % WINDOW_MS
                if start + WINDOW_MS - 1 <= greatest - DELAY_MS or not 946684800000 <= time < 4102444800000:
                    continue
                sensors = windows.setdefault(start, {}).setdefault(equipment, {})
                for sensor, text in data.items():
                    if text is not None and text != "null":
                        sensors.setdefault(sensor, []).append(float(text))
            except Exception:  # noqa: BLE001, S112
                continue
            if time > greatest:
                greatest = time
                for old in sorted(start for start in windows if start + WINDOW_MS - 1 <= greatest - DELAY_MS):
                    close(out, old, windows.pop(old))
        for old in sorted(windows):
            close(out, old, windows.pop(old))


if __name__ == "__main__":
    main(*sys.argv[1:3])
