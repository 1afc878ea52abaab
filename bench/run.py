"""The figures of docs/performance.md: whole processes, CPU seconds, medians of interleaved runs, ratios within one run.

`make bench` runs all; `python bench/run.py --only fingerprint,parquet --messages 200000 --runs 3` some, smaller.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
WORK = HERE.parent / "build" / "bench"
BYTEWAX = WORK / "bytewax"
START_MS = 1_706_123_400_000


@dataclass(frozen=True)
class Cost:
    """What a process cost: CPU seconds, and the most memory it held, in MB."""

    cpu: float
    memory: float


def cost_of(*command: str | Path, home: Path | None = None, **settings: str | Path) -> Cost:
    """Run a command to its end, in a headrace home and with more environment, and return its cost."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {} if home is None else {"HEADRACE_HOME": str(home)}
    environment |= {name: str(value) for name, value in settings.items()}
    process = subprocess.Popen([str(one) for one in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    errors = process.stderr.read().decode() if process.stderr else ""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {errors}")
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def headrace(app: str | Path, source: Path, *options: str) -> Cost:
    """Return the cost of running a pipeline over a file."""
    out = WORK / "out"
    shutil.rmtree(out, ignore_errors=True)
    return cost_of(Path(sys.executable).parent / "headrace", "run", str(app), "--input", source, "--output", out, *options)


def plain(source: Path) -> Cost:
    return cost_of(sys.executable, HERE / "plain.py", source, WORK / "plain.ndjson")


def bare(source: Path) -> Cost:
    return cost_of(
        sys.executable, "-c", f"import orjson\nfor line in open({str(source)!r}, 'rb'):\n    try: orjson.loads(line)\n    except ValueError: pass"
    )


def interleaved(runs: int, **jobs: Callable[[], Cost]) -> dict[str, Cost]:
    """Return the median cost of each job, the jobs run by turns so that what the machine does meets all alike."""
    costs: dict[str, list[Cost]] = {name: [] for name in jobs}
    for _, (name, job) in itertools.product(range(runs), jobs.items()):
        costs[name].append(job())
    return {name: Cost(statistics.median(c.cpu for c in all_), statistics.median(c.memory for c in all_)) for name, all_ in costs.items()}


def messages(
    name: str, count: int, *, equipment: int = 100, sensors: Sequence[str] = ("0001", "0002", "0003", "0004", "0005"), **faults: float
) -> Path:
    """Return a file of so many messages of a kiln plant with 5 s of disorder, made if it is not there."""
    from headrace.simulate import Kiln

    path = WORK / f"{name}-{count}.ndjson"
    if not path.exists():
        kiln = Kiln(seed=1, equipment=tuple(range(110, 110 + equipment)), sensors=tuple(sensors), disorder_ms=5000, **faults)
        lines = itertools.islice(kiln.lines(START_MS), count)
        aside = path.with_suffix(".new")
        with aside.open("wb") as file:
            file.writelines(line + b"\n" for line in lines)
        aside.rename(path)
    return path


def bench_fingerprint(count: int, runs: int) -> Iterator[str]:
    inputs = {
        "clean": messages("clean", count),
        "0.4 % bad": messages("bad", count, bad_share=0.004),
        "0.4 % bad, 30 % numbers": messages("mixed", count, bad_share=0.004, number_share=0.3),
    }
    yield f"fingerprint, NDJSON file to file, {count:,} messages of 100 equipment × 5 sensors (CPU s; MB)"
    yield f"{'input':26}{'headrace':>10}{'plain':>9}{'bare':>9}{'÷ plain':>9}{'÷ bare':>9}{'MB':>7}"
    clean = 0.0
    for name, path in inputs.items():
        jobs = {"headrace": lambda p=path: headrace("fingerprint", p), "plain": lambda p=path: plain(p), "bare": lambda p=path: bare(p)}
        cost = interleaved(runs, **jobs)
        ours, theirs, loop = (cost[key].cpu for key in ("headrace", "plain", "bare"))
        clean = clean or ours
        yield f"{name:26}{ours:10.2f}{theirs:9.2f}{loop:9.2f}{ours / theirs:9.2f}{ours / loop:9.2f}{cost['headrace'].memory:7.0f}   {ours / clean - 1:+.0%} on clean"


def bench_memory(count: int, _runs: int) -> Iterator[str]:
    yield "memory and the length of the input (peak MB)"
    for size in (count, 10 * count):
        cost = headrace("fingerprint", messages("clean", size))
        yield f"{size:12,} messages {cost.memory:7.0f} MB {cost.cpu:8.2f} CPU s"


def bench_shapes(count: int, runs: int) -> Iterator[str]:
    shapes = {
        "100 equipment × 5 sensors": messages("clean", count),
        "100 equipment × 200 sensors": messages("dense", count // 40, sensors=[f"{n:04}" for n in range(1, 201)]),
        "2 equipment × 5,000 sensors": messages("names", count // 1000, equipment=2, sensors=[f"{n:05}" for n in range(1, 5001)]),
    }
    readings = 5 * count  # in each of them
    yield "shapes of messages (CPU s per million readings, imports taken off)"
    nothing = interleaved(runs, empty=lambda: headrace("fingerprint", messages("clean", 1))).get("empty", Cost(0, 0)).cpu
    costs = interleaved(runs, **{name: (lambda p=path: headrace("fingerprint", p)) for name, path in shapes.items()})
    for name, cost in costs.items():
        yield f"{name:30}{(cost.cpu - nothing) / readings * 1e6:8.2f}   {cost.memory:6.0f} MB"


def make_history(rows: int, tags: int, wide_path: Path, long_path: Path) -> None:
    import random

    import polars as pl

    dice = random.Random(1)  # noqa: S311
    walk = [dice.gauss(50, 10) for _ in range(rows + tags)]
    time = pl.Series("time", [START_MS + 1000 * second for second in range(rows)]).cast(pl.Datetime("ms", "UTC"))
    wide = pl.DataFrame([time, *(pl.Series(f"TAG{tag:03}", walk[tag : tag + rows]) for tag in range(tags))])
    wide.write_parquet(wide_path)
    wide.unpivot(index="time", variable_name="tag", value_name="value").sort("time", maintain_order=True).write_parquet(long_path)


def bench_parquet(count: int, runs: int) -> Iterator[str]:
    rows, tags = count // 50, 500
    wide_path, long_path = WORK / f"wide-{rows}.parquet", WORK / f"long-{rows}.parquet"
    if not long_path.exists():
        # In a process of its own: what this one holds when it starts another counts as the other's peak.
        maker = multiprocessing.get_context("spawn").Process(target=make_history, args=(rows, tags, wide_path, long_path))
        maker.start()
        maker.join()
    yield f"Parquet to Parquet, {rows * tags:,} readings of {tags} tags at 1 s (million readings per CPU s)"
    jobs = {
        "long": lambda: headrace(f"{HERE / 'history.py'}:long", long_path, "--output-format", "parquet"),
        "wide": lambda: headrace(f"{HERE / 'history.py'}:wide", wide_path, "--output-format", "parquet"),
    }
    for name, cost in interleaved(runs, **jobs).items():
        yield f"{name:8}{rows * tags / cost.cpu / 1e6:8.2f}   {cost.cpu:6.2f} CPU s {cost.memory:6.0f} MB"


def bench_start(_count: int, runs: int) -> Iterator[str]:
    costs = interleaved(
        runs,
        help=lambda: cost_of(Path(sys.executable).parent / "headrace", "--help"),
        check=lambda: cost_of(Path(sys.executable).parent / "headrace", "check", HERE / "history.py"),
        run=lambda: headrace("fingerprint", messages("clean", 1)),
    )
    yield "start-up (CPU s): " + ", ".join(f"{name} {cost.cpu:.2f}" for name, cost in costs.items())


COMMAND = Path(sys.executable).parent / "headrace"


def live_helper(*arguments: str | Path) -> list[str]:
    return [sys.executable, str(HERE / "live.py"), *map(str, arguments)]


def filled_home(name: str, *arguments: str | Path) -> Path:
    """Return a home whose log holds the input, made once."""
    home = WORK / name
    if not (home / "log.db").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        subprocess.run(live_helper(arguments[0], home, *arguments[1:]), check=True)
    return home


def copied(home: Path) -> Path:
    target = WORK / "home"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(home, target)
    os.sync()
    return target


def on_topics(home: Path, *options: str) -> Cost:
    return cost_of(COMMAND, "run", "fingerprint", "--until", "latest", *options, home=copied(home))


def bench_topics(count: int, runs: int) -> Iterator[str]:
    source = messages("clean", count)
    home = filled_home(f"home-{count}", "fill", "sensor-data", source, "1000")
    costs = interleaved(
        runs,
        second=lambda: on_topics(home, "--commit-every", "1s"),
        seldom=lambda: on_topics(home, "--commit-every", "1h"),
        plain=lambda: plain(source),
    )
    base = costs["plain"].cpu
    yield f"fingerprint, durable topic to durable topic, exactly once, {count:,} messages (CPU s; MB)"
    for name, label in {"second": "a commit every second", "seldom": "commits only with output", "plain": "plain, file to file"}.items():
        yield f"{label:28}{costs[name].cpu:8.2f}{costs[name].cpu / base:8.2f} ÷ plain{costs[name].memory:8.0f} MB"


def bench_latency(_count: int, _runs: int) -> Iterator[str]:
    yield "from appended to result readable, 10,000 messages a second on embedded topics, exactly once (ms)"
    home = WORK / "home-latency"
    shutil.rmtree(home, ignore_errors=True)
    environment = {**os.environ, "HEADRACE_HOME": str(home)}
    for topic in ("sent", "arrived"):
        subprocess.run([COMMAND, "topics", "create", topic], check=True, env=environment, stdout=subprocess.DEVNULL)
    seconds, rate = 20, 10_000
    run = subprocess.Popen([COMMAND, "run", f"{HERE / 'live.py'}:through", "--duration", "26s"], env=environment, stderr=subprocess.DEVNULL)
    watch = subprocess.Popen(live_helper("watch", home, str(seconds * rate)), stdout=subprocess.PIPE)
    time.sleep(3)
    subprocess.run(live_helper("send", home, str(rate), str(seconds)), check=True)
    said = watch.communicate(timeout=90)[0].decode().split()
    run.wait(timeout=60)
    yield "p50 {}, p90 {}, p99 {}, p99.9 {} of {} messages".format(*said)


def bench_restart(_count: int, _runs: int) -> Iterator[str]:
    home = copied(filled_home("home-texts", "fill_texts", "1000000"))
    app = f"{HERE / 'live.py'}:wide-open"
    began = time.monotonic()
    first = cost_of(COMMAND, "run", app, "--records", "1000000", home=home)
    middle = time.monotonic()
    again = cost_of(COMMAND, "run", app, "--duration", "0s", home=home)
    yield f"restart with 1 GB of open state: {time.monotonic() - middle:.1f} s, {again.cpu:.1f} CPU s, {again.memory:,.0f} MB (made in {middle - began:.1f} s, {first.memory:,.0f} MB)"


def bench_kafka(count: int, runs: int) -> Iterator[str]:
    sys.path.insert(0, str(HERE.parent / "tests"))
    from broker import Broker, fetch, missing

    if (why := fetch() or missing()) is not None:
        yield f"Kafka: not measured: {why}"
        return
    source, folder = messages("clean", count), WORK / "kafka"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    broker = Broker(folder / "broker")
    broker.start()
    try:
        filled = cost_of(*live_helper("fill_kafka", broker.servers, "sensor-data", source, "10000"), home=folder)

        def once() -> Cost:
            shutil.rmtree(folder / "home", ignore_errors=True)
            options = ("--until", "latest", "--anew", "--yes", "--commit-every", "10s", "--kafka-servers", broker.servers)
            return cost_of(COMMAND, "run", "fingerprint", *options, home=folder / "home")

        cost = interleaved(runs, kafka=once)["kafka"]
    finally:
        broker.end()
    yield f"fingerprint, Kafka to Kafka, exactly once, commits at most 10 s apart: {cost.cpu / count * 1e6:.2f} CPU s per million, {cost.memory:.0f} MB"
    yield f"(to produce them: {filled.cpu / count * 1e6:.2f}; the broker's own work apart)"


def written(kind: str, count: int) -> Path:
    """Return an input of bench/processes.py, made if it is not there."""
    path = WORK / f"{kind}-{count}.ndjson"
    if not path.exists():
        subprocess.run([sys.executable, HERE / "processes.py", kind, path, str(count)], check=True)
    return path


def bench_process(count: int, runs: int) -> Iterator[str]:
    app, source = f"{HERE / 'processes.py'}:count", written("readings", count)
    home = filled_home(f"home-readings-{count}", "fill", "readings", source, "1000")
    costs = interleaved(
        runs,
        files=lambda: headrace(app, source),
        topics=lambda: cost_of(COMMAND, "run", app, "--until", "latest", "--commit-every", "1s", home=copied(home)),
    )
    yield f"a process with one value for each of 1,000 keys, {count:,} records"
    for name, label in {"files": "file to file", "topics": "durable topic to durable topic, a commit every second"}.items():
        yield f"{label:56}{costs[name].cpu:8.2f} CPU s {count / costs[name].cpu:12,.0f} records/CPU s {costs[name].memory:6.0f} MB"


def bench_over(count: int, runs: int) -> Iterator[str]:
    source, app = written("readings", count), HERE / "over.py"
    labels = {
        "ten": "AVG of 10 rows, LAG",
        "wide": "five aggregates of 10 rows",
        "minutes": "AVG of 5 min, 300 rows",
        "all_rows": "AVG of all rows, LAG",
    }

    def keyed(name: str) -> Cost:
        shutil.rmtree(WORK / "keyed", ignore_errors=True)
        return cost_of(sys.executable, app, name, source, WORK / "keyed")

    jobs: dict[str, Callable[[], Cost]] = {name: (lambda n=name: headrace(f"{app}:{n}", source)) for name in labels}
    jobs |= {f"keyed {name}": (lambda n=name: keyed(n)) for name in labels}
    costs = interleaved(runs, **jobs)
    yield f"running aggregates, {count:,} readings of 1,000 keys, file to file (CPU s: columnar kernel, keyed kernel; MB)"
    for name, label in labels.items():
        one, other = costs[name], costs[f"keyed {name}"]
        yield f"{label:28}{one.cpu:8.2f}{other.cpu:8.2f}{one.memory:7.0f} MB{other.memory:7.0f} MB"


def bytewax() -> Path | None:
    """Return the Python of an environment with Bytewax, made with pip if it is not there; None if that cannot be."""
    python = BYTEWAX / "bin" / "python"
    if not (BYTEWAX / "ready").exists():
        venv.create(BYTEWAX, with_pip=True, clear=True)
        packages = ["bytewax==0.21.1", "orjson>=3.11,<4"]
        if subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=False).returncode:
            return None
        (BYTEWAX / "ready").touch()
    return python


def bench_bytewax(count: int, runs: int) -> Iterator[str]:
    app, source, theirs = f"{HERE / 'processes.py'}:count", written("readings", count), WORK / "bytewax.ndjson"
    if (python := bytewax()) is None:
        yield "Bytewax: not measured: pip could not install it"
        return

    def by_hand() -> Cost:
        theirs.unlink(missing_ok=True)
        flow = ("-m", "bytewax.run", "process_by_hand_on_bytewax")
        return cost_of(python, *flow, PYTHONPATH=HERE, SOURCE=source, TARGET=theirs)

    costs = interleaved(runs, headrace=lambda: headrace(app, source), bytewax=by_hand)
    mine = (WORK / "out" / "counts.ndjson").read_text().splitlines()
    if sorted(mine) != sorted(theirs.read_text().splitlines()):
        sys.exit("Bytewax and headrace do not count alike")
    base = costs["bytewax"].cpu
    yield f"the same process, file to file, {count:,} records, beside Bytewax's stateful_map (CPU s; MB)"
    for name, cost in costs.items():
        yield f"{name:10}{cost.cpu:8.2f}{cost.cpu / base:8.2f} ÷ Bytewax{cost.memory:8.0f} MB"


def bench_keys(_count: int, _runs: int) -> Iterator[str]:
    keys = 1_000_000
    app, home = f"{HERE / 'processes.py'}:last", copied(filled_home("home-keys", "fill", "texts", written("texts", keys), "1000"))
    made = cost_of(COMMAND, "run", app, "--until", "latest", "--commit-every", "1s", home=home)
    yield f"a process with a text of 100 bytes for each of {keys:,} keys: made with {made.cpu:.1f} CPU s, {made.memory:.0f} MB"
    again = cost_of(COMMAND, "run", app, "--duration", "0s", home=home)
    yield f"started again: {again.cpu:.1f} CPU s, {again.memory:.0f} MB"
    yield subprocess.run([sys.executable, HERE / "processes.py", "touch", home], check=True, capture_output=True, text=True).stdout.rstrip()


def alarm_helper(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, str(HERE / "alarms.py"), *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def water_rows(rows: int) -> Path:
    """Return a file of rows of 51 tags of the simulated water plant, made if it is not there."""
    source = WORK / f"water-rows-{rows}.ndjson"
    if not source.exists():
        options = ("--to", source, "--quiet", "--scenarios", "all", "--records", str(rows), "--start", "2024-01-01T00:00:00Z")
        cost_of(COMMAND, "simulate", "water", *options)
    return source


def bench_water(_count: int, runs: int) -> Iterator[str]:
    rows, none, model = 40_000, WORK / "none.ndjson", WORK / "pca.json"
    none.touch()
    source, app = water_rows(rows), HERE / "water.py"
    cost_of(COMMAND, "fit", "pca", "--input", source, "--to", model, "--name", "pca")
    out = ("--output", WORK / "out")
    both = ("--input", f"scada.normal={source}", "--input", f"scada.attacks={none}", *out)
    jobs = {
        "rows and alerts": ("water", *both, "--set", "tags=swat"),
        "statistics": ("water:metrics", *both),
        "alarms": ("water:alarms", *both, "--input", f"alarm-commands={none}"),
        "rules": (f"{app}:ruled", "--input", source, *out),
        "a detector": (f"{app}:scored", "--input", source, *out, "--set", f"model={model}"),
    }

    def run(job: tuple[str | Path, ...]) -> Cost:
        emptied(WORK / "out")
        return cost_of(COMMAND, "run", *job)

    whole = (f"{app}:everything", *both, "--input", f"alarm-commands={none}", "--set", f"model={model}")
    yield f"water, file to file, {rows:,} rows of 51 tags, each pipeline by itself, and everything by one"
    costs = interleaved(runs, **{name: (lambda j=job: run(j)) for name, job in {**jobs, "everything by one": whole}.items()})
    parts = [costs[name] for name in jobs]
    costs["the sum of the parts"] = Cost(sum(cost.cpu for cost in parts), max(cost.memory for cost in parts))
    for name, cost in costs.items():
        yield f"{name:24}{cost.cpu:8.2f} CPU s {rows / cost.cpu:9,.0f} rows per CPU s {cost.memory:6.0f} MB"


def bench_backtest(_count: int, runs: int) -> Iterator[str]:
    day, labels = WORK / "water-readings.ndjson", WORK / "labels.csv"
    labels.write_text("start,end,name\n2024-01-01T00:30:00Z,2024-01-01T00:40:00Z,one\n")
    if not day.exists():
        aside = day.with_suffix(".new")
        subprocess.run([sys.executable, HERE / "water.py", water_rows(86_400), aside], check=True)
        aside.rename(day)
    hour = WORK / "water-readings-hour.ndjson"
    with day.open("rb") as lines, hour.open("wb") as file:
        file.writelines(itertools.islice(lines, 51 * 3600))

    def judge(source: Path) -> Cost:
        report = emptied(WORK / "report")
        options = ("--input", f"readings={source}", "--labels", labels, "--report", report)
        return cost_of(COMMAND, "backtest", f"{HERE / 'water.py'}:limits", *options, home=emptied(WORK / "home-backtest"))

    yield "headrace backtest of limits, bad quality and silence of 51 tags at 1 Hz"
    for name, cost in interleaved(runs, hour=lambda: judge(hour), day=lambda: judge(day)).items():
        yield f"{name:6}{cost.cpu:8.2f} CPU s {cost.memory:6.0f} MB"


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def bench_alarms(_count: int, _runs: int) -> Iterator[str]:
    count, late = 100_000, 10_000
    home = emptied(WORK / "home-alarms")
    home.mkdir(parents=True)
    app = f"{HERE / 'alarms.py'}:configured"
    alarm_helper("fill_definitions", home, str(count))
    made = cost_of(COMMAND, "run", app, "--until", "latest", "--commit-every", "1s", home=home)
    yield f"{count:,} configured alarms, each of a tag of its own: made with {made.cpu:.1f} CPU s, {made.memory:.0f} MB"
    began = time.monotonic()
    again = cost_of(COMMAND, "run", app, "--duration", "0s", home=home)
    yield f"started again: {time.monotonic() - began:.1f} s, {again.cpu:.1f} CPU s, {again.memory:.0f} MB"
    alarm_helper("flood", home, str(late))
    began = time.monotonic()
    flood = cost_of(COMMAND, "run", app, "--until", "latest", home=home)
    took = time.monotonic() - began
    raised = subprocess.run([sys.executable, HERE / "alarms.py", "raised", home], check=True, capture_output=True, text=True).stdout.strip()
    yield f"a flood of {late:,} alarms within a second: {raised} raised, {flood.cpu:.1f} CPU s, {took:.1f} s with the start, {flood.memory:.0f} MB"


def bench_alarm_latency(_count: int, _runs: int) -> Iterator[str]:
    yield "from a reading appended to its alarm readable, 1,000 readings a second of 1,000 tags on embedded topics, exactly once (ms)"
    home, seconds = emptied(WORK / "home-alarm-latency"), 30
    home.mkdir(parents=True)
    alarm_helper("make_topics", home)
    environment = {**os.environ, "HEADRACE_HOME": str(home)}
    command = [COMMAND, "run", f"{HERE / 'alarms.py'}:watched", "--duration", f"{seconds + 10}s"]
    run = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    time.sleep(3)
    watch = subprocess.Popen([sys.executable, HERE / "alarms.py", "ages", home, str(seconds * 20)], stdout=subprocess.PIPE)
    alarm_helper("send", home, str(seconds))
    said = watch.communicate(timeout=180)[0].decode().split()
    _, _, usage = os.wait4(run.pid, 0)
    yield "p50 {}, p90 {}, p99 {}, most {} of {} transitions".format(*said)
    yield f"{usage.ru_utime + usage.ru_stime:.1f} CPU s for {seconds * 1000:,} readings, {usage.ru_maxrss / 1024:.0f} MB"


def bench_windows(count: int, runs: int) -> Iterator[str]:
    count //= 5
    source, app = messages("clean", count), HERE / "windows.py"
    costs = interleaved(runs, **{name: (lambda n=name: headrace(f"{app}:{n}", source)) for name in ("tumbling", "sliding", "revised")})
    with (WORK / "out" / "out.ndjson").open("rb") as file:  # of the last run, which is the revised one
        revisions = sum(b'"revision":0}' not in line for line in file)
    base = costs["tumbling"]
    yield f"windows, {count:,} messages of 100 equipment × 5 sensors (CPU s; MB)"
    yield f"tumbling by 1 s            {base.cpu:8.2f}{base.memory:7.0f} MB"
    yield f"sliding 60 s by 1 s        {costs['sliding'].cpu:8.2f}{costs['sliding'].memory:7.0f} MB   {costs['sliding'].cpu / base.cpu:.2f} × CPU, {costs['sliding'].memory / base.memory:.2f} × memory"
    each = (costs["revised"].cpu - base.cpu) / revisions * 1e6
    yield f"tumbling by 1 s, revised   {costs['revised'].cpu:8.2f}{costs['revised'].memory:7.0f} MB   {each:.0f} µs for each of {revisions:,} revisions"


BENCHES = {
    "fingerprint": bench_fingerprint,
    "windows": bench_windows,
    "parquet": bench_parquet,
    "shapes": bench_shapes,
    "memory": bench_memory,
    "start": bench_start,
    "topics": bench_topics,
    "latency": bench_latency,
    "restart": bench_restart,
    "kafka": bench_kafka,
    "process": bench_process,
    "over": bench_over,
    "bytewax": bench_bytewax,
    "keys": bench_keys,
    "water": bench_water,
    "backtest": bench_backtest,
    "alarms": bench_alarms,
    "alarm-latency": bench_alarm_latency,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(BENCHES))
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    for name in options.only.split(","):
        for line in BENCHES[name](options.messages, options.runs):
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main()
