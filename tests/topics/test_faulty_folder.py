"""The state beside Kafka's topics while the disk below it fails: what a commit names is there, or the damage is told."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache

import pytest

from headrace._durable import private_folder
from headrace.errors import EnvironmentFault
from headrace.topics.store import Store
from topics.faulty_disk import KINDS, Fault, drawn_faults
from topics.faulty_folder import ROOT, Folder

EPOCHS = 6
DAMAGING = {"lie", "drop", "read", "write"}


def parts(epoch: int) -> dict[str, bytes]:
    """Return the parts that a commit needs: some of its own and some of earlier ones."""
    return {f"part-{made}": random.Random(made).randbytes(1500) for made in range(1, epoch + 1) if made == epoch or (epoch - made) % 3}


class Job:
    """A pipeline whose commits a broker acknowledges, which fails never: `mark` is what it then has."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self.mark: tuple[int, str] | None = None

    def life(self) -> None:
        """Resume, do the commits that are left as one process, and check all that the last one needs."""
        store = self._resumed()
        for epoch in range((self.mark or (0, ""))[0] + 1, EPOCHS + 1):
            needed = parts(epoch)
            new = {name: data for name, data in needed.items() if name not in parts(epoch - 1)}
            self.mark = epoch, store.write(epoch, b"manifest %d" % epoch, new, needed)
            store.settle(epoch)
        self._resumed()

    def _resumed(self) -> Store:
        store = Store(ROOT / "home", "p")
        manifest = store.resume(self.mark)
        if self.mark is None:
            assert manifest is None
            return store
        epoch = self.mark[0]
        assert manifest == b"manifest %d" % epoch
        for name, data in parts(epoch).items():
            assert store.load(name) == data, f"{name} of commit {epoch} is another, and nobody says so"
        return store


def outcome(faults: tuple[Fault, ...]) -> tuple[str, Folder]:
    """Run a job under faults; return `equal`, or the error that tells of damage. AssertionError says what is broken."""
    folder = Folder(faults)
    job = Job(folder)
    with pytest.MonkeyPatch.context() as patch:
        folder.mount(patch)
        while True:
            folder.start()
            struck = len(folder.struck)
            try:
                job.life()
            except EnvironmentFault as error:
                if len(folder.struck) == struck:
                    assert any(faults[number].kind in DAMAGING for number, *_ in folder.struck), f"nothing was damaged, and it is told: {error}"
                    return str(error), folder
            else:
                return "equal", folder


@cache
def trace() -> list[tuple[str, ...]]:
    return outcome(())[1].trace


def drawn(seed: int) -> tuple[Fault, ...]:
    return drawn_faults(random.Random(seed), len(trace()))


def check(schedules: Iterable[tuple[Fault, ...]], note: Callable[[str, object], None]) -> None:
    count = told = 0
    broken = []
    for faults in schedules:
        try:
            said = outcome(faults)[0]
        except Exception as error:  # noqa: BLE001  (each is a schedule that fails)
            broken.append(f"{faults}: {error!r}")
        else:
            count += 1
            told += said != "equal"
    note("schedules of file faults", count)
    note("schedules of file faults: damage told", told)
    assert not broken, "\n".join(broken[:10])


@pytest.mark.parametrize("seed", range(20))
def test_folders_that_were_made_are_there_after_a_power_cut(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder([Fault("cut", 12, seed)])
    folder.mount(monkeypatch)
    private_folder(ROOT / "home" / "state")
    while not folder.crashed:
        with suppress(OSError):
            (ROOT / "home" / "state").exists()
    assert folder.names(ROOT / "home") == ["state"]


def test_what_a_commit_names_is_there_whatever_the_disk_does(record_property: Callable[[str, object], None]) -> None:
    every = [(Fault(kind, call, 7),) for kind in KINDS for call, can in enumerate(trace(), 1) if kind in can]
    check(every, record_property)


@pytest.mark.parametrize("seeds", [range(1500), pytest.param(range(10_000, 30_000), marks=pytest.mark.long)])
def test_faults_of_files_may_meet(seeds: range, record_property: Callable[[str, object], None]) -> None:
    check(map(drawn, seeds), record_property)
