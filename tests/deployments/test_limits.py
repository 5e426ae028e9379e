"""Keys, token buckets and admission, with a clock that stands still until it is moved."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.errors import UserError
from deployments.limits import (
    MAX_RETRY_S,
    Admission,
    Keys,
    LimitSettings,
    RateLimits,
    Refused,
    TokenBucket,
    check_address,
    is_loopback,
    load_keys,
    parse_keys,
)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def sha(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


# --- keys ---------------------------------------------------------------------------------------------------------


def test_keys_are_known_by_their_digest_and_bear_a_name():
    keys = Keys(parse_keys(f"alice:{sha('a')}, {sha('b').upper()}\n# a comment\nalice:{sha('c')}", "here"))
    assert [keys.owner(key) for key in "abc"] == ["alice", sha("b")[:8], "alice"]
    assert keys.owner("d") is None and keys.owner("") is None and keys.owner(sha("a")) is None
    assert len(keys) == 3 and not Keys({})


def test_a_key_in_clear_is_refused_and_not_repeated():
    with pytest.raises(UserError, match=r"RAYTHINK_API_KEYS: entry 2 is not a SHA-256 digest.*sha256sum") as caught:
        load_keys({"RAYTHINK_API_KEYS": f"{sha('a')} my-secret"})
    assert "my-secret" not in str(caught.value)


def test_keys_of_file_and_environment_come_together(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# team\nbob:{sha('b')}\n")
    keys = load_keys({"RAYTHINK_API_KEYS": f"alice:{sha('a')}", "RAYTHINK_API_KEYS_FILE": str(path)})
    assert (keys.owner("a"), keys.owner("b")) == ("alice", "bob")


@pytest.mark.parametrize("content", [None, b"", b"# nothing\n", b"\xff\xfe"])
def test_a_slip_with_the_keys_file_never_opens_the_api(tmp_path, content):
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="keys"):
        load_keys({"RAYTHINK_API_KEYS_FILE": str(path)})


def test_an_api_without_keys_listens_on_loopback_only():
    assert len(load_keys({})) == 0
    for host in ("127.0.0.1", "localhost", "::1", "127.8.9.1"):
        check_address(host, Keys({}))
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""):
        with pytest.raises(UserError, match="without API keys"):
            check_address(host, Keys({}))
    check_address("0.0.0.0", Keys({sha("a"): "alice"}))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost:8000", True),
        ("127.0.0.1:80", True),
        ("[::1]:8000", True),
        ("LOCALHOST", True),
        ("::ffff:127.0.0.1", True),
        ("evil.example:8000", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("", False),
        ("[::1", False),
        ("10.0.0.1:127", False),
        ("user@127.0.0.1", False),
    ],
)
def test_loopback_hosts(host, expected):
    assert is_loopback(host) is expected


# --- token buckets ------------------------------------------------------------------------------------------------


def test_a_bucket_gives_its_burst_and_then_its_rate():
    clock = Clock()
    bucket = TokenBucket(rate=2, burst=3, clock=clock)
    for _ in range(3):
        assert bucket.wait() == 0.0
        bucket.spend()
    assert bucket.wait() == pytest.approx(0.5)
    clock.now += 0.5
    assert bucket.wait() == 0.0
    clock.now += 1000
    assert bucket.level == 3


def test_a_bucket_in_debt_pays_it_back_first():
    clock = Clock()
    bucket = TokenBucket(rate=10, burst=10, clock=clock)
    bucket.spend(60)
    assert bucket.wait() == pytest.approx(5.1)
    assert bucket.wait(cost=1000) == pytest.approx(6.0)  # never more than a full bucket


@settings(deadline=None)
@given(st.lists(st.floats(0, 5), max_size=60), st.floats(0.1, 10), st.integers(1, 20))
def test_a_bucket_never_gives_more_than_burst_and_rate_allow(gaps, rate, burst):
    clock = Clock()
    bucket = TokenBucket(rate, burst, clock)
    granted = 0
    for gap in gaps:
        clock.now += gap
        if bucket.wait() == 0.0:
            bucket.spend()
            granted += 1
    assert granted <= burst + rate * (clock.now - 100.0) + 1e-6


def test_limits_are_each_keys_own():
    clock = Clock()
    limits = RateLimits(LimitSettings(requests_per_minute=60, request_burst=1), clock)
    limits.charge_request("alice")
    assert limits.remaining("alice") == 0 and limits.remaining("bob") == 1
    limits.charge_request("bob")
    with pytest.raises(Refused, match="60 requests a minute") as caught:
        limits.charge_request("alice")
    assert (caught.value.reason, caught.value.retry_after_s) == ("requests", pytest.approx(1.0))
    clock.now += 1
    limits.charge_request("alice")


def test_tokens_are_paid_afterwards():
    clock = Clock()
    limits = RateLimits(LimitSettings(tokens_per_minute=600), clock)
    limits.charge_request("alice")
    limits.charge_tokens("alice", 1000)
    with pytest.raises(Refused, match="600 tokens a minute") as caught:
        limits.charge_request("alice")
    assert caught.value.retry_after_s == pytest.approx(40.1)
    clock.now += 41
    limits.charge_request("alice")


def test_no_limit_where_the_setting_is_zero():
    limits = RateLimits(LimitSettings(requests_per_minute=0, request_burst=1), Clock())
    for _ in range(100):
        limits.charge_request("alice")
        limits.charge_tokens("alice", 10**6)
    assert limits.remaining("bob") == 1


def test_a_key_runs_a_bounded_number_of_requests():
    limits = RateLimits(LimitSettings(concurrent_per_key=2), Clock())
    with limits.running("alice"), limits.running("alice"):
        with pytest.raises(Refused, match="2 requests running"), limits.running("alice"):
            pass
        with limits.running("bob"):
            pass
    with pytest.raises(RuntimeError), limits.running("alice"):
        raise RuntimeError
    with limits.running("alice"), limits.running("alice"):
        assert True  # both places were given back


def test_retry_after_is_bounded():
    assert Refused("x", "x", 1e9).retry_after_s == MAX_RETRY_S and Refused("x", "x", 0).retry_after_s == 1.0


# --- admission ----------------------------------------------------------------------------------------------------


class Crowd:
    """Requests that hold their place until they are told to go."""

    def __init__(self, admission: Admission):
        self.admission, self.inside, self.gates, self.tasks = admission, [], {}, {}

    async def come(self, name: str, weight: int = 1, wait_s: float = 100.0) -> asyncio.Task:
        self.gates[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._stay(name, weight, wait_s))
        self.tasks[name].add_done_callback(lambda task: task.cancelled() or task.exception())  # refusals may be ignored
        await self.settle()
        return self.tasks[name]

    async def go(self, name: str) -> None:
        self.gates[name].set()
        await self.settle()

    async def _stay(self, name, weight, wait_s):
        async with self.admission.slot(weight, wait_s):
            self.inside.append(name)
            await self.gates[name].wait()
            self.inside.remove(name)

    @staticmethod
    async def settle():
        for _ in range(5):
            await asyncio.sleep(0)


def crowded(capacity=2, max_waiting=2, clock=None):
    return Crowd(Admission(capacity, max_waiting, clock or Clock()))


def test_admission_is_first_come_first_served():
    async def scene():
        crowd = crowded(capacity=2)
        for name in "abcd":
            await crowd.come(name)
        assert crowd.inside == ["a", "b"] and crowd.admission.waiting == 2
        await crowd.go("b")
        assert crowd.inside == ["a", "c"]
        await crowd.go("a")
        await crowd.go("c")
        await crowd.go("d")
        assert (crowd.admission.weight, crowd.admission.waiting) == (0, 0)

    asyncio.run(scene())


def test_a_heavy_request_is_not_overtaken_and_a_too_heavy_one_runs_alone():
    async def scene():
        crowd = crowded(capacity=4)
        await crowd.come("light", 3)
        await crowd.come("huge", 100)
        await crowd.come("late", 1)
        assert crowd.inside == ["light"]
        await crowd.go("light")
        assert crowd.inside == ["huge"] and crowd.admission.weight == 4
        await crowd.go("huge")
        assert crowd.inside == ["late"]
        await crowd.go("late")

    asyncio.run(scene())


def test_a_full_queue_refuses_with_an_estimate():
    async def scene():
        clock = Clock()
        crowd = crowded(capacity=1, max_waiting=1, clock=clock)
        for _ in range(30):  # the running mean of durations goes to 10 s
            async with crowd.admission.slot(1, 0):
                clock.now += 10
        await crowd.come("a")
        await crowd.come("b")
        refused = await crowd.come("c")
        assert isinstance(refused.exception(), Refused) and refused.exception().reason == "queue_full"
        assert refused.exception().retry_after_s == pytest.approx(30, rel=0.01)
        await crowd.go("a")
        await crowd.go("b")

    asyncio.run(scene())


def test_waiting_ends():
    async def scene():
        crowd = crowded(capacity=1)
        await crowd.come("a")
        late = await crowd.come("b", wait_s=0.0)
        with pytest.raises(Refused, match="no place within 0 s"):
            await late
        await crowd.come("c")
        await crowd.go("a")
        assert crowd.inside == ["c"]
        await crowd.go("c")
        assert crowd.admission.weight == 0

    asyncio.run(scene())


@pytest.mark.parametrize("granted_first", [False, True])
def test_who_leaves_the_queue_takes_nothing_along(granted_first):
    """Also when the turn comes in the very tick in which the client goes."""

    async def scene():
        crowd = crowded(capacity=1)
        await crowd.come("a")
        leaving = await crowd.come("b")
        await crowd.come("c")
        if granted_first:
            crowd.gates["a"].set()
            await asyncio.sleep(0)
        leaving.cancel()
        crowd.gates["a"].set()
        await crowd.settle()
        assert leaving.cancelled() and crowd.inside == ["c"]
        await crowd.go("c")
        assert (crowd.admission.weight, crowd.admission.waiting) == (0, 0)

    asyncio.run(scene())


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_admission_never_exceeds_its_capacity_nor_loses_weight(data):
    async def scene():
        crowd = crowded(capacity=5, max_waiting=4)
        weights = {}
        for number in range(data.draw(st.integers(1, 25))):
            action = data.draw(st.sampled_from(["come", "come", "go", "cancel"]))
            if action == "come":
                weights[str(number)] = data.draw(st.integers(1, 7))
                await crowd.come(str(number), weights[str(number)])
            elif action == "go" and crowd.inside:
                await crowd.go(data.draw(st.sampled_from(crowd.inside)))
            elif action == "cancel" and crowd.tasks:
                data.draw(st.sampled_from(sorted(crowd.tasks.items())))[1].cancel()
                await crowd.settle()
                crowd.inside = [name for name in crowd.inside if not crowd.tasks[name].done()]
            held = sum(min(weights[name], 5) for name in crowd.inside)
            assert crowd.admission.weight == held <= 5 and crowd.admission.waiting <= 4
        for task in crowd.tasks.values():
            task.cancel()
        await asyncio.gather(*crowd.tasks.values(), return_exceptions=True)
        assert (crowd.admission.weight, crowd.admission.waiting) == (0, 0)

    asyncio.run(scene())
