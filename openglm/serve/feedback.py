"""What users thought of answers, in a data base; and pairs of a better and a worse answer out of it.

A row is acknowledged only once it is committed and on the disk, so it survives a server that is killed. Rows belong to
a conversation, whose id only its owner's browser knows: who has the id may read and delete them.
"""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import APIRouter, Request
from sqlalchemy import (
    JSON,
    Column,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    delete,
    event,
    insert,
    select,
)
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from openglm.config import require
from openglm.runtime import data_folder
from openglm.serve.errors import ApiError
from openglm.serve.schemas import FeedbackRequest, Json

router = APIRouter(prefix="/v1/feedback", tags=["Feedback"])
_meta = MetaData()
_rows = Table(
    "feedback",
    _meta,
    Column("id", Integer, primary_key=True),
    Column("created", String(32), nullable=False),
    Column("conversation", String(64), nullable=False, index=True),
    Column("kind", String(8), nullable=False),
    Column("messages", JSON, nullable=False),
    Column("answer", Text, nullable=False),
    Column("better", Text),
    Column("reason", Text),
    Column("model", String(256), nullable=False),
    Column("weights", String(64), nullable=False),
    Column("sampling", JSON, nullable=False),
)


class Feedback:
    """The store. `url`: any SQLAlchemy URL; empty: an SQLite file in the user's data folder. Raises ValueError where it
    cannot be opened."""

    def __init__(self, url: str = "") -> None:
        if not url:
            try:
                data_folder().mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(f"feedback_url = '': {data_folder()}: {error.strerror}; name a data base") from None
            url = f"sqlite:///{data_folder() / 'feedback.db'}"
        try:
            self.engine: Engine = create_engine(url)
            if self.engine.dialect.name == "sqlite":
                event.listen(self.engine, "connect", _to_the_disk)
            _meta.create_all(self.engine)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise ValueError(f"feedback_url = {url!r}: {error}; give a URL such as sqlite:///feedback.db") from None
        except SQLAlchemyError as error:
            raise ValueError(
                f"feedback_url = {url!r}: {str(error.__cause__ or error).splitlines()[0]}; name a data base that can "
                "be written"
            ) from None

    def add(self, **row: Any) -> int:
        """Keep a row; returns its number once it is safe."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        with self.engine.begin() as connection:
            return connection.execute(insert(_rows).values(created=now, **row)).inserted_primary_key[0]

    def of(self, conversation: str) -> list[Json]:
        """Its rows, as anything that writes JSON takes them: SQLAlchemy's names are of a type of their own."""
        with self.engine.connect() as connection:
            found = connection.execute(
                select(_rows).where(_rows.c.conversation == conversation).order_by(_rows.c.id)
            ).mappings()
            return [{str(name): value for name, value in row.items()} for row in found]

    def forget(self, conversation: str) -> int:
        """Delete a conversation's rows; returns how many there were."""
        with self.engine.begin() as connection:
            return connection.execute(delete(_rows).where(_rows.c.conversation == conversation)).rowcount

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        with self.engine.connect() as connection:
            yield from connection.execute(select(_rows).order_by(_rows.c.id)).mappings()

    def pairs(self) -> Iterator[Json]:
        """{"prompt", "chosen", "rejected"}, each a list of messages: an edit beats what it replaced; so does the answer
        of a retry, unless it was rated down; for the same question, answers rated up beat those rated down. A later
        judgement of the same answer replaces an earlier one."""
        questions: dict[str, Json] = {}
        for row in self:
            entry = questions.setdefault(
                json.dumps(row["messages"], sort_keys=True), {"messages": row["messages"], "rated": {}, "replaced": {}}
            )
            if row["kind"] in ("up", "down"):
                entry["rated"][row["answer"]] = row["kind"]
            elif row["better"]:
                entry["replaced"][row["better"], row["answer"]] = row["kind"]
        for entry in questions.values():
            rated = entry["rated"]
            found = {
                pair: None for pair, kind in entry["replaced"].items() if kind == "edit" or rated.get(pair[0]) != "down"
            }
            found |= {
                (good, bad): None
                for good, up in rated.items()
                if up == "up"
                for bad, down in rated.items()
                if down == "down"
            }
            for chosen, rejected in found:
                if chosen != rejected and (rejected, chosen) not in found:
                    yield {"prompt": entry["messages"], "chosen": [_answer(chosen)], "rejected": [_answer(rejected)]}


def _answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _to_the_disk(connection: Any, _: Any) -> None:
    """SQLite: readers do not wait for writers, and a commit returns once the disk has it."""
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}")


@router.post("")
async def keep(request: Request, body: FeedbackRequest) -> Json:
    """Answers once the row is safe."""
    _store(request)
    judged = body.kind in ("up", "down")
    require((body.better is None) == judged, "better", body.better, "belongs to edit and retry, and to them alone")
    row = body.model_dump(exclude={"sampling", "system_fingerprint"})
    return {"id": await keep_row(request.app.state, body.system_fingerprint, **row, sampling=body.sampling or {})}


async def keep_row(state: Any, weights: str | None, **row: Any) -> int:
    """Keep a judgement of these weights, or of those that answer now; returns its number once it is safe."""
    own = {"model": state.model, "weights": weights or state.service.assistant.fingerprint}
    number = await asyncio.to_thread(state.feedback.add, **row, **own)
    state.service.metrics.feedback.inc()
    return number


@router.get("/{conversation}")
async def show(request: Request, conversation: str) -> Json:
    """What is stored of a conversation."""
    return {"data": await asyncio.to_thread(_store(request).of, conversation)}


@router.delete("/{conversation}")
async def forget(request: Request, conversation: str) -> Json:
    return {"deleted": await asyncio.to_thread(_store(request).forget, conversation)}


def _store(request: Request) -> Feedback:
    store = request.app.state.feedback
    if store is None:
        raise ApiError(404, "this server keeps no feedback")
    return store
