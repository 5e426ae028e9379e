// TeX to MathML: the part of TeX's mathematics that answers are written in. What is not known is shown as it was
// written, so a formula never disappears and never breaks the page.

import { node } from "./dom.js";
import { ACCENTS, FUNCTIONS, LARGE, LETTERS, OPERATORS, SPACES, UNDER, inAlphabet, isAlphabet } from "./symbols.js";

const MAX_DEPTH = 80;
const TOKEN = /\\(?:operatorname\*|[a-zA-Z]+|[\s\S])|\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:\.\d+)?|\s+|[\s\S]/gu;
const FENCES = { "(": "(", ")": ")", "[": "[", "]": "]", "|": "|", "/": "/", "\\{": "{", "\\}": "}", "\\|": "‖", "<": "⟨", ">": "⟩" };
const MATRICES = { pmatrix: "()", bmatrix: "[]", Bmatrix: "{}", vmatrix: "||", Vmatrix: "‖‖", matrix: "  ", smallmatrix: "  ", array: "  ", cases: "{ ", dcases: "{ ", rcases: " }" };
const ALIGNED = /^(?:align|aligned|alignat|split|gather|gathered|equation|eqnarray|multline)\*?$/;
const SILENT = new Set(["displaystyle", "textstyle", "scriptstyle", "limits", "nolimits", "nonumber", "hline", "notag", "left.", "hfill"]);
const SIZES = /^\\(?:[bB]igg?[lrm]?)$/;
const TEXTS = new Set(["text", "textrm", "textbf", "textit", "texttt", "mbox", "mathrm", "mathsf", "mathtt", "mathit", "operatorname", "operatorname*"]);
const FRACTIONS = new Set(["frac", "dfrac", "tfrac", "cfrac"]);
const BRACES = { overline: ["mover", "‾"], underline: ["munder", "_"], overbrace: ["mover", "⏞"], underbrace: ["munder", "⏟"] };

const mo = (text, attrs = {}) => node("mo", attrs, [text]);
const row = (children) => (children.length === 1 ? children[0] : node("mrow", {}, children));
const fence = (text) => mo(text, { stretchy: "true", fence: "true" });

/** A <math> tree of `tex`; `display` sets it on a line of its own. */
export function texToMathML(tex, display = false) {
  const attrs = { display: display ? "block" : "inline", alttext: tex };
  try {
    return node("math", attrs, [row(new Parser(tex).expression(() => false))]);
  } catch (error) {
    if (!(error instanceof TooDeep)) throw error;
    return node("code", { class: "tex" }, [tex]);
  }
}

class TooDeep extends Error {}

class Parser {
  constructor(tex) {
    this.tokens = tex.match(TOKEN) ?? [];
    this.at = 0;
    this.depth = 0;
  }

  /** The next token that is not space (null at the end), without taking it. */
  peek() {
    while (/^\s/.test(this.tokens[this.at] ?? "")) this.at += 1;
    return this.tokens[this.at] ?? null;
  }

  take() {
    const token = this.peek();
    this.at += 1;
    return token;
  }

  /** Nodes up to a token for which `ends` holds (not taken) or the end. */
  expression(ends) {
    if (++this.depth > MAX_DEPTH) throw new TooDeep();
    const nodes = [];
    while (this.peek() !== null && !ends(this.peek())) {
      const atom = this.scripted();
      if (atom) nodes.push(atom);
    }
    this.depth -= 1;
    return nodes;
  }

  /** An atom with the scripts that follow it. */
  scripted() {
    const start = this.peek();
    const base = /^[\^_']$/.test(start) ? row([]) : this.atom();
    if (base === null) return null;
    let below = null;
    let above = null;
    for (let token = this.peek(); token === "^" || token === "_" || token === "'"; token = this.peek()) {
      if (token === "'") above = row([...(above ? [above] : []), this.primes()]);
      else {
        this.take();
        const script = this.argument();
        if (token === "_") below = below ? row([below, script]) : script;
        else above = above ? row([above, script]) : script;
      }
    }
    if (!below && !above) return base;
    const [both, lower, upper] = UNDER.has(start?.replace("\\", "")) || base.under
      ? ["munderover", "munder", "mover"] : ["msubsup", "msub", "msup"];
    if (below && above) return node(both, {}, [base, below, above]);
    return below ? node(lower, {}, [base, below]) : node(upper, {}, [base, above]);
  }

  primes() {
    let text = "";
    while (this.peek() === "'") {
      this.take();
      text += "′";
    }
    return mo(text);
  }

  /** What a command applies to: a group or one atom. A number gives its first digit, as in TeX. */
  argument() {
    const token = this.peek();
    if (token === null || token === "}") return row([]);
    if (/^\d{2,}|^\d\./.test(token)) {
      this.tokens.splice(this.at, 1, token[0], token.slice(1));
      this.at += 1;
      return node("mn", {}, [token[0]]);
    }
    if (++this.depth > MAX_DEPTH) throw new TooDeep();
    const atom = this.atom() ?? row([]);
    this.depth -= 1;
    return atom;
  }

  /** The text of a group, as written. */
  raw() {
    if (this.peek() !== "{") return this.take() ?? "";
    this.at += 1;
    let text = "";
    for (let depth = 1; this.at < this.tokens.length; this.at += 1) {
      const token = this.tokens[this.at];
      if (token === "{") depth += 1;
      if (token === "}" && --depth === 0) break;
      text += token;
    }
    this.at += 1;
    return text;
  }

  atom() {
    const token = this.take();
    if (token === "{") return this.group();
    if (token === "}" || token === "&") return null; // one too many
    if (token.startsWith("\\")) return this.command(token);
    if (/^\d/.test(token)) return node("mn", {}, [token]);
    if (/^\p{L}/u.test(token)) return node("mi", {}, [token]);
    if (token === "~") return node("mspace", { width: "0.333em" });
    if (token === "%") return mo("%", { lspace: "0em" });
    if (/[()[\]|]/.test(token)) return mo(token, { stretchy: "false" });
    if (token === "-") return mo("−");
    return token === "*" ? mo("∗") : mo(token);
  }

  group() {
    const nodes = this.expression((token) => token === "}");
    this.take();
    return row(nodes);
  }

  command(token) {
    const name = token.slice(1);
    if (LETTERS.has(name)) return node("mi", /^\p{Lu}/u.test(LETTERS.get(name)) ? { mathvariant: "normal" } : {}, [LETTERS.get(name)]);
    if (OPERATORS.has(name)) return mo(OPERATORS.get(name), /^[lr]?[vV]ert$/.test(name) ? { stretchy: "false" } : {});
    if (LARGE.has(name)) return mo(LARGE.get(name), UNDER.has(name) ? { movablelimits: "true" } : {});
    if (FUNCTIONS.has(name)) return this.function(name);
    if (SPACES.has(name) || name === " ") return node("mspace", { width: SPACES.get(name) ?? "0.333em" });
    if (FRACTIONS.has(name)) return this.fraction(name);
    if (TEXTS.has(name)) return this.text(name);
    if (isAlphabet(name)) return node("mi", {}, [inAlphabet(name, this.raw())]);
    if (ACCENTS.has(name)) return node("mover", { accent: "true" }, [this.argument(), mo(ACCENTS.get(name), { stretchy: `${/^wide|^over/.test(name)}` })]);
    if (Object.hasOwn(BRACES, name)) return this.brace(name);
    if (SIZES.test(token)) return fence(this.delimiter());
    if (SILENT.has(name)) return null;
    return this.structure(name, token);
  }

  structure(name, token) {
    switch (name) {
      case "sqrt": return this.root();
      case "binom": case "dbinom": case "tbinom":
        return row([mo("("), node("mfrac", { linethickness: "0" }, [this.argument(), this.argument()]), mo(")")]);
      case "left": return this.fenced();
      case "right": this.delimiter(); return null;
      case "middle": return fence(this.delimiter());
      case "begin": return this.environment();
      case "end": this.raw(); return null;
      case "boxed": case "fbox": return node("mrow", { class: "boxed" }, [this.argument()]);
      case "not": return this.negated();
      case "overset": case "stackrel": { const over = this.argument(); return node("mover", {}, [this.argument(), over]); }
      case "underset": { const under = this.argument(); return node("munder", {}, [this.argument(), under]); }
      case "pmod": return row([node("mspace", { width: "0.5em" }), mo("(", { stretchy: "false" }), node("mi", {}, ["mod"]), node("mspace", { width: "0.333em" }), this.argument(), mo(")", { stretchy: "false" })]);
      case "bmod": case "mod": return mo("mod", { lspace: "0.222em", rspace: "0.222em" });
      case "color": case "textcolor": this.raw(); return name === "color" ? null : this.argument();
      case "phantom": return node("mphantom", {}, [this.argument()]);
      case "tag": return node("mtext", {}, [` (${this.raw()})`]);
      case "label": this.raw(); return null;
      case "\\": return node("mspace", { linebreak: "newline" });
      case "{": case "}": return mo(name, { stretchy: "false" });
      case "|": return mo("‖", { stretchy: "false" });
      case "%": case "$": case "#": case "&": case "_": return node("mtext", {}, [name]);
      default: return node("mtext", { class: "unknown" }, [token]);
    }
  }

  function(name) {
    const attrs = { form: "prefix", lspace: "0.1em", rspace: /^[({[\\^_]/.test(this.peek() ?? "(") ? "0em" : "0.167em" };
    if (UNDER.has(name)) attrs.movablelimits = "true";
    return mo(name, attrs);
  }

  fraction(name) {
    const parts = [this.argument(), this.argument()];
    const fraction = node("mfrac", {}, parts);
    return name === "dfrac" || name === "cfrac" ? node("mstyle", { displaystyle: "true" }, [fraction]) : fraction;
  }

  text(name) {
    const text = this.raw().replace(/\\([%$#&_{}])/g, "$1").replace(/^\s+|\s+$/g, "\u00a0");
    if (name.startsWith("operatorname")) return Object.assign(this.function(text), { under: name.endsWith("*") });
    const attrs = { textbf: { class: "bold" }, textit: { class: "italic" }, mathit: { class: "italic" }, texttt: { class: "mono" }, mathtt: { class: "mono" } }[name];
    return node("mtext", attrs ?? {}, [text]);
  }

  root() {
    let index = null;
    if (this.peek() === "[") {
      this.take();
      index = row(this.expression((token) => token === "]"));
      this.take();
    }
    const radicand = this.argument();
    return index ? node("mroot", {}, [radicand, index]) : node("msqrt", {}, [radicand]);
  }

  brace(name) {
    const [tag, symbol] = BRACES[name];
    const braced = node(tag, {}, [this.argument(), mo(symbol, { stretchy: "true" })]);
    return Object.assign(braced, { under: name.endsWith("brace") });
  }

  negated() {
    const next = this.argument();
    const text = next.children[0];
    return typeof text === "string" ? node(next.tag, next.attrs, [`${text}\u0338`]) : row([mo("¬"), next]);
  }

  delimiter() {
    const token = this.take() ?? ".";
    if (token === ".") return "";
    return FENCES[token] ?? OPERATORS.get(token.slice(1)) ?? token;
  }

  fenced() {
    const open = this.delimiter();
    const inner = this.expression((token) => token === "\\right");
    const close = this.take() === null ? "" : this.delimiter();
    return node("mrow", {}, [...(open ? [fence(open)] : []), ...inner, ...(close ? [fence(close)] : [])]);
  }

  environment() {
    const name = this.raw();
    if (name === "array" || name.startsWith("alignat")) this.raw();
    const rows = [[[]]];
    const ends = (token) => token === "&" || token === "\\\\" || token === "\\cr" || token === "\\end";
    for (;;) {
      rows.at(-1).at(-1).push(...this.expression(ends));
      const token = this.take();
      if (token === "&") rows.at(-1).push([]);
      else if (token === null || token === "\\end") break;
      else rows.push([[]]);
    }
    this.raw();
    return environmentNode(name, rows.filter((cells) => cells.some((cell) => cell.length)));
  }
}

function environmentNode(name, rows) {
  const aligned = ALIGNED.test(name);
  const [open, close] = MATRICES[name] ?? "  ";
  const side = (column) => (aligned ? (column % 2 ? "left" : "right") : /cases$/.test(name) ? "left" : "center");
  const table = node("mtable", { class: aligned ? "aligned" : "matrix", ...(aligned && { displaystyle: "true" }) }, rows.map((cells) =>
    node("mtr", {}, cells.map((cell, column) => node("mtd", { class: side(column) }, [row(cell)])))));
  const fenced = [...(open?.trim() ? [fence(open)] : []), table, ...(close?.trim() ? [fence(close)] : [])];
  return row(fenced);
}
