"""Runs over files on engines that write folders: each job gets one, and its result is read from there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from headrace.engines.protocol import FileJob, Result
from headrace.engines.working import working_folder
from headrace.kernels.ledger import Reasons

if TYPE_CHECKING:
    from headrace.engines.entries import Ledger
    from headrace.plan.pipeline import Plan

__all__ = ["FolderJob", "in_folders", "result_of"]


@dataclass(frozen=True)
class FolderJob:
    """A plan over files by topic, several files being partitions, and the folder for outputs, dead letters and ledger."""

    plan: Plan
    inputs: Mapping[str, Sequence[Path]]
    folder: Path


@contextmanager
def in_folders(jobs: Sequence[FileJob], home: Path) -> Iterator[list[FolderJob]]:
    """Yield the jobs, each with its folder; one whose rows go to a stream has a folder that goes with the run."""
    with ExitStack() as held:
        folders = [job.output if isinstance(job.output, Path) else held.enter_context(working_folder(home, "output")) for job in jobs]
        yield [FolderJob(job.plan, job.inputs, folder) for job, folder in zip(jobs, folders, strict=True)]


def result_of(job: FileJob, placed: FolderJob, ledger: Ledger) -> Result:
    """Return the result of a job that has ended, and write its rows where they go to a stream."""
    if not isinstance(job.output, Path):
        for topic in job.plan.topics:
            job.output.write((placed.folder / f"{topic}.ndjson").read_bytes())
    return Result(ledger, {topic: _reasons_in(placed.folder / f"{topic}.dead-letter.ndjson") for topic in ledger})


def _reasons_in(dead_letters: Path) -> Reasons:
    """Return why records were set aside, as their dead letters say."""
    reasons = Reasons()
    with suppress(FileNotFoundError), dead_letters.open("rb") as lines:
        for line in lines:
            letter = msgspec.json.decode(line)
            reasons.note(letter["partition"], letter["offset"], letter["detail"])
    return reasons
