"""The command line. Each command lives in a module of its own, imported when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, MissingArgumentError, UnusedCliTokensError

from headrace import __version__
from headrace.errors import HeadraceError, Mistakes

__all__ = ["app", "main"]

app = App(
    name="headrace",
    help="Streaming analytics for industrial plants.",
    version=f"headrace {__version__}",
    help_format="plaintext",
    exit_on_error=False,
    suppress_keyboard_interrupt=False,
    print_error=False,
    result_action="return_value",
)
app.command("headrace.cli.demo:demo", name="demo", help="Show a simulated kiln, the fingerprint pipeline and a live page, in one process.")
app.command("headrace.cli.run:run", name="run", help="Run a pipeline over files, or live on topics.")
app.command("headrace.cli.init:init", name="init", help="Write a first plant file, from a template.")
app.command("headrace.cli.up:up", name="up", help="Run a plant: its sources, pipelines and targets, supervised in one process.")
app.command("headrace.cli.reload:reload", name="reload", help="Apply the changes of the plant file to the running plant.")
app.command("headrace.cli.service:service", name="service", help="Print the file with which systemd or launchd runs a plant.")
app.command("headrace.cli.prove:prove", name="prove", help="Kill a pipeline at random moments, and compare what it leaves with an unbroken run.")
app.command("headrace.cli.fit:fit", name="fit", help="Fit the model of a detector to normal history, for hr.detect.")
app.command("headrace.cli.backtest:backtest", name="backtest", help="Judge the alarms of a pipeline over labelled history, by an alarm budget.")
app.command("headrace.cli.backtest:what_if", name="what-if", help="Show what another setting changes in the alarms over labelled history.")
app.command("headrace.cli.plan:check", name="check", help="Check a plant file, or the pipelines of a file, without running them.")
app.command("headrace.cli.plan:plan", name="plan", help="Show what a pipeline computes, or the script an engine would run.")
app.command("headrace.cli.ledger:ledger", name="ledger", help="Show how many records of a pipeline's last run were accepted, late or set aside.")
app.command("headrace.cli.simulate:simulate", name="simulate", help="Send the data of a simulated plant.")
app.command("headrace.cli.importing:import_files", name="import", help="Turn files of a public data set into readings and labels.")
app.command("headrace.cli.serve:serve", name="serve", help="Run one service alone.")
app.command("headrace.cli.bridge:bridge", name="bridge", help="Move records between an outside system and a topic.")
app.command("headrace.cli.browse:browse", name="browse", help="Show what an outside system has, live, and write a first tag list.")

_jobs = App(name="jobs", help="Runs in the background: start, list, watch and cancel them.")
_jobs.command("headrace.cli.jobs:submit", name="submit", help="Start a run as a job of its own, and print its id.")
_jobs.command("headrace.cli.jobs:list_jobs", name="list", help="Show the jobs and whether they run.")
_jobs.command("headrace.cli.jobs:status", name="status", help="Show a job: what was submitted, its state, and how it ended.")
_jobs.command("headrace.cli.jobs:logs", name="logs", help="Show what a job has printed.")
_jobs.command("headrace.cli.jobs:metrics", name="metrics", help="Print a job's figures as text for Prometheus.")
_jobs.command("headrace.cli.jobs:cancel", name="cancel", help="End a job, and wait until it has ended.")
_jobs.command("headrace.cli.jobs:savepoint", name="savepoint", help="Write a savepoint of a job of a Flink cluster.")
app.command(_jobs)  # not `jobs`: so the module of its commands is called, once it is imported

_topics = App(name="topics", help="The topics of the log, or of Kafka.")
_topics.command("headrace.cli.topics:create", name="create", help="Create a topic.")
_topics.command("headrace.cli.topics:list_topics", name="list", help="Show the topics, by name.")
_topics.command("headrace.cli.topics:describe", name="describe", help="Show a topic and its partitions.")
_topics.command("headrace.cli.topics:append", name="append", help="Append the lines of a file to a topic, each a record.")
_topics.command("headrace.cli.topics:tail", name="tail", help="Print the records of a topic as they are, one a line.")
_topics.command("headrace.cli.topics:groups", name="groups", help="Show the consumer groups: how far pipelines and other readers have read.")
_topics.command("headrace.cli.topics:alter", name="alter", help="Change how long a topic keeps its records.")
_topics.command("headrace.cli.topics:compact", name="compact", help="Return the space of expired records to the disk.")
_topics.command("headrace.cli.topics:delete", name="delete", help="Remove a topic and all its records, without asking.")
app.command(_topics)

_alarms = App(name="alarms", help="The alarms of a plant, and the commands of its operators.")
_alarms.command("headrace.cli.alarms:list_alarms", name="list", help="Show the alarms that are not normal.")
_alarms.command("headrace.cli.alarms:show", name="show", help="Show the transitions of an alarm.")
_alarms.command("headrace.cli.alarms:acknowledge", name="ack", help="Acknowledge an alarm.")
_alarms.command("headrace.cli.alarms:shelve", name="shelve", help="Set an alarm aside for a time, or until it clears.")
_alarms.command("headrace.cli.alarms:unshelve", name="unshelve", help="End a shelve.")
_alarms.command("headrace.cli.alarms:suppress", name="suppress", help="Set an alarm aside by design.")
_alarms.command("headrace.cli.alarms:unsuppress", name="unsuppress", help="End a suppression.")
_alarms.command("headrace.cli.alarms:out_of_service", name="out-of-service", help="Set an alarm aside for maintenance.")
_alarms.command("headrace.cli.alarms:in_service", name="in-service", help="Take an alarm into service again.")
_alarms.command("headrace.cli.alarms:reset", name="reset", help="Reset an alarm that latches.")
_alarms.command("headrace.cli.alarms:comment", name="comment", help="Write a comment on an alarm.")
_alarms.command("headrace.cli.definitions:check_definitions", name="check", help="Check the definitions of alarms in a topic.")
_alarms.command("headrace.cli.alarms:kpi", name="kpi", help="Show the indicators of ISA-18.2.")
app.command(_alarms)
app.command("headrace.cli.explain:explain", name="explain", help="Show why an alarm was raised: definition, readings, states and commands.")
app.command("headrace.cli.explain:replay", name="replay", help="Recompute an alarm's transitions from the log, and compare them.")
app.command("headrace.cli.savepoint:savepoint", name="savepoint", help="Write where a pipeline is to a file, from which a run can start.")
app.command("headrace.cli.backup:backup", name="backup", help="Back up the whole home to one file, also while pipelines run.")
app.command("headrace.cli.backup:restore", name="restore", help="Restore a home from a backup.")
app.command("headrace.cli.doctor:doctor", name="doctor", help="Check the environment, the home and the topics, and report each fault with its fix.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit status: 0 done, 1 the job failed, 2 wrong use."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        return _run(given, debug=debug)
    except BrokenPipeError:
        # Whoever read our output has left.
        _abandon_output()
        return 0
    except OSError as error:
        # Commands see to the files they name; what is left is standard output.
        _abandon_output()
        return _fail(f"standard output: cannot be written: {error.strerror}; send it where there is room", status=1, debug=debug)


def _run(given: Sequence[str], *, debug: bool) -> int:
    from headrace.cli.paths import grouped_inputs

    try:
        app(grouped_inputs([one for one in given if one != "--debug"]))
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.flush()
    except HeadraceError as error:
        mistakes = error.mistakes if isinstance(error, Mistakes) else (error,)
        return _fail(*map(str, mistakes), status=error.exit_status, debug=debug)
    except UnusedCliTokensError as error:
        command = " ".join(("headrace", *(error.command_chain or ()), "--help"))
        return _fail(f"unexpected argument {(error.unused_tokens or ['?'])[0]!r}; see {command}", status=2, debug=debug)
    except CycloptsError as error:
        lacking = error.argument.name if isinstance(error, MissingArgumentError) and error.argument is not None else "-"
        swallowed = not lacking.startswith("-") and any(one.startswith("--input") for one in given)
        return _fail(f"{error}{f' Write {lacking} before --input.' if swallowed else ''}", status=2, debug=debug)
    except KeyboardInterrupt:
        return 130
    except SystemExit:
        # So rich ends when whoever read its help has left.
        return 0
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise
        return _fail(f"{error.filename or type(error).__name__}: {error.strerror or error}", status=1, debug=debug)
    except BaseException as error:  # noqa: BLE001  (the last resort: whatever it is, it is ours; a panic of Polars' is no Exception)
        return _fail(f"a fault of headrace's own: {type(error).__name__}: {error}; please report it, with what --debug shows", status=1, debug=debug)
    return 0


def _abandon_output() -> None:
    """Send what standard output has not taken nowhere, lest Python complain of it once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(*messages: str, status: int, debug: bool) -> int:
    from headrace.cli.tables import printable

    if debug:
        import traceback

        traceback.print_exc()
    for message in messages:
        print(f"headrace: {printable(' '.join(message.split()))}", file=sys.stderr)
    return status
