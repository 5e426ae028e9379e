"""What the page makes of TeX, Markdown, Python and event streams, in a real browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browser import CHROMIUM, browsing
from fake_backend import RICH, FakeBackend, serving

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def page():
    with serving(FakeBackend()) as url, browsing(url) as page:
        yield page


def rendered(page, module, call):
    """The HTML of what a renderer makes."""
    return page.eval(f"""(async () => {{
        const [{{ build }}, renderer] = await Promise.all([import('/ui/dom.js'), import('/ui/{module}.js')]);
        const box = document.createElement('div');
        box.append(...[renderer.{call}].flat().map((tree) => build(tree)));
        return [box.innerHTML, box.textContent];
    }})()""")


# fmt: off
TEX = [
    (r"\frac12", "<mfrac><mn>1</mn><mn>2</mn></mfrac>"), ("x^10", "<msup><mi>x</mi><mn>1</mn></msup><mn>0</mn>"),
    (r"\sqrt[3]{x}", "<mroot><mi>x</mi><mn>3</mn></mroot>"),
    ("a_1^2", "<msubsup><mi>a</mi><mn>1</mn><mn>2</mn></msubsup>"),
    ("f''", "<msup><mi>f</mi><mo>′′</mo></msup>"), (r"\alpha \le \infty", "<mi>α</mi><mo>≤</mo><mi>∞</mi>"),
    (r"\mathbb{R}", "<mi>ℝ</mi>"), (r"\text{if } x", "<mtext>if&nbsp;</mtext>"),
    (r"\boxed{4}", '<mrow class="boxed"><mn>4</mn></mrow>'), (r"1{,}000", "<mn>1</mn><mo>,</mo><mn>000</mn>"),
    (r"\begin{cases}1&a\\2&b\end{cases}",
     '<mtr><mtd class="left"><mn>2</mn></mtd><mtd class="left"><mi>b</mi></mtd></mtr>'),
    (r"\left[\frac a b\right)", '<mo stretchy="true" fence="true">[</mo>'), (r"\binom nk", 'linethickness="0"'),
    (r"\sum_{i}^{n}", "<munderover>"), (r"\int_0^1", "<msubsup>"), (r"\lim_{x\to0}", "<munder>"),
    (r"\vec{v}", "<mover"),
    (r"\not=", "=\u0338"), (r"50\%", "<mtext>%</mtext>"), (r"\unknown{x}", '<mtext class="unknown">\\unknown</mtext>'),
    (r"\operatorname{lcm}(a)", ">lcm</mo>"), (r"a \equiv b \pmod{7}", "<mi>mod</mi>"), ("{" * 300, "<code"),
    (r"\frac{", "<mfrac>"), (r"\left(", "<mo"), ("}", "<math"), ("^", "<msup>"), (r"\begin{matrix}a&", "<mtable"),
    (r"a < b \& c", "<mo>&lt;</mo>"), (r"\\", "<math"), ("", "<math"), (r"\sqrt" * 200, "<code"),
]
MARKDOWN = [
    ("# Title", "<h3>Title</h3>"), ("a **b** *c* `d`", "a <strong>b</strong> <em>c</em> <code>d</code>"),
    ("- a\n- b\n  1. c", "<ul><li>a</li><li>b<ol><li>c</li></ol></li></ul>"), ("3. x", '<ol start="3"><li>x</li></ol>'),
    ("> q", "<blockquote><p>q</p></blockquote>"), ("costs $5 and $6", "costs $5 and $6"),
    ("snake_case_word", "snake_case"),
    ("```\nopen", "<code><span"), ("$$\nx\n$$", '<div class="formula"><math display="block"'), (r"\(x\)", "<math"),
    (r"\[x\]", '<math display="block"'), (r"is \boxed{7}.", 'class="boxed"'), ("2 * 3 * 4", "2 * 3 * 4"),
    ("---", "<hr>"),
    ("[a](https://x.org)", '<a href="https://x.org"'), ("[a](javascript:x)", "[a](javascript:x)"), ("a\nb", "a<br>b"),
    ("<b>x</b>", "&lt;b&gt;x&lt;/b&gt;"), ("", ""), ("$", "<p>$</p>"), ("**", "<p>**</p>"), (r"\*x\*", "<p>*x*</p>"),
]
# fmt: on


@pytest.mark.parametrize(("tex", "expected"), TEX)
def test_tex_becomes_mathml(page, tex, expected):
    assert expected in rendered(page, "math", f"texToMathML({json.dumps(tex)})")[0]


@pytest.mark.parametrize(("text", "expected"), MARKDOWN)
def test_markdown_becomes_html(page, text, expected):
    assert expected in rendered(page, "markdown", f"markdown({json.dumps(text)})")[0]


def test_every_beginning_of_a_text_renders(page):
    """A stream shows every one of them."""
    text = RICH + " - a *b* [c](https://d.e) **f** > g " * 3
    count = page.eval(f"""(async () => {{
        const {{ markdown }} = await import('/ui/markdown.js');
        const text = {json.dumps(text)};
        return [...text].map((_, end) => markdown(text.slice(0, end))).filter(Array.isArray).length;
    }})()""")
    assert count == len(text)


def test_highlighting_loses_no_text(page):
    sources = [
        Path(__file__).read_text(encoding="utf-8"),
        "'''open",
        '"\\',
        "x = f'{y!r:>{w}}'  # é",
        "0x",
        "@",
        "\r\n\t",
    ]
    for source in sources:
        html, text = rendered(page, "highlight", f"highlightPython({json.dumps(source)})")
        assert text == source
    assert '<span class="tok-string">' in html or "tok-" not in html


def test_events_are_read_however_the_stream_is_cut(page):
    stream = 'data: {"a":1}\n\n: keep-alive\n\ndata: {"b":"é"}\r\n\r\ndata: [DONE]\n\n'
    found = page.eval(f"""(async () => {{
        const {{ eventParser }} = await import('/ui/api.js');
        const text = {json.dumps(stream)}, all = [];
        for (let size = 1; size <= text.length; size += 1) {{
            const parse = eventParser((data) => all.push(data));
            for (let at = 0; at < text.length; at += size) parse(text.slice(at, at + size));
        }}
        return [...new Set(all)].concat(all.length / text.length);
    }})()""")
    assert found == ['{"a":1}', '{"b":"é"}', "[DONE]", 3]
