"""`headrace simulate`: a simulated plant that sends NDJSON."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, BinaryIO

from cyclopts import Parameter

from headrace._clock import now_ms
from headrace.cli.heartbeat import heartbeat
from headrace.cli.logs import KafkaOptions, asked_topic
from headrace.cli.paths import local_path, refuse_equal
from headrace.cli.values import duration_ms
from headrace.errors import EnvironmentFault, PlanError, near

if TYPE_CHECKING:
    from headrace.simulate.devices import Devices
    from headrace.simulate.writing import Plant, Writable

__all__ = ["GeneratorOptions", "KilnOptions", "PlcOptions", "WaterOptions", "simulate"]

_SERVED = ("modbus:", "opc.tcp:", "sparkplug:", "sparkplugs:")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class KilnOptions:
    """Options of a kiln.

    Parameters
    ----------
    disorder
        kiln: messages come up to so much late.
    bad
        kiln: the share of messages that are spoilt.
    numbers
        kiln: the share of values sent as numbers instead of text.
    equipment_ids
        kiln: 110-114,120; else EQUIPMENT_IDS of the environment, else 110-114.
    sensor_ids
        kiln: 0001-0005; else SENSOR_IDS of the environment, else 0001-0005.
    """

    disorder: str = "0s"
    bad: float = 0.0
    numbers: float = 0.0
    equipment_ids: str | None = None
    sensor_ids: str | None = None

    def plant(self, seed: int) -> Plant:
        """Return the kiln."""
        from headrace.simulate import Kiln, parse_ids

        return Kiln(
            seed=seed,
            equipment=parse_ids(self.equipment_ids or os.environ.get("EQUIPMENT_IDS") or "110-114"),
            sensors=tuple(map(str, parse_ids(self.sensor_ids or os.environ.get("SENSOR_IDS") or "0001-0005"))),
            disorder_ms=duration_ms(self.disorder, "--disorder"),
            number_share=self.numbers,
            bad_share=self.bad,
        )


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class GeneratorOptions:
    """Options of generators.

    Parameters
    ----------
    generators
        generators: how many there are.
    fault_probability
        generators: how many readings have a fault besides those that come by themselves.
    power
        generators: the range of their power, MW.
    fuel
        generators: the range of their fuel, %.
    voltage
        generators: the range of their voltage, V.
    units
        generators: numbers as text with their units.
    """

    generators: int = 10
    fault_probability: float = 0.0
    power: str = "80-120"
    fuel: str = "0-100"
    voltage: str = "220-240"
    units: Annotated[bool, Parameter(negative=())] = False

    def plant(self, seed: int) -> Plant:
        """Return the generators."""
        from headrace.simulate import Generators, parse_span

        spans = {name: parse_span(getattr(self, name), f"--{name}") for name in ("power", "fuel", "voltage")}
        return Generators(seed, self.generators, self.fault_probability, units=self.units, **spans)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PlcOptions:
    """Options of controllers.

    Parameters
    ----------
    plcs
        plc: how many there are.
    anomalies
        plc: the share of stretches of five messages that have an anomaly.
    anomalies_after
        plc: when the first anomaly may come.
    dropouts
        plc: the share of values that are missing.
    stuck
        plc: the share of stretches of thirty messages in which a value does not change.
    spikes
        plc: the share of values that are far outside their range.
    bad_values
        plc: the share of values that are the text "Bad Input".
    clock_drift
        plc: by how many seconds an hour the controllers' clocks are fast.
    """

    plcs: int = 1
    anomalies: float = 0.1
    anomalies_after: str = "60s"
    dropouts: float = 0.0
    stuck: float = 0.0
    spikes: float = 0.0
    bad_values: float = 0.0
    clock_drift: float = 0.0

    def plant(self, seed: int) -> Plant:
        """Return the controllers."""
        from headrace.simulate import Plc

        after = duration_ms(self.anomalies_after, "--anomalies-after") / 1000
        shares = {name: getattr(self, name) for name in ("anomalies", "dropouts", "stuck", "spikes", "bad_values", "clock_drift")}
        return Plc(seed, self.plcs, anomalies_after_s=after, **shares)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class WaterOptions:
    """Options of a water plant.

    Parameters
    ----------
    scenarios
        water: attacks and faults, one an hour: all, or names with commas between them.
    scenarios_after
        water: when the first of them begins.
    labels
        water: a CSV file for what happens, start,end,name,tags; the details are written beside it, to NAME.details.csv.
    attacks_to
        water: a second target, for the rows that come during an attack; each then has its name as attack_type.
    marked
        water: rows that come during an attack have its name as attack_type, without a second target too.
    readings
        water: readings instead of rows, one of each tag a second.
    bad_input
        water: the share of seconds at which a sensor begins to show "Bad Input" for a while.
    maintenance
        water: calibrations of analysers and the use of standby pumps, one an hour.
    """

    scenarios: str = ""
    scenarios_after: str = "15m"
    labels: str | None = None
    attacks_to: str | None = None
    marked: Annotated[bool, Parameter(negative=())] = False
    readings: Annotated[bool, Parameter(negative=())] = False
    bad_input: float = 0.0005
    maintenance: bool = True

    def plant(self, seed: int) -> Plant:
        """Return the water plant, which writes its labels while it runs."""
        from headrace.simulate.water import Water, named
        from headrace.simulate.water.labels import Labelled

        water = Water(
            seed,
            named(self.scenarios),
            after_s=duration_ms(self.scenarios_after, "--scenarios-after") / 1000,
            bad_share=self.bad_input,
            maintenance=self.maintenance,
            marked=self.marked or self.attacks_to is not None,
            readings=self.readings,
        )
        return water if self.labels is None else Labelled(water, local_path(self.labels, "--labels", writes=True))


def simulate(
    plant: str,
    /,
    *,
    to: str | None = None,
    kafka: KafkaOptions = KafkaOptions(),
    rate: float | None = None,
    seed: int = 0,
    records: int | None = None,
    duration: str | None = None,
    history: str = "0s",
    start: str | None = None,
    quiet: Annotated[bool, Parameter(negative=())] = False,
    kiln: KilnOptions = KilnOptions(),
    generators: GeneratorOptions = GeneratorOptions(),
    plc: PlcOptions = PlcOptions(),
    water: WaterOptions = WaterOptions(),
) -> None:
    """Send the data of a simulated plant.

    Parameters
    ----------
    plant
        kiln: equipment with sensors; generators: of electric power; plc: controllers of a factory; water: a water treatment
        plant. Each sends a message a second.
    to
        An NDJSON file, topic:NAME of the SQLite log, kafka:NAME, or mqtt://HOST/TOPIC. plc and water: also modbus://HOST:PORT?map=FILE.csv
        and opc.tcp://HOST:PORT, which serve the values of the last messages, and sparkplug://HOST/GROUP/EDGE, an edge node. Without it, messages go to standard output and the report to standard error.
    rate
        Messages a second over the whole plant, instead of one a second for each equipment.
    seed
        The same seed sends the same messages.
    records
        Stop after so many messages; a file is then written at once, without pacing.
    duration
        Stop after so long: 30s, 5m.
    history
        So much of the past is sent at once first: 10m.
    start
        The time of the first message, ISO 8601, instead of now.
    quiet
        Print no report: no line for each batch.
    """
    options: dict[str, KilnOptions | GeneratorOptions | PlcOptions | WaterOptions] = {
        "kiln": kiln, "generators": generators, "plc": plc, "water": water,
    }  # fmt: skip
    if plant not in options:
        raise PlanError(f"unknown plant {plant!r}", fix=near(plant, options))
    for name, others in options.items():
        if name != plant and others != type(others)():
            raise PlanError(
                f"options of {name} are given", where=f"simulate {plant}", fix="leave them out; headrace simulate --help says whose they are"
            )
    from headrace import simulate as plants
    from headrace.simulate.writing import time_ms

    made = options[plant].plant(seed)
    serves = to is not None and to.startswith(_SERVED)
    start_ms = time_ms(start, "--start") if start else None
    devices = _devices(plant, made, water) if serves else None
    if devices is not None and start_ms is not None:
        devices = replace(devices, empty_ms=start_ms - 1)
    if serves and history != "0s":
        raise PlanError("servers and edge nodes have only the latest values", where="--history", fix="leave it out")
    if (water.attacks_to or "").startswith(_SERVED):
        raise PlanError("the rows of attacks cannot be served apart", where="--attacks-to", fix="give a file, topic:NAME or mqtt://HOST/TOPIC")
    _refuse_equal_targets(to, water)
    topic, cluster = asked_topic(to or "", kafka) or (None, None)
    with _sink(to, kafka, made, devices) as first, _split(first, water.attacks_to, kafka, made) as sink, _ended_by_sigterm(sink) as gentle:
        plants.simulate(
            made,
            gentle,
            clock=now_ms,
            sleep=gentle.sleep,
            target=re.sub(r"://[^/?@]*@", "://", to) if to else "standard output",
            servers=None if cluster is None else cluster.servers,
            topic=topic,
            rate=rate,
            records=records,
            duration_ms=duration_ms(duration, "--duration") if duration else None,
            history_ms=duration_ms(history, "--history"),
            start_ms=start_ms,
            pace=to is None or records is None or serves,
            report=None if quiet else sys.stderr if to is None else sys.stdout,
        )


def _refuse_equal_targets(to: str | None, water: WaterOptions) -> None:
    """Refuse targets and labels of which two would be written to one place."""
    if to is not None and to == water.attacks_to:
        raise PlanError("is the target of --to", where="--attacks-to", fix="name another target, or mark the rows of attacks with --marked instead")
    targets = (("--to", to), ("--attacks-to", water.attacks_to), ("--labels", water.labels))
    files: list[tuple[str, Path | None]] = [
        (option, Path(text)) for option, text in targets if text and "://" not in text and not text.startswith(("topic:", "kafka:", *_SERVED))
    ]
    if water.labels is not None:
        from headrace.simulate.water.labels import details_of

        files.append(("the details of --labels", details_of(local_path(water.labels))))
    refuse_equal(files)


@contextmanager
def _sink(to: str | None, kafka: KafkaOptions, plant: Plant, devices: Devices | None = None) -> Iterator[Writable]:
    """Open what the messages go to."""
    topic, cluster = asked_topic(to or "", kafka) or (None, None)
    if to is None:
        yield sys.stdout.buffer
    elif re.match(r"mqtts?://", to):
        from headrace.cli.simulate_mqtt import MqttSink

        with closing(MqttSink(to)) as broker:
            yield broker
    elif devices is not None:
        with closing(_served(to, devices)) as server:
            yield server
    elif topic is None:
        with _open(local_path(to, "--to", writes=True)) as file:
            yield file
    else:
        from headrace.cli.logs import open_log
        from headrace.simulate.topic import TopicSink

        with closing(open_log(cluster)) as log:
            if topic not in {info.name for info in log.topics()}:
                log.create(topic)
            yield TopicSink(log, topic, [str(one).encode() for one in plant.equipment])


@contextmanager
def _split(sink: Writable, attacks_to: str | None, kafka: KafkaOptions, plant: Plant) -> Iterator[Writable]:
    """Open what the rows of attacks go to, if that is another place."""
    if attacks_to is None:
        yield sink
        return
    from headrace.simulate.water.labels import Split

    with _sink(attacks_to, kafka, plant) as attacks:
        yield Split(sink, attacks)


def _devices(plant: str, made: Plant, water: WaterOptions) -> Devices:
    """Return what servers show of a plant."""
    from headrace.simulate import Plc

    if isinstance(made, Plc):
        return made.devices()
    if plant != "water":
        raise PlanError(f"a {plant} cannot be served", where="--to", fix="plc and water can; give a file, topic:NAME or mqtt://HOST/TOPIC")
    if water.readings:
        raise PlanError("servers take rows, and have each value apart already", where="--readings", fix="leave it out")
    from headrace.simulate.water.devices import devices

    return devices()


def _served(to: str, devices: Devices) -> Writable:
    if to.startswith("modbus:"):
        from headrace.simulate.modbus_server import modbus_server

        return modbus_server(to, devices)
    if to.startswith("sparkplug"):
        from headrace.simulate.edge_node import edge_node

        return edge_node(to, devices)
    from headrace.simulate.opc_server import opc_server

    return opc_server(to, devices)


class _Asked(BaseException):
    """SIGTERM has come."""


class _Gentle:
    """The target of the messages, until SIGTERM comes: that ends the run before the next batch, or in a sleep."""

    def __init__(self, sink: Writable) -> None:
        self._sink, self._asked, self._asleep = sink, False, False
        self._beat = heartbeat()
        self.flush, self.close = sink.flush, sink.close

    def ask(self, _signal: int, _frame: FrameType | None) -> None:
        """Note that SIGTERM has come."""
        self._asked = True
        if self._asleep:
            raise _Asked

    def write(self, data: bytes) -> object:
        """Write a batch."""
        if self._asked:
            raise _Asked
        self._beat()
        return self._sink.write(data)

    def sleep(self, seconds: float) -> None:
        """Wait for the next batch."""
        self._asleep = True
        try:
            if self._asked:
                raise _Asked
            time.sleep(seconds)
        finally:
            self._asleep = False


@contextmanager
def _ended_by_sigterm(sink: Writable) -> Iterator[_Gentle]:
    """Let SIGTERM end a run between two batches, which is not an error; what was written before is sent."""
    gentle = _Gentle(sink)
    before = signal.signal(signal.SIGTERM, gentle.ask)
    try:
        yield gentle
    except _Asked:
        with suppress(BrokenPipeError):
            sink.flush()
    finally:
        signal.signal(signal.SIGTERM, before)


def _open(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")
    except OSError as error:
        raise EnvironmentFault(f"cannot be written: {error.strerror}", where=str(path), fix="name a file that this user may write") from None
