"""The contract of a HistoryStore, for any backend: subclass HistoryContract and give it a `history` fixture.

    class TestMine(HistoryContract):
        @pytest.fixture
        def history(self): return MyHistory(limits=HistoryLimits(ttl=60))

Backends that keep time are handed a store whose `ttl` is 60 seconds and a fixture `advance(seconds)`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from tenant_middleware.errors import InvalidInput
from tenant_middleware.isolation.history import HistoryCount, HistoryLimits, HistoryStore, Message
from tenant_middleware.tenant import Tenant

TTL = 60.0
NewHistory = Callable[[HistoryLimits], HistoryStore]
PAIRS = [("acme", "globex"), ("Acme", "acme"), ("acme", "acme2")]


def said(*texts: str) -> list[Message]:
    return [Message("user", text) for text in texts]


def texts(messages: list[Message]) -> list[str]:
    return [message.content for message in messages]


class HistoryContract:
    """What every HistoryStore promises; each test holds two tenants, one store and the same session ids."""

    @pytest.fixture
    def new_history(self) -> NewHistory:
        """Makes an empty store with the given limits; override this."""
        raise LookupError("HistoryContract: override the fixture new_history")

    @pytest.fixture
    def advance(self) -> Callable[[float], None]:
        """Lets time pass for the store; override this."""
        raise LookupError("HistoryContract: override the fixture advance")

    @pytest.fixture
    def history(self, new_history: NewHistory) -> HistoryStore:
        return new_history(HistoryLimits(ttl=TTL))

    @pytest.fixture(params=PAIRS, ids="/".join)
    def two(self, request: pytest.FixtureRequest) -> tuple[Tenant, Tenant]:
        first, second = request.param
        return Tenant(first, "free"), Tenant(second, "free")

    def test_each_tenant_reads_its_own(self, history: HistoryStore, two: tuple[Tenant, Tenant]) -> None:
        a, b = two
        history.append(a, "s", said("canary of a"))
        assert texts(history.read(a, "s")) == ["canary of a"]
        assert history.read(b, "s") == [] and history.sessions(b) == []
        history.append(b, "s", said("canary of b"))
        assert texts(history.read(a, "s")) == ["canary of a"]
        assert texts(history.read(b, "s")) == ["canary of b"]

    def test_a_message_comes_back_as_it_was(self, history: HistoryStore, two: tuple[Tenant, Tenant]) -> None:
        a, _ = two
        sent = [
            Message("system", "be kind", data={"n": [1, None, {"x": "é"}]}),
            Message("user", "line\nbreak \x00 😀", tokens=7),
            Message("assistant", "", data={"calls": [{"id": "1"}]}),
            Message("tool", "42"),
        ]
        assert history.append(a, "s", sent) == 4
        assert history.read(a, "s") == sent

    def test_appends_keep_their_order(self, history: HistoryStore, two: tuple[Tenant, Tenant]) -> None:
        a, b = two
        assert [history.append(a, "s", said(str(i))) for i in range(5)] == [1, 2, 3, 4, 5]
        history.append(b, "s", said("foreign"))
        assert texts(history.read(a, "s")) == list("01234")
        assert texts(history.read(a, "s", last=2)) == ["3", "4"]
        assert history.read(a, "s", last=0) == []
        assert texts(history.read(a, "s", last=99)) == list("01234")

    def test_nothing_is_appended_for_nothing(self, history: HistoryStore, two: tuple[Tenant, Tenant]) -> None:
        a, _ = two
        assert history.append(a, "s", []) == 0
        assert history.sessions(a) == []

    def test_appends_of_threads_stay_whole(self, history: HistoryStore, two: tuple[Tenant, Tenant]) -> None:
        """Each call's messages lie side by side in their order, and no call is lost."""
        a, b = two

        def write(tenant: Tenant, writer: int) -> None:
            for turn in range(10):
                history.append(tenant, "s", said(*(f"{writer}.{turn}.{part}" for part in range(3))))

        threads = [threading.Thread(target=write, args=(t, w)) for t in (a, b) for w in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for tenant in two:
            found = texts(history.read(tenant, "s"))
            assert len(found) == 120
            calls = [found[i : i + 3] for i in range(0, 120, 3)]
            assert all(call == [f"{call[0][:-2]}.{part}" for part in range(3)] for call in calls)
            for writer in range(4):
                turns = [int(call[0].split(".")[1]) for call in calls if call[0].startswith(f"{writer}.")]
                assert turns == list(range(10))

    async def test_appends_of_tasks_stay_whole(self, history: HistoryStore, two: tuple[Tenant, Tenant]) -> None:
        a, b = two

        async def write(tenant: Tenant, writer: int) -> None:
            for turn in range(5):
                await history.aappend(tenant, "s", said(f"{writer}.{turn}.0", f"{writer}.{turn}.1"))

        await asyncio.gather(*(write(t, w) for t in (a, b) for w in range(4)))
        for tenant in two:
            found = texts(await history.aread(tenant, "s"))
            assert len(found) == 40
            assert all(found[i][:-1] == found[i + 1][:-1] for i in range(0, 40, 2))

    def test_replace_swaps_the_whole_session(self, history: HistoryStore, two: tuple[Tenant, Tenant]) -> None:
        a, b = two
        for tenant in two:
            history.append(tenant, "s", said("old", "older"))
        assert history.replace(a, "s", said("new")) == 1
        assert texts(history.read(a, "s")) == ["new"]
        assert texts(history.read(b, "s")) == ["old", "older"]
        assert history.replace(a, "s", []) == 0
        assert history.sessions(a) == [] and history.sessions(b) == ["s"]

    def test_the_oldest_come_off_the_front(self, history: HistoryStore, two: tuple[Tenant, Tenant]) -> None:
        a, b = two
        for tenant in two:
            history.append(tenant, "s", said("1", "2", "3"))
        assert texts(history.drop_oldest(a, "s", 2)) == ["1", "2"]
        assert texts(history.read(a, "s")) == ["3"] and len(history.read(b, "s")) == 3
        assert history.drop_oldest(a, "s", 0) == []
        assert texts(history.drop_oldest(a, "s", 9)) == ["3"]
        assert history.sessions(a) == [] and history.drop_oldest(a, "s", 1) == []

    def test_the_oldest_move_to_another_session(self, history: HistoryStore, two: tuple[Tenant, Tenant]) -> None:
        a, b = two
        for tenant in two:
            history.append(tenant, "s", said("1", "2", "3"))
        assert texts(history.move_oldest(a, "s", "old", 2)) == ["1", "2"]
        assert texts(history.move_oldest(a, "s", "old", 9)) == ["3"]
        assert texts(history.read(a, "old")) == ["1", "2", "3"] and history.sessions(a) == ["old"]
        assert history.move_oldest(a, "s", "old", 1) == [] and history.sessions(b) == ["s"]

    def test_one_message_is_removed_by_position(self, history: HistoryStore, two: tuple[Tenant, Tenant]) -> None:
        a, b = two
        for tenant in two:
            history.append(tenant, "s", said("1", "2", "3"))
        removed = history.remove(a, "s", 1)
        assert removed is not None and removed.content == "2" and texts(history.read(a, "s")) == ["1", "3"]
        assert history.remove(a, "s", 2) is None and len(history.read(b, "s")) == 3
        history.remove(a, "s", 0)
        history.remove(a, "s", 0)
        assert history.sessions(a) == []

    def test_clearing_a_session_leaves_the_others(self, history: HistoryStore, two: tuple[Tenant, Tenant]) -> None:
        a, b = two
        for tenant in two:
            history.append(tenant, "s", said("1", "2"))
            history.append(tenant, "t", said("3"))
        assert history.clear(a, "s") == 2 and history.clear(a, "s") == 0
        assert history.sessions(a) == ["t"] and history.sessions(b) == ["s", "t"]

    def test_clearing_a_tenant_leaves_the_others(self, history: HistoryStore, two: tuple[Tenant, Tenant]) -> None:
        a, b = two
        for tenant in two:
            history.append(tenant, "s", said("1", "2"))
            history.append(tenant, "t", said("3"))
        assert history.count(a) == history.count(b) == HistoryCount(sessions=2, messages=3)
        assert history.clear_tenant(a) == 3
        assert history.count(a) == HistoryCount(0, 0) and history.read(a, "s") == []
        assert history.count(b) == HistoryCount(2, 3)

    def test_hostile_session_ids_do_not_meet(self, history: HistoryStore, two: tuple[Tenant, Tenant]) -> None:
        a, _ = two
        names = ["a:b", "a", "b", "*", "{a}", "a:", ":a", "A", "a ", "s\n", "ключ", "sessions", "x" * 512]
        for name in names:
            history.append(a, name, said(name))
        assert all(texts(history.read(a, name)) == [name] for name in names)
        assert sorted(history.sessions(a)) == sorted(names)
        assert history.clear(a, "*") == 1 and len(history.sessions(a)) == len(names) - 1

    @pytest.mark.parametrize("session", ["", "x" * 513, None, 7])
    def test_a_bad_session_id_is_refused(
        self, history: HistoryStore, two: tuple[Tenant, Tenant], session: object
    ) -> None:
        with pytest.raises(InvalidInput, match="session id"):
            history.append(two[0], session, said("x"))  # type: ignore[arg-type]  # that is the test
        with pytest.raises(InvalidInput, match="session id"):
            history.read(two[0], session)  # type: ignore[arg-type]  # that is the test

    @pytest.mark.parametrize("data", [{"x": object()}, {"x": float("nan")}, {"x": b"bytes"}])
    def test_data_that_is_no_json_is_refused(
        self, history: HistoryStore, two: tuple[Tenant, Tenant], data: dict[str, object]
    ) -> None:
        with pytest.raises(InvalidInput):
            history.append(two[0], "s", [Message("user", "x", data=data)])
        assert history.read(two[0], "s") == []

    def test_a_session_ends_after_its_time(
        self, history: HistoryStore, two: tuple[Tenant, Tenant], advance: Callable[[float], None]
    ) -> None:
        """The time counts from the last write; reading doesn't prolong it."""
        a, b = two
        history.append(a, "s", said("1"))
        history.append(b, "s", said("1"))
        advance(TTL * 0.7)
        history.append(a, "s", said("2"))
        history.read(b, "s")
        advance(TTL * 0.7)
        assert texts(history.read(a, "s")) == ["1", "2"]
        assert history.read(b, "s") == [] and history.sessions(b) == [] and history.count(b) == HistoryCount(0, 0)
        assert history.append(b, "s", said("anew")) == 1

    def test_a_session_is_trimmed_by_tokens(self, new_history: NewHistory, two: tuple[Tenant, Tenant]) -> None:
        a, b = two
        history = new_history(HistoryLimits(max_tokens=10))
        history.append(a, "s", [Message("user", str(i), tokens=4) for i in range(2)])
        assert history.append(a, "s", [Message("user", "2", tokens=4)]) == 2
        assert texts(history.read(a, "s")) == ["1", "2"]
        history.append(b, "s", [Message("user", "huge", tokens=99)])
        assert texts(history.read(b, "s")) == ["huge"], "the last message always stays"
        assert history.replace(a, "s", [Message("user", str(i), tokens=5) for i in range(4)]) == 2

    def test_a_session_is_trimmed_by_messages(self, new_history: NewHistory, two: tuple[Tenant, Tenant]) -> None:
        history = new_history(HistoryLimits(max_messages=2))
        for tenant in two:
            history.append(tenant, "s", said("1", "2", "3"))
            assert texts(history.read(tenant, "s")) == ["2", "3"]

    def test_no_tool_result_leads_a_trimmed_session(self, new_history: NewHistory, two: tuple[Tenant, Tenant]) -> None:
        history = new_history(HistoryLimits(max_messages=2))
        turns = [Message("user", "q"), Message("assistant", ""), Message("tool", "r"), Message("assistant", "a")]
        history.append(two[0], "s", turns)
        assert texts(history.read(two[0], "s")) == ["a"]

    async def test_the_async_twins_see_the_same(self, history: HistoryStore, two: tuple[Tenant, Tenant]) -> None:
        a, b = two
        await history.aappend(a, "s", said("1", "2", "3"))
        await history.aappend(b, "s", said("b"))
        assert await history.aread(a, "s") == await asyncio.to_thread(history.read, a, "s")
        assert texts(await history.aread(a, "s", last=1)) == ["3"]
        assert texts(await history.adrop_oldest(a, "s", 1)) == ["1"]
        assert texts(await history.amove_oldest(a, "s", "t", 1)) == ["2"]
        assert await history.aremove(a, "t", 0) == Message("user", "2")
        await history.aappend(a, "s", said("3b"))
        assert await history.acount(a) == HistoryCount(1, 2) and await history.asessions(a) == ["s"]
        assert await history.areplace(a, "s", said("4")) == 1 and await history.aclear(a, "s") == 1
        await history.aappend(a, "s", said("5"))
        assert await history.aclear_tenant(a) == 1 and await history.asessions(a) == []
        assert texts(await history.aread(b, "s")) == ["b"]
