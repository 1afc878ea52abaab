"""MongoDB: records of a topic as documents of a collection."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

from headrace.connectors.address import Address
from headrace.connectors.certificates import context_again, context_of, fault_of_text
from headrace.connectors.moments import NS, nanoseconds
from headrace.connectors.objects import Unfit, fitting, object_of
from headrace.connectors.protocol import Record, Target, Unavailable
from headrace.errors import EnvironmentFault, HeadraceError, PlanError

try:
    import bson
    import pymongo
    from bson.datetime_ms import DatetimeMS
    from bson.errors import InvalidBSON, InvalidDocument, InvalidStringData
    from bson.raw_bson import RawBSONDocument
    from pymongo import errors
    from pymongo.collection import Collection
    from pymongo.write_concern import WriteConcern
except ModuleNotFoundError:
    raise EnvironmentFault("needs the package pymongo", where="the bridge", fix="pip install 'headrace[mongodb]'") from None

__all__ = ["Documents", "target"]

_PARAMETERS = frozenset(
    {"collection", "key", "conflict", "dates", "time_unit", "timeseries", "meta", "granularity", "ttl", "index"}
    | {"authSource", "replicaSet", "tls", "tlsCAFile", "directConnection"},
)
_EXAMPLE = "mongodb://127.0.0.1:27017/factory?collection=processed_data"
_MOST_RECORDS = 5000
_MOST_BYTES = 16 << 20
_LOOKED_UP = 250
_MOST_SECONDS = 10 * 365 * 86_400.0
_SELECT_MS, _ANSWER_MS, _DURABLE_MS = 10_000, 60_000, 30_000
_FIRST_MS, _LAST_MS = -(2**63), 2**63 - 1
_DUPLICATE = 11000
_UNREADY = frozenset({6, 7, 24, 46, 50, 64, 89, 91, 112, 133, 134, 146, 189, 202, 251, 262, 9001, 10107, 11600, 11602, 13435, 13436, 14031})
_INDEX = re.compile(r"-?[^-;,][^;,]*")


def target(address: str) -> Documents:
    """Return what writes records to an address `mongodb://user:${PASSWORD}@host:port/database?collection=…`, or to mongodb+srv."""
    one = Address(address, _PARAMETERS, _EXAMPLE, "TO")
    database = one.path.strip("/")
    if one.scheme not in {"mongodb", "mongodb+srv"} or one.host is None or not database or "/" in database:
        raise one.wrong("is not the address of a database of MongoDB")
    collection = one.get("collection")
    if collection is None:
        raise PlanError("names no collection", where=one.where, fix="give collection=NAME")
    into = _into(one)
    host = (f"[{one.host}]" if ":" in one.host else one.host) + (f":{one.port}" if one.port else "")
    options: dict[str, Any] = {"username": one.user, "password": one.password}
    options |= {name: one.get(name) for name in ("authSource", "replicaSet", "tlsCAFile")}
    for name in ("tls", "directConnection"):
        if one.get(name) is not None:
            options[name] = one.choice(name, ["true", "false"]) == "true"
    options = {name: value for name, value in options.items() if value is not None}
    if (ca := one.get("tlsCAFile")) is not None:
        context_of(ca)
    return Documents(f"{one.scheme}://{host}/{database}?collection={collection}", f"{one.scheme}://{host}/", database, collection, into, options)


class _Index(NamedTuple):
    fields: Sequence[tuple[str, int]]
    expire_seconds: int | None = None


@dataclass(frozen=True)
class _Into:
    """The form in which records become documents.

    Attributes
    ----------
    key
        The fields that identify a document; None: each record is a document of its own.
    update
        Whether a record replaces the document with its key.
    dates
        The fields that become dates.
    factor
        How many ns a number in them counts.
    timeseries
        The options of a time series collection; None: it is a plain one.
    ttl
        After how many seconds MongoDB deletes a document.
    indexes
        Those that the collection gets.
    """

    key: tuple[str, ...] | None
    update: bool
    dates: tuple[str, ...]
    factor: int
    timeseries: Mapping[str, str] | None
    ttl: int | None
    indexes: Sequence[_Index]

    @property
    def timeseries_field(self) -> str:
        """The field of the time of a time series; nothing if it is none."""
        return "" if self.timeseries is None else self.timeseries["timeField"]

    def document(self, record: Record) -> dict[str, Any]:
        """Return the document of a record, with an `_id` that is the same at each try. Raises Unfit if it cannot be one."""
        content = object_of(record.value)
        for name in self.dates:
            if (given := content.get(name)) is not None:
                found = nanoseconds(given, self.factor)
                if found is None or not _FIRST_MS <= found // 1_000_000 <= _LAST_MS:
                    raise Unfit(f"has an unreadable time in {name!r}: {str(given)[:40]!r}")
                content[name] = DatetimeMS(found // 1_000_000)
            elif name == self.timeseries_field:
                raise Unfit(f"has no time: nothing is in {name!r}")
        if self.key is None:
            if "_id" in content:
                raise Unfit("has the field '_id', which is the record's id; key=_id makes it the key")
            return {"_id": record.id, **content}
        for name in self.key:
            if content.get(name) is None:
                raise Unfit(f"has no value in {name!r}, which is part of the key")
        if len(self.key) == 1:
            return {**content, "_id": content[self.key[0]]}
        return {**content, "_id": {name: content[name] for name in self.key}}


class _Made(NamedTuple):
    place: int
    id: Any
    bytes: RawBSONDocument
    at: Any


class Documents(Target):
    """Records as documents. The `_id` of a document is the record's key or id, so a record that is written again changes nothing.

    A time series collection has no unique `_id`. So the first batch after a start or an outage is looked up before it is written.

    Parameters
    ----------
    name
        The address without user and password.
    url
        Where the server is.
    database, collection
        Where documents go.
    into
        What becomes of records.
    options
        Those of the client.
    """

    most_records = _MOST_RECORDS

    def __init__(self, name: str, url: str, database: str, collection: str, into: _Into, options: Mapping[str, Any]) -> None:
        self.name, self._url, self._place, self._into, self._options = name, url, (database, collection), into, options
        self._client: pymongo.MongoClient[Any] | None = None
        self._collection: Collection[Any] | None = None
        self._known = False

    async def send(self, records: Sequence[Record]) -> Mapping[int, str] | None:
        """Write records, and return when most of the servers have them in their journals."""
        return await asyncio.to_thread(self._send, records)

    def _send(self, records: Sequence[Record]) -> Mapping[int, str]:
        found, unfit = fitting(records, self._encoded)
        made, never = [_Made(place, *one) for place, one in found], {place: str(error) for place, error in unfit}
        known, self._known = self._known, False
        try:
            if self._collection is None:
                self._collection = self._opened()
            if self._into.timeseries is not None and not known:
                made = self._new(self._collection, made)
            self._write(self._collection, made, never)
        except errors.PyMongoError as error:
            raise self._fault(error) from None
        self._known = True
        return never

    def _encoded(self, record: Record) -> tuple[Any, RawBSONDocument, Any]:
        """Return the `_id`, the document and the time of a record. Raises Unfit if MongoDB has no such document."""
        try:
            document = self._into.document(record)
            raw = bson.encode(document)
        except (InvalidDocument, InvalidStringData, InvalidBSON, OverflowError, RecursionError, UnicodeError) as error:
            raise Unfit(f"has a value or name that MongoDB does not have: {' '.join(str(error).split())[:200]}") from None
        if len(raw) > _MOST_BYTES:
            raise Unfit(f"makes a document of {len(raw):,} bytes, and MongoDB takes 16 MiB")
        return document["_id"], RawBSONDocument(raw), document.get(self._into.timeseries_field)

    def _new(self, collection: Collection[Any], made: Sequence[_Made]) -> list[_Made]:
        """Return the documents that are not in a time series collection yet, in their order. A few at a time are looked for in their span of time."""
        field, known = self._into.timeseries_field, set[str]()
        by_time = sorted(made, key=attrgetter("at"))
        for first in range(0, len(by_time), _LOOKED_UP):
            some = by_time[first : first + _LOOKED_UP]
            query = {field: {"$gte": some[0].at, "$lte": some[-1].at}, "_id": {"$in": [one.id for one in some]}}
            known |= {one["_id"] for one in collection.find(query, {"_id": 1})}
        return [one for one in made if one.id not in known]

    def _write(self, collection: Collection[Any], made: Sequence[_Made], never: dict[int, str]) -> None:
        """Insert documents, and replace those that are there; note those that the server refuses."""
        there: list[_Made] = []
        for one, error in _failed(made, lambda: collection.insert_many([one.bytes for one in made], ordered=False)):
            if _repeats(error):
                there.append(one)
            else:
                never[one.place] = _reason(error)
        if self._into.key is None or not self._into.update:
            return
        last = [*{repr(one.id): one for one in there}.values()]
        replacing: list[pymongo.ReplaceOne[Any]] = [pymongo.ReplaceOne({"_id": one.id}, one.bytes, upsert=True) for one in last]
        for one, error in _failed(last, lambda: collection.bulk_write(replacing, ordered=False)):
            if _repeats(error):
                raise Unavailable("another session writes the same documents")
            never[one.place] = _reason(error)

    def _opened(self) -> Collection[Any]:
        """Connect, and make collection and indexes as far as they are not there."""
        if self._client is None:
            if (ca := self._options.get("tlsCAFile")) is not None:
                context_again(ca)
            try:
                self._client = pymongo.MongoClient(
                    self._url,
                    **self._options,
                    appname="headrace",
                    serverSelectionTimeoutMS=_SELECT_MS,
                    connectTimeoutMS=_SELECT_MS,
                    socketTimeoutMS=_ANSWER_MS,
                    tz_aware=True,
                )
            except (errors.ConfigurationError, ValueError, OSError) as error:
                raise PlanError(f"cannot be reached so: {error}", where=self.name, fix=f"give an address such as {_EXAMPLE}") from None
        database, into = self._client[self._place[0]], self._into
        found = next(iter(database.list_collections(filter={"name": self._place[1]})), None)
        if into.timeseries is not None:
            wanted = into.timeseries["timeField"]
            if found is None:
                more: dict[str, Any] = {} if into.ttl is None else {"expireAfterSeconds": into.ttl}
                database.create_collection(self._place[1], timeseries=dict(into.timeseries), **more)
            elif (given := found.get("options", {}).get("timeseries", {}).get("timeField")) != wanted:
                what = f"is a time series by {given!r}" if given else "is no time series collection"
                raise PlanError(f"{what}", where=self.name, fix="name another collection, or change timeseries=")
        elif found is not None and "timeseries" in found.get("options", {}):
            raise PlanError("is a time series collection", where=self.name, fix=f"give timeseries={found['options']['timeseries']['timeField']}")
        collection: Collection[Any] = database.get_collection(self._place[1], write_concern=WriteConcern(w="majority", j=True, wtimeout=_DURABLE_MS))
        for index in into.indexes:
            expires: dict[str, Any] = {} if index.expire_seconds is None else {"expireAfterSeconds": index.expire_seconds}
            collection.create_index([*index.fields], **expires)
        return collection

    def _fault(self, error: errors.PyMongoError) -> HeadraceError:
        """Return what an error means for all records."""
        said = _said(str(error))
        if (fault := fault_of_text(str(error), "tlsCAFile")) is not None:
            self._forget()  # another client reads the file again
            return fault
        if isinstance(error, errors.ConnectionFailure | errors.WTimeoutError | errors.ExecutionTimeout | errors.WaitQueueTimeoutError):
            refused = "refused" in str(error).lower()
            return Unavailable("connection refused" if refused else f"does not answer: {said}")
        if isinstance(error, errors.OperationFailure):
            if error.code in _UNREADY or error.has_error_label("RetryableWriteError"):
                return Unavailable(f"answers: {said}")
            match error.code:
                case 18:
                    fix = "check user and password, and authSource=, the database of the user"
                case 13:
                    fix = "give the user the role readWrite on this database"
                case 85 | 86 | 67:
                    fix = "drop the index that is there, or give its options"
                case _:
                    fix = "check the parameters of the address"
            return PlanError(f"answers: {said}", where=self.name, fix=fix)
        return PlanError(f"cannot be used so: {said}", where=self.name, fix=f"give an address such as {_EXAMPLE}")

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.to_thread(self._forget)

    def _forget(self) -> None:
        client, self._client, self._collection, self._known = self._client, None, None, False
        if client is not None:
            client.close()


def _failed(made: Sequence[_Made], write: Any) -> list[tuple[_Made, Mapping[str, Any]]]:  # noqa: ANN401  (a function of pymongo)
    """Write documents, and return those that the server refuses, with its errors; raises what concerns all of them."""
    if not made:
        return []
    try:
        write()
    except errors.BulkWriteError as error:
        details = error.details
        for one in [*details.get("writeConcernErrors", []), *details.get("writeErrors", [])]:
            if one is None or one.get("code") in _UNREADY or "index" not in one:
                raise Unavailable(f"answers: {_said(str((one or {}).get('errmsg', error)))}") from None
        return [(made[one["index"]], one) for one in details.get("writeErrors", [])]
    return []


def _repeats(error: Mapping[str, Any]) -> bool:
    """Return whether there is a document with this `_id`."""
    return error.get("code") == _DUPLICATE and " index: _id_ " in f"{error.get('errmsg', '')} "


def _reason(error: Mapping[str, Any]) -> str:
    return f"the server refuses it: {_said(str(error.get('errmsg', '')))} (code {error.get('code')})"


def _said(text: str) -> str:
    return " ".join(re.split(r", (?:full error|Timeout|Topology)", text)[0].split())[:300]


# addresses


def _into(one: Address) -> _Into:
    """Return what an address says of documents."""
    at, key = one.get("timeseries"), one.names("key")
    ttl = one.seconds("ttl", 0.0, 1.0, _MOST_SECONDS)
    dates = one.names("dates") or ()
    indexes = [_index(one, text) for text in (one.get("index") or "").split(";") if text]
    series: dict[str, str] | None = None
    if at is not None:
        if key is not None:
            fix = "leave it out: each record is a document of its own, once"
            raise PlanError("parameter key is not for time series, which cannot be updated", where=one.where, fix=fix)
        dates = (at, *(name for name in dates if name != at))
        series = {"timeField": at, "granularity": one.choice("granularity", ["seconds", "minutes", "hours"])}
        if (meta := one.get("meta")) is not None:
            series["metaField"] = meta
    elif one.get("meta") is not None or one.get("granularity") is not None:
        raise PlanError("parameters meta and granularity are only for time series", where=one.where, fix="give timeseries=FIELD of the time")
    elif ttl:
        if not dates:
            raise PlanError("parameter ttl needs the time of a document", where=one.where, fix="give dates=FIELD of the time")
        indexes.append(_Index([(dates[0], pymongo.ASCENDING)], int(ttl)))
    factor = NS[one.choice("time_unit", list(NS))]
    return _Into(key, one.choice("conflict", ["update", "nothing"]) == "update", dates, factor, series, int(ttl) or None, indexes)


def _index(one: Address, text: str) -> _Index:
    names = text.split(",")
    if not all(_INDEX.fullmatch(name) for name in names):
        fix = "give names with commas between them, -NAME for a descending one, and ; between indexes"
        raise PlanError(f"parameter index is {text!r}", where=one.where, fix=fix)
    return _Index([(name.removeprefix("-"), pymongo.DESCENDING if name[0] == "-" else pymongo.ASCENDING) for name in names])
