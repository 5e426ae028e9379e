"""The page, in a real browser against a real server: what it shows, says and refuses to run."""

from __future__ import annotations

import json

import pytest
from browser import CHROMIUM, browsing
from fake_backend import PLAN, RICH, THREE, WAIT, FakeBackend, selected, serving, summary, wait_until

from actors.engine.chat import EngineError
from deployments.events import CandidateDelta, CandidateDone, Clustered, PlanReady
from deployments.gateway import GatewaySettings
from deployments.limits import Keys, LimitSettings, digest_of

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

LIMITS = LimitSettings(requests_per_minute=0, request_burst=1)
IDLE = "!document.querySelector('.turn.busy') && document.querySelector('.turn')"


@pytest.fixture(scope="module")
def tab():
    """(page, backend): one browser and one server for the module."""
    backend = FakeBackend()
    with serving(backend, GatewaySettings(limits=LIMITS, first_event_s=0.1)) as url, browsing(url) as page:
        page.url = url
        yield page, backend


@pytest.fixture
def page(tab):
    page, _ = tab
    page.prefer()
    page.resize(1280, 800)
    page.call("Page.navigate", url=page.url)
    page.wait("window.__fresh === undefined && document.readyState === 'complete'")
    page.eval("window.__fresh = false")
    page.problems.clear()
    return page


@pytest.fixture
def backend(tab):
    tab[1].__dict__.update(FakeBackend().__dict__)
    return tab[1]


def ask(page, text="What is 6 times 7?", effort=None):
    if effort:
        page.eval(f"document.querySelector('input[value={effort}]').click()")
    page.eval("document.getElementById('question').focus()")
    page.type(text)
    page.press("Enter")


def answer_of(page, text="What is 6 times 7?", effort=None):
    ask(page, text, effort)
    page.wait(IDLE)
    page.wait("document.querySelector('.turn:last-child .answer').childNodes.length")


def texts(page, selector):
    return page.eval(f"[...document.querySelectorAll({json.dumps(selector)})].map((node) => node.innerText.trim())")


# --- a question from the first key to the last figure ---------------------------------------------------------------


def test_plan_candidates_votes_and_answer_are_shown(page, backend):
    backend.script = [*THREE[:-1], selected(answer=RICH, candidates=(summary(0),))]
    answer_of(page)
    assert texts(page, ".question > div") == ["What is 6 times 7?"] and page.text(".phase") == "Done"
    assert page.eval("document.querySelectorAll('.plan li').length") == 2
    assert texts(page, ".candidate .pill") == ["chosen", "done", "failed"]
    assert texts(page, ".candidate .says")[:2] == ["42", "42.0"]
    assert "out of memory" in texts(page, ".candidate .says")[2]
    assert texts(page, ".candidate .rate")[0].startswith("6 tokens")
    assert page.eval("document.querySelector('.votes').getAttribute('aria-label')") == "Votes: 2 for 42"
    assert page.text(".why") == "Candidate 1 was chosen: 2 of 3 agree."
    for selector in (".answer math msup", ".answer .formula munderover", ".answer .tok-keyword", ".answer td"):
        assert page.eval(f"document.querySelectorAll('{selector}').length") > 0, selector
    assert "25 tokens" in page.text(".facts") and "policy v3" in page.text(".facts")
    assert page.problems == []


def test_a_single_candidate_streams_into_reasoning_and_answer(page, backend):
    answer_of(page, effort="low")
    assert page.text(".answer") == "It is 42"
    assert page.eval("document.querySelector('.thinking .trace').textContent") == "Six sevens."
    assert page.eval("document.querySelectorAll('.candidate').length") == 0
    assert backend.requests[0].settings.effort == "low"


def test_the_conversation_goes_on_and_can_begin_anew(page, backend):
    answer_of(page, "first")
    answer_of(page, "second")
    assert [m["content"] for m in backend.requests[1].messages] == ["first", "42", "second"]
    page.eval("document.getElementById('new').click()")
    assert page.eval("document.querySelectorAll('.turn').length") == 0
    answer_of(page, "third")
    assert [m["content"] for m in backend.requests[2].messages] == ["third"]


def test_what_happens_is_seen_as_it_happens_and_can_be_stopped(page, backend):
    votes = Clustered((0,), ("42",), (0,), (None,), ("",))
    backend.script = [*THREE[:5], CandidateDelta(1, " and more", 3), votes, WAIT]
    ask(page)
    page.wait("document.querySelector('.votes .open')")
    assert texts(page, ".candidate .pill") == ["done", "writing"]
    page.wait("document.querySelector('.candidate:last-child .says').innerText.includes('and more')")
    assert "1 of 3" in page.text(".phase") and page.eval("!document.getElementById('stop').hidden")
    page.press("Escape")
    page.wait(IDLE)
    wait_until(lambda: backend.closed == 1)
    assert page.text(".phase") == "Stopped" and backend.open == 0
    assert texts(page, ".candidate .pill") == ["done", "stopped early"]
    assert page.eval("document.getElementById('question').value") == "What is 6 times 7?"
    backend.script = None
    page.press("Enter")
    page.wait("document.querySelectorAll('.turn').length === 2 && document.querySelector('.turn:last-child .answer *')")
    assert len(backend.requests[1].messages) == 1  # what was stopped is no part of the conversation


def test_leaving_the_page_stops_the_work(page, backend):
    backend.script = [PLAN, WAIT]
    ask(page)
    page.wait("document.querySelector('.plan li')")
    page.call("Page.navigate", url="about:blank")
    wait_until(lambda: backend.closed == 1)
    assert backend.open == 0


def test_an_error_is_told_in_the_servers_words(page, backend):
    backend.script = [EngineError("out of memory")]
    ask(page)
    page.wait(IDLE)
    assert page.text(".error") == "The model failed: out of memory."
    assert page.eval("document.querySelector('.error').getAttribute('role')") == "alert"
    assert page.eval("document.getElementById('question').value") == "What is 6 times 7?"


def test_programs_show_their_verdicts(page, backend):
    program = "def f(x):\n    return x"
    backend.script = [
        CandidateDelta(0, program, 9),
        CandidateDelta(1, "def f(x): pass", 9),
        CandidateDone(0, program, "stop", 9, 1.0),
        CandidateDone(1, "def f(x): pass", "stop", 9, 1.0),
        Clustered((0, 1), (program, "def f(x): pass"), (0, 1), (True, False), ("", "f(2) is None")),
        selected(answer=f"```python\n{program}\n```"),
    ]
    answer_of(page)
    assert texts(page, ".verdict") == ["passes the examples", "fails the examples"]
    assert page.eval("document.querySelectorAll('.says .tok-keyword').length") == 2


def test_a_key_is_asked_for_and_kept_for_the_tab():
    backend = FakeBackend()
    keys = Keys({digest_of("sesame"): "alice"})
    with serving(backend, GatewaySettings(keys=keys, limits=LIMITS)) as url, browsing(url) as page:
        page.wait("document.getElementById('key-dialog').open")
        assert page.eval("document.activeElement.id") == "key"
        page.type("sesame")
        page.press("Enter")
        page.wait("!document.getElementById('key-dialog').open && document.getElementById('model').hidden")
        answer_of(page)
        assert page.text(".answer") == "42" and page.eval("localStorage.length") == 0


# --- nothing that is shown is run -----------------------------------------------------------------------------------


def test_hostile_text_is_only_text(page, backend):
    evil = (
        "<img src=x onerror='window.pwned=1'><script>window.pwned=1</script> [x](javascript:window.pwned=1) "
        "$\\text{<img src=x onerror=window.pwned=1>}$ `<b>` <svg onload=window.pwned=1>"
    )
    backend.script = [
        PlanReady(evil, (evil, evil), PLAN.usage),
        CandidateDelta(0, evil, 1),
        CandidateDelta(1, evil, 1),
        CandidateDone(0, evil, "stop", 1, 1.0),
        Clustered((0,), (evil,), (0,), (None,), (evil,)),
        selected(answer=f"{evil}\n\n```html\n{evil}\n```\n\n| {evil} | b |\n|---|---|\n| {evil} | c |"),
    ]
    answer_of(page, evil)
    assert "<script>window.pwned=1</script>" in page.text(".answer")
    assert page.eval("window.pwned") is None
    assert page.eval("document.querySelectorAll('.turn :is(img, script, svg, iframe, object, a)').length") == 0
    assert page.problems == []


def test_even_markup_that_got_in_would_not_run(page):
    page.eval("""(() => {
        const attempt = (work) => { try { work(); } catch (error) { return error.name; } return 'allowed'; };
        window.tried = [
            attempt(() => { document.body.innerHTML = '<img src=x onerror="window.pwned=1">'; }),
            attempt(() => eval('window.pwned = 1')),
        ];
        const script = document.createElement('script');
        try { script.textContent = 'window.pwned = 1'; document.head.append(script); } catch { /* refused earlier */ }
    })()""")
    assert page.eval("window.tried") == ["TypeError", "EvalError"] and page.eval("window.pwned") is None


# --- for everyone ---------------------------------------------------------------------------------------------------


def test_it_fits_a_phone(page, backend):
    long = "pneumono" * 40
    answer = f"{RICH}\n\n{long}\n\n$${'x + ' * 80} y$$\n\n`{long}`\n\n| {'a | ' * 30}\n|{'---|' * 31}\n"
    backend.script = [*THREE[:-1], selected(answer=answer)]
    page.resize(390, 844, mobile=True)
    answer_of(page, long)
    assert page.eval("document.documentElement.scrollWidth") <= 390
    small = page.eval("""[...document.querySelectorAll('button')].filter((b) => b.offsetParent &&
        (b.getBoundingClientRect().height < 30 || b.getBoundingClientRect().width < 30)).map((b) => b.outerHTML)""")
    assert small == []


def test_it_follows_the_systems_colours_and_wish_for_stillness(page, backend):
    backend.script = [PLAN, WAIT]
    ask(page)
    page.wait("document.querySelector('.turn.busy')")
    background, animation = (
        "getComputedStyle(document.body).backgroundColor",
        "getComputedStyle(document.querySelector('.dot')).animationName",
    )
    light, moving = page.eval(background), page.eval(animation)
    page.prefer(prefers_color_scheme="dark", prefers_reduced_motion="reduce")
    assert page.eval(background) != light and (moving, page.eval(animation)) == ("pulse", "none")


def test_everything_is_reached_by_keyboard_in_the_order_it_is_read(page, backend):
    answer_of(page)
    page.eval("document.activeElement.blur(); document.querySelector('.skip').focus()")
    seen = []
    for _ in range(12):
        seen.append(page.eval("document.activeElement.id || document.activeElement.className || "
                              "document.activeElement.innerText || document.activeElement.tagName"))  # fmt: skip
        page.press("Tab")
    seen = [name.split("\n")[0] for name in seen[: seen.index("question") + 1]]
    assert seen == ["skip", "new", "Plan", "Candidates", "Trace", "Trace", "Trace", "quiet", "question"]


def test_the_effort_is_chosen_with_the_arrows(page, backend):
    page.eval("document.querySelector('input[name=effort]:checked').focus()")
    page.press("ArrowRight")
    assert page.eval("new FormData(document.getElementById('composer')).get('effort')") == "high"
    assert page.text("#hint") == "A plan, up to eight candidates"


def test_every_control_has_a_name_for_a_screen_reader(page, backend):
    answer_of(page)
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "textbox", "radio", "link", "DisclosureTriangle", "region", "article", "group"}
    controls = [n for n in nodes if not n["ignored"] and n["role"]["value"] in roles - {"group"}]
    assert len(controls) > 10
    assert [n["role"]["value"] for n in controls if not n.get("name", {}).get("value", "").strip()] == []


def test_milestones_are_announced_and_tokens_are_not(page, backend):
    page.eval("""(() => {
        window.said = [];
        const status = document.getElementById('status');
        new MutationObserver(() => window.said.push(status.textContent)).observe(status, {childList: true});
    })()""")
    backend.script = [THREE[0], *(CandidateDelta(0, "word ", 1) for _ in range(50)), 0.05, *THREE[2:]]
    answer_of(page)
    page.wait("window.said.join().includes('Answer: 42')")
    said = page.eval("window.said.join('. ')")
    assert "Votes: 2 for 42" in said and "The plan is ready" in said and "Candidate 3 failed" in said
    assert page.eval("window.said.length") < 8 and "word" not in said
