// Python, coloured: source text in, a list of strings and <span class="tok-..."> trees out. Never fails; loses no text.

import { node } from "./dom.js";

const KEYWORDS = new Set(
  ("False None True and as assert async await break case class continue def del elif else except finally for from " +
    "global if import in is lambda match nonlocal not or pass raise return try while with yield").split(" "),
);
const BUILTINS = new Set(
  ("abs all any bin bool bytes chr dict divmod enumerate filter float frozenset getattr hash hex input int isinstance " +
    "issubclass iter len list map max min next object oct open ord pow print range repr reversed round self set " +
    "setattr sorted str sum super tuple type zip Exception IndexError KeyError TypeError ValueError").split(" "),
);
const TOKEN = new RegExp(
  [
    /(?<comment>#[^\n]*)/,
    /(?<string>(?:[rRbBuUfF]{0,2})(?:"""[\s\S]*?(?:"""|$)|'''[\s\S]*?(?:'''|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?))/,
    /(?<number>\b(?:0[xX][\da-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+|\d[\d_]*(?:\.[\d_]*)?(?:[eE][+-]?\d+)?[jJ]?))/,
    /(?<decorator>(?<=^|\n)[ \t]*@[\w.]+)/,
    /(?<word>[^\W\d]\w*)/u,
  ].map((part) => part.source).join("|"),
  "gu",
);

export function highlightPython(source) {
  const out = [];
  let end = 0;
  let previous = "";
  for (const match of source.matchAll(TOKEN)) {
    if (match.index > end) out.push(source.slice(end, match.index));
    const text = match[0];
    const kind = kindOf(match.groups, previous);
    out.push(kind ? node("span", { class: `tok-${kind}` }, [text]) : text);
    end = match.index + text.length;
    previous = text;
  }
  if (end < source.length) out.push(source.slice(end));
  return out;
}

function kindOf(groups, previous) {
  if (!groups.word) return Object.keys(groups).find((name) => groups[name] !== undefined);
  if (previous === "def" || previous === "class") return "name";
  if (KEYWORDS.has(groups.word)) return "keyword";
  return BUILTINS.has(groups.word) ? "builtin" : null;
}
