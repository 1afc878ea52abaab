"""The process `count` of bench/processes.py as a flow of Bytewax: `stateful_map` in the order of arrival, without a rule of reading, ledger or commits.

`bench/run.py --only bytewax` installs Bytewax in an environment of its own, and runs it: SOURCE=… TARGET=… python -m bytewax.run process_by_hand_on_bytewax
"""

import os
from pathlib import Path

import bytewax.operators as op
import orjson
from bytewax.connectors.files import FileSink, FileSource
from bytewax.dataflow import Dataflow


def keyed(line):
    row = orjson.loads(line)
    return row["tag"], row


def count(state, _row):
    state = (state or 0) + 1
    return state, state


def told(pair):
    tag, number = pair
    return (tag, orjson.dumps({"tag": tag, "count": number}).decode()) if number % 1000 == 0 else None


target = Path(os.environ["TARGET"])
target.touch()
flow = Dataflow("count")
lines = op.input("read", flow, FileSource(os.environ["SOURCE"]))
counted = op.stateful_map("count", op.map("key", lines, keyed), count)
op.output("write", op.filter_map("tell", counted, told), FileSink(target))
