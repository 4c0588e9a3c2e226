"""No interleaving of requests, streams, aborts, changes of limits and crashes passes a limit.

A state machine over the real key store and ledger in a real directory, against a model of plain
integers. Operations are started and awaited in any order; a crash drops the server without a word
(its queued settlements are lost with it) and the next one recovers.
"""

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import Coroutine
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from nestling.accounts.accounts import Accounts
from nestling.accounts.database import DATABASE_FILE_NAME
from nestling.accounts.key_records import ApiKey, NewKey, SpendLimit
from nestling.accounts.ledger import Meter
from nestling.accounts.ledger_records import Charge, Inference
from nestling.accounts.ledger_writer import day_of
from nestling.accounts.money import Prices
from nestling.errors import NestlingError, QuotaExceededError

PRICES = Prices(3, 7)
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
T = TypeVar("T")
most = st.tuples(st.integers(0, 40), st.integers(0, 40))
limits = st.none() | st.builds(
    SpendLimit, st.sampled_from(["no_reset", "day", "week", "month"]), st.integers(0, 2000)
)


@dataclass(eq=False)
class Running:
    """One request of the model."""

    inference: Inference
    most: tuple[int, int]
    task: "asyncio.Task[Meter]"
    meter: Meter | None = None
    noted: tuple[int, int] = (0, 0)


@dataclass
class Ended:
    """What the model knows to be settled."""

    rows: dict[str, int] = field(default_factory=dict)
    days: dict[tuple[str, int], int] = field(default_factory=dict)


def inference_of(key: ApiKey, number: int, at: datetime) -> Inference:
    return Inference(
        inference_id=f"gen-{number}",
        request_id=f"r-{number}",
        client_request_id=None,
        key_id=key.key_id,
        key_prefix=key.prefix,
        endpoint="/v1/chat/completions",
        model="nestling-nano",
        origin="api",
        is_streamed=False,
        started_at=at,
    )


class LedgerMachine(RuleBasedStateMachine):
    """See the module."""

    running = Bundle("running")

    @initialize()
    def open(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.dir = Path(tempfile.mkdtemp())
        self.now = NOON
        self.number = 0
        self.live: set[Running] = set()
        self.ended = Ended()
        self.limit_was_changed = False
        self.accounts = self.do(Accounts.open(self.dir, PRICES, lambda: self.now))
        self.keys = [
            self.do(self.accounts.keys.create(NewKey(limit=limit)))[0]
            for limit in (SpendLimit("no_reset", 900), SpendLimit("day", 400), None)
        ]

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    # --- requests ---------------------------------------------------------------------------------

    @rule(target=running, which=st.integers(0, 2), wanted=st.lists(most, min_size=1, max_size=5))
    def begin(self, which: int, wanted: list[tuple[int, int]]) -> Any:
        """Ask for reservations at once; whether they were granted is looked at later."""
        key = self.accounts.keys.recheck(self.keys[which].key_id)

        async def start(number: int, most: tuple[int, int]) -> Running:
            inference = inference_of(key, number, self.now)
            task = asyncio.ensure_future(self.accounts.ledger.open_meter(inference, key, most))
            await asyncio.sleep(0)
            return Running(inference, most, task)

        begun = [self.do(start(self.number + i, most)) for i, most in enumerate(wanted)]
        self.number += len(begun)
        self.live.update(begun)
        return multiple(*begun)

    def meter_of(self, request: Running) -> Meter | None:
        """The request's meter once its reservation is decided; None if it was refused."""
        if request.meter is None and request in self.live:
            try:
                request.meter = self.do(asyncio.wait_for(request.task, 10))
            except QuotaExceededError:
                self.live.discard(request)
        return request.meter

    @rule(request=running, share=st.floats(0, 1))
    def go_on(self, request: Running, share: float) -> None:
        """Note progress."""
        if request in self.live and (meter := self.meter_of(request)) is not None:
            prompt, completion = request.most
            request.noted = (prompt, int(completion * share))
            self.do(_call(lambda: meter.note(*request.noted)))

    @rule(request=consumes(running), share=st.floats(0, 1), succeeded=st.booleans())
    def end(self, request: Running, share: float, succeeded: bool) -> None:
        """Settle: finished, or aborted half-way, or failed."""
        if request not in self.live or (meter := self.meter_of(request)) is None:
            return
        prompt, completion = request.most[0], int(request.most[1] * share)
        charge = Charge(prompt, completion, succeeded=succeeded)
        self.settled(request, self.do(_call(lambda: meter.settle(charge))))

    @rule()
    def end_all(self) -> None:
        """Settle everything in one transaction."""
        for request in list(self.live):
            if (meter := self.meter_of(request)) is not None:
                charge = Charge(*request.most, succeeded=True)
                self.settled(request, self.do(_call(lambda m=meter, c=charge: m.settle(c))))

    @rule(request=consumes(running))
    def abort(self, request: Running) -> None:
        """Cancel a request wherever it is; granted or not, nothing may stay reserved."""
        if request not in self.live:
            return
        request.task.cancel()
        self.do(asyncio.wait({request.task}))
        if not request.task.cancelled() and request.task.exception() is None:
            meter = request.task.result()
            self.settled(request, self.do(_call(lambda: meter.settle(Charge()))))
        elif request.task.cancelled():
            self.settled(request, 0)
        self.live.discard(request)

    def settled(self, request: Running, cost: int) -> None:
        self.live.discard(request)
        inference = request.inference
        self.ended.rows[inference.inference_id] = cost
        name = (inference.key_id, day_of(inference.started_at))
        self.ended.days[name] = self.ended.days.get(name, 0) + cost

    # --- around them ------------------------------------------------------------------------------

    @rule(which=st.integers(0, 2), limit=limits)
    def change_limit(self, which: int, limit: SpendLimit | None) -> None:
        """As the key's watch does: a limit that does not cover what runs ends what runs."""
        prefix, key_id = self.keys[which].prefix, self.keys[which].key_id
        for request in [r for r in self.live if r.inference.key_id == key_id]:
            self.meter_of(request)
        self.do(self.accounts.keys.update(prefix, limit=limit))
        self.limit_was_changed = True
        if limit is None:
            return
        try:
            self.do(self.accounts.ledger.hold(key_id))
        except QuotaExceededError:
            for request in [r for r in self.live if r.inference.key_id == key_id]:
                meter = request.meter
                assert meter is not None
                self.settled(request, self.do(_call(lambda m=meter: m.settle(Charge()))))

    @rule(hours=st.integers(1, 60))
    def later(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    @rule(gathered=st.booleans())
    def crash(self, gathered: bool) -> None:
        """Drop everything that is in memory; what was not written is not known to anybody."""
        for request in list(self.live):
            self.meter_of(request)
        if gathered:
            self.do(self.accounts.ledger.flush())
        copy = Path(tempfile.mkdtemp())
        self.freeze(copy)
        with closing(sqlite3.connect(copy / DATABASE_FILE_NAME)) as database:
            held = dict(
                database.execute("SELECT inference_id, nano_usd FROM reservation").fetchall()
            )
            rows = dict(database.execute("SELECT inference_id, nano_usd FROM usage").fetchall())
        noted = {
            r.inference.inference_id: PRICES.cost(*r.noted) * (r.noted[1] > 0) for r in self.live
        }
        for request in self.live:
            if request.meter is not None:
                self.do(_call(lambda m=request.meter: m.settle(Charge())))
        self.do(self.accounts.close())
        shutil.rmtree(self.dir)
        self.dir = copy
        self.live.clear()
        self.accounts = self.do(Accounts.open(copy, PRICES, lambda: self.now))
        self.check_recovery(held, rows, noted if gathered else None)

    def freeze(self, copy: Path) -> None:
        """Copy the directory while no write is under way, as a kill would leave it."""
        with closing(sqlite3.connect(self.dir / DATABASE_FILE_NAME, timeout=30)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            shutil.copytree(
                self.dir, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*-shm")
            )

    def check_recovery(
        self, held: dict[str, int], rows: dict[str, int], noted: dict[str, int] | None
    ) -> None:
        """All that was held is settled, at no more than was held; what was settled is as it was."""
        now = self.rows()
        assert self.sums("reservation") == [{}]
        for name, amount in held.items():
            assert 0 <= now[name] <= amount
        for name, cost in rows.items():
            assert now[name] == cost
            assert self.ended.rows[name] == cost
        if noted is not None:  # everything had been written
            assert rows == self.ended.rows
            assert {name: now[name] for name in held} == {name: noted[name] for name in held}
        self.ended = Ended(now)
        with closing(sqlite3.connect(self.dir / DATABASE_FILE_NAME)) as database:
            for key_id, day, cost in database.execute(
                "SELECT key_id, day, nano_usd FROM key_spend"
            ):
                self.ended.days[key_id, day] = cost

    # --- what must always be true -----------------------------------------------------------------

    @invariant()
    def within_limits(self) -> None:
        """Spent and reserved in a window fit the limit, unless it was lowered below them."""
        if not hasattr(self, "accounts"):
            return
        held, spent = self.sums("reservation", "usage")
        assert all(amount >= 0 for amount in (*held.values(), *spent.values()))
        if self.limit_was_changed:
            return
        for key in self.keys:
            if key.limit is None:
                assert key.key_id not in {key_id for key_id, _ in held}
                continue
            windows = {key.limit.window_start(at) for _, at in (*held, *spent)}
            for start in windows:
                inside = [
                    amount
                    for sums in (held, spent)
                    for (key_id, at), amount in sums.items()
                    if key_id == key.key_id and key.limit.window_start(at) == start
                ]
                assert sum(inside) <= key.limit.threshold_nano_usd

    @precondition(lambda self: self.number % 3 == 2)
    @rule()
    def sums_are_exact(self) -> None:
        """Every settled request has one row, and the roll-up is their sum, in whole numbers."""
        self.do(self.accounts.ledger.flush())
        assert self.rows() == self.ended.rows
        with closing(sqlite3.connect(self.dir / DATABASE_FILE_NAME)) as database:
            spend = database.execute("SELECT key_id, day, nano_usd FROM key_spend").fetchall()
            kinds = database.execute("SELECT DISTINCT typeof(nano_usd) FROM usage").fetchall()
        assert {(key_id, day): cost for key_id, day, cost in spend} == self.ended.days
        assert kinds in ([], [("integer",)])

    def rows(self) -> dict[str, int]:
        with closing(sqlite3.connect(self.dir / DATABASE_FILE_NAME)) as database:
            return dict(database.execute("SELECT inference_id, nano_usd FROM usage").fetchall())

    def sums(self, *tables: str) -> list[dict[tuple[str, datetime], int]]:
        """Amounts by key and time of the start; of all tables at one moment, as rows may move."""
        epoch = datetime.fromtimestamp(0, UTC)
        found = []
        with closing(sqlite3.connect(self.dir / DATABASE_FILE_NAME)) as database:
            database.execute("BEGIN")
            for table in tables:
                query = f"SELECT key_id, started_at, sum(nano_usd) FROM {table} GROUP BY 1, 2"  # noqa: S608
                rows = database.execute(query).fetchall()
                found.append(
                    {(k, epoch + timedelta(microseconds=at)): sum_ for k, at, sum_ in rows}
                )
        return found

    def teardown(self) -> None:
        if not hasattr(self, "accounts"):
            return
        for request in list(self.live):
            meter = self.meter_of(request)
            if meter is not None:
                self.settled(request, self.do(_call(lambda m=meter: m.settle(Charge()))))
        self.sums_are_exact()
        assert self.sums("reservation") == [{}]
        self.do(self.accounts.close())
        self.do(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.dir)


async def _call(work: Any) -> Any:
    """Call a function that queues for the loop, inside it."""
    return work()


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking would take minutes
)


@pytest.fixture
async def accounts(tmp_path: Path) -> Any:
    opened = await Accounts.open(tmp_path, PRICES)
    yield opened
    await opened.close()


async def test_parallel_requests_fill_a_limit_exactly(accounts: Accounts) -> None:
    """Of 200 that ask at once, as many get in as fit, and no more."""
    limit = SpendLimit("day", 37 * PRICES.cost(5, 5))
    key, _ = await accounts.keys.create(NewKey(limit=limit))
    now = datetime.now(UTC)
    asked = [
        accounts.ledger.open_meter(inference_of(key, number, now), key, (5, 5))
        for number in range(200)
    ]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    meters = [answer for answer in answers if isinstance(answer, Meter)]
    assert len(meters) == 37
    assert all(isinstance(a, (Meter, QuotaExceededError)) for a in answers)
    assert await accounts.ledger.used(key.key_id) == limit.threshold_nano_usd
    for meter in meters:
        meter.settle(Charge(5, 1, succeeded=True))
    assert await accounts.ledger.used(key.key_id) == 37 * PRICES.cost(5, 1)


async def test_limit_given_while_requests_run(accounts: Accounts) -> None:
    """What an unlimited key runs is held when the key gets a limit, or does not fit and is told."""
    key, _ = await accounts.keys.create(NewKey())
    now = datetime.now(UTC)
    meters = [
        await accounts.ledger.open_meter(inference_of(key, number, now), key, (10, 10))
        for number in range(3)
    ]
    await accounts.keys.update(key.prefix, limit=SpendLimit("day", PRICES.cost(30, 30)))
    await accounts.ledger.hold(key.key_id)
    assert await accounts.ledger.used(key.key_id) == PRICES.cost(30, 30)
    limited = accounts.keys.recheck(key.key_id)
    with pytest.raises(QuotaExceededError):
        await accounts.ledger.open_meter(inference_of(key, 9, now), limited, (1, 0))
    await accounts.keys.update(key.prefix, limit=SpendLimit("day", PRICES.cost(30, 30) - 1))
    with pytest.raises(QuotaExceededError):
        await accounts.ledger.hold(key.key_id)
    for meter in meters:
        meter.settle(Charge(10, 2, succeeded=True))
    assert await accounts.ledger.used(key.key_id) == PRICES.cost(30, 6)


async def test_database_that_cannot_be_written(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reservations are refused, settlements wait and are written when it can be written again."""
    key, _ = await accounts.keys.create(NewKey(limit=SpendLimit("day", 10**6)))
    now = datetime.now(UTC)
    meter = await accounts.ledger.open_meter(inference_of(key, 1, now), key, (5, 5))
    write = accounts.ledger._writer.write

    def fail(*_: object) -> Any:
        raise sqlite3.OperationalError("disk is full")

    monkeypatch.setattr(accounts.ledger._writer, "write", fail)
    meter.settle(Charge(5, 5, succeeded=True))
    with pytest.raises(NestlingError) as caught:
        await accounts.ledger.open_meter(inference_of(key, 2, now), key, (5, 5))
    assert caught.value.code == "usage_unavailable"
    monkeypatch.setattr(accounts.ledger._writer, "write", write)
    async with asyncio.timeout(10):
        while True:
            try:
                assert await accounts.ledger.used(key.key_id) == PRICES.cost(5, 5)
                break
            except NestlingError:
                await asyncio.sleep(0.05)
