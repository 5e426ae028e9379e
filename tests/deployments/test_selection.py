"""The vote: who wins, when that is certain, and that stopping early costs nothing. By examples and by simulation."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from actors.selection import Candidate, Opinion, decide, p_stays_ahead, pairs, tournament


def done(index: int, cluster: int = -1, **known) -> Candidate:
    return Candidate(index, "finished", cluster, **known)


def votes(*clusters: int | None) -> list[Candidate]:
    """A finished candidate for each cluster; None: one that still runs."""
    return [Candidate(i) if cluster is None else done(i, cluster) for i, cluster in enumerate(clusters)]


# --- who wins -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidates", "leader", "why"),
    [
        (votes(0, 1, 1), 1, "2 of 3 agree"),
        (votes(0, 0, 1, 2), 0, "2 of 4 agree"),
        ([done(0, 0), Candidate(1, "failed"), Candidate(2, "late")], 0, "the only candidate that finished"),
        ([done(0, 0, passed=False), done(1, 0, passed=False), done(2, 1, passed=True)], 2, "the only one that passed"),
        ([done(0, 0, passed=True), done(1, 1, passed=True), done(2, 1, passed=True)], 1, "passed the question's"),
        ([done(0, 0, passed=False), done(1, 1, passed=False), done(2, 1, passed=False)], 1, "none passed"),
        ([done(0), done(1, 0), done(2)], 1, "the only one that states an answer"),
        ([done(0, complete=False), done(1, complete=False), done(2)], 2, "the only one that is left"),
        ([done(0, complete=False)], 0, "the only candidate that finished; cut off"),
        ([done(0, 0, confidence=-0.5), done(1, 1, confidence=-0.1)], 1, "2 answers are level"),
        ([done(0, 0, confidence=-0.1), done(1, 1, confidence=-0.5), done(2, 1, confidence=-0.9)], 1, "2 of 3"),
        ([done(0, 0), done(1, 0, confidence=-0.3), done(2, 0, confidence=-0.2)], 2, "3 of 3 agree"),
        ([done(0, 0, complete=False, confidence=-0.1), done(1, 0, confidence=-0.4)], 1, "2 of 2 agree"),
    ],
)
def test_the_winner_and_why(candidates: list[Candidate], leader: int, why: str) -> None:
    decision = decide(candidates)
    assert decision.leader == leader and why in decision.why and decision.decided


def test_nobody_finished() -> None:
    assert decide([Candidate(0, "failed"), Candidate(1, "late")]).leader is None
    assert decide([Candidate(0, "failed"), Candidate(1, "late")]).decided
    assert not decide([Candidate(0, "failed"), Candidate(1)]).decided
    assert decide([]).leader is None


def test_a_tie_names_one_candidate_of_each_level_answer() -> None:
    candidates = [done(0, 0), done(1, 0, confidence=-0.1), done(2, 1), done(3, 1), done(4, 2)]
    decision = decide(candidates)
    assert decision.tied == (1, 2) and decision.votes == 2 and decision.voters == 5
    assert decide([done(i) for i in range(6)]).tied == (0, 1, 2, 3)  # no more than a judge can compare
    assert decide([done(i, complete=False) for i in range(2)]).tied == ()
    assert decide(votes(0, 0, 1)).tied == ()


def test_the_judge_breaks_ties_and_nothing_else() -> None:
    level = [done(0, 0, confidence=-0.1), done(1, 1, confidence=-0.9)]
    assert decide(level, points={1: 1.0, 0: 0.0}).leader == 1
    assert "the judge preferred it" in decide(level, points={1: 1.0, 0: 0.0}).why
    assert decide(level, points={0: 0.5, 1: 0.5}).leader == 0  # no preference: confidence
    assert decide(votes(0, 0, 1), points={2: 5.0}).leader == 0
    failed = [done(0, 0, passed=True), done(1, 1, passed=False)]
    assert decide(failed, points={1: 5.0}).leader == 0


# --- when it is decided ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidates", "decided"),
    [
        (votes(0, None, None), False),
        (votes(0, 0, None), True),
        (votes(0, 1, None), False),
        (votes(0, 0, 1, None), False),  # the last vote could make it a tie
        (votes(0, 0, 0, 1, None), True),
        (votes(0, 0, 0, 0, None, None, None, None), False),
        (votes(0, 0, 0, 0, 0, None, None, None), True),
        (votes(0, 1, 2), True),
        ([done(0, 0, passed=True), done(1, 0, passed=True), Candidate(2)], True),
        ([done(0, 0, passed=False), done(1, 0, passed=False), Candidate(2)], False),  # the last one may pass
        ([done(0, 0, passed=None), done(1, 0, passed=None), done(2, 1, passed=False), Candidate(3)], False),
        ([done(0), done(1), Candidate(2)], False),  # the last one may state an answer
    ],
)
def test_certainty(candidates: list[Candidate], decided: bool) -> None:
    assert decide(candidates).decided is decided


def test_the_adaptive_rule_stops_when_it_is_likely_enough() -> None:
    three_of_eight = votes(0, 0, 0, None, None, None, None, None)
    assert not decide(three_of_eight).decided
    assert decide(three_of_eight, stop_at=0.95).decided
    assert not decide(votes(0, 0, 0, 1, None, None, None, None), stop_at=0.95).decided
    assert not decide(votes(0, 0, None, None, None, None, None, None), stop_at=0.95).decided
    with pytest.raises(ValueError, match="stop_at"):
        decide(three_of_eight, stop_at=0.5)


@settings(deadline=None)
@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12))
def test_the_probability_is_that_of_the_beta_binomial(a: int, b: int, r: int) -> None:
    if b > a:
        a, b = b, a
    expected = sum(stats.betabinom.pmf(k, r, a + 1, b + 1) for k in range(r + 1) if a + k > b + r - k)
    assert float(p_stays_ahead(a, b, r)) == pytest.approx(expected, abs=1e-9)
    assert (p_stays_ahead(a, b, r) == 1) is (a - b > r)


def test_with_many_to_come_it_is_the_beta_criterion() -> None:
    """Adaptive consistency's P(p > 1/2) for p in Beta(a+1, b+1)."""
    for a, b in [(4, 0), (6, 2), (3, 2)]:
        assert float(p_stays_ahead(a, b, 2001)) == pytest.approx(stats.beta.sf(0.5, a + 1, b + 1), abs=2e-3)


# --- simulation -----------------------------------------------------------------------------------------------------


def draw(rng: random.Random, n: int) -> list[Candidate]:
    """The finished candidates of a random question, in the order in which they finish. Cluster 0 is right."""
    right, wrong = rng.uniform(0.3, 0.9), rng.randint(2, 6)
    failing, tested = rng.uniform(0, 0.3), rng.random() < 0.3
    drawn = []
    for index in range(n):
        cluster = 0 if rng.random() < right else rng.randint(1, wrong)
        state = rng.choice(["failed", "late"]) if rng.random() < failing else "finished"
        passed = (cluster == 0 or rng.random() < 0.2) if tested else None
        drawn.append(Candidate(index, state, cluster, passed, rng.gauss(-0.5 - 0.1 * (cluster > 0), 0.2)))
    return drawn


def play(drawn: list[Candidate], stop_at: float) -> tuple[int | None, int]:
    """(cluster of the winner, candidates waited for) when the candidates come in one after the other."""
    for ended in range(len(drawn) + 1):
        seen = [*drawn[:ended], *(Candidate(candidate.index) for candidate in drawn[ended:])]
        decision = decide(seen, stop_at=stop_at)
        if decision.decided:
            break
    return (None if decision.leader is None else drawn[decision.leader].cluster), ended


@pytest.mark.parametrize("n", [3, 8])
def test_stopping_on_certainty_never_changes_the_winner(n: int) -> None:
    rng = random.Random(n)
    spent = 0
    for _ in range(400):
        drawn = draw(rng, n)
        full = decide(drawn)
        winner, waited = play(drawn, 1.0)
        assert winner == (None if full.leader is None else drawn[full.leader].cluster)
        spent += waited
    assert spent < 0.95 * 400 * n


def test_stopping_on_likelihood_spends_less_and_loses_little() -> None:
    rng = random.Random(5)
    questions = [draw(rng, 8) for _ in range(300)]
    exact, adaptive = ([play(drawn, stop_at) for drawn in questions] for stop_at in (1.0, 0.95))
    assert sum(waited for _, waited in adaptive) < 0.9 * sum(waited for _, waited in exact)
    changed = sum(a[0] != b[0] for a, b in zip(exact, adaptive, strict=True))
    assert changed <= 0.05 * len(questions)


def test_the_vote_is_right_more_often_than_one_candidate() -> None:
    rng = random.Random(7)
    questions = [[c for c in draw(rng, 8) if c.state == "finished"] for _ in range(600)]
    questions = [drawn for drawn in questions if drawn]
    single = sum(drawn[0].cluster == 0 for drawn in questions)
    winners = [next(c for c in drawn if c.index == decide(drawn).leader) for drawn in questions]
    assert sum(winner.cluster == 0 for winner in winners) > 1.2 * single


clusters = st.one_of(st.none(), st.integers(0, 3))
states = st.sampled_from(["running", "finished", "finished", "failed", "late", "cancelled"])


@st.composite
def candidates(draw_: st.DrawFn) -> list[Candidate]:
    return [
        Candidate(
            index,
            draw_(states),
            draw_(st.integers(-1, 3)),
            draw_(st.sampled_from([None, True, False])),
            draw_(st.sampled_from([None, -0.1, -0.2])),
            draw_(st.booleans()),
        )
        for index in range(draw_(st.integers(1, 8)))
    ]


@settings(deadline=None)
@given(candidates(), st.randoms(), st.permutations(range(4)), st.sampled_from([0.9, 1.0]))
def test_neither_order_nor_the_clusters_numbers_matter(
    given_: list[Candidate], rng: random.Random, names: list[int], stop_at: float
) -> None:
    renamed = [replace(c, cluster=names[c.cluster] if c.cluster >= 0 else -1) for c in given_]
    rng.shuffle(renamed)
    assert decide(renamed, stop_at=stop_at) == decide(given_, stop_at=stop_at)


@settings(deadline=None)
@given(candidates())
def test_only_who_finished_can_win_and_someone_does(given_: list[Candidate]) -> None:
    decision = decide(given_)
    finished = {c.index for c in given_ if c.state == "finished"}
    assert (decision.leader in finished) if finished else (decision.leader is None)
    assert set(decision.tied) <= finished
    if not any(c.state == "running" for c in given_):
        assert decision.decided


# --- judging --------------------------------------------------------------------------------------------------------


def test_every_pair_is_asked_in_both_orders() -> None:
    assert pairs((3, 5, 6)) == [(3, 5), (5, 3), (3, 6), (6, 3), (5, 6), (6, 5)]


@pytest.mark.parametrize(
    ("choices", "points"),
    [
        ((1, 1), {1: 1.0, 2: 0.0}),
        ((1, 2), {1: 0.5, 2: 0.5}),  # whoever stands first: no preference
        ((2, None), {1: 0.0, 2: 1.0}),
        ((None, None), {1: 0.5, 2: 0.5}),
    ],
)
def test_points_of_a_pair(choices: tuple[int | None, int | None], points: dict[int, float]) -> None:
    assert tournament([Opinion(1, 2, choices[0]), Opinion(2, 1, choices[1])]) == points


def test_a_judge_that_always_takes_the_first_decides_nothing() -> None:
    points = tournament(Opinion(first, second, first) for first, second in pairs((0, 1, 2, 3)))
    assert set(points.values()) == {1.5}


@settings(deadline=None)
@given(st.permutations(range(4)))
def test_a_consistent_judge_puts_its_favourite_first(order: list[int]) -> None:
    opinions = [Opinion(a, b, min(a, b, key=order.index)) for a, b in pairs((0, 1, 2, 3))]
    points = tournament(opinions)
    assert sorted(points, key=lambda index: -points[index]) == order
    assert points == tournament(reversed(opinions))
