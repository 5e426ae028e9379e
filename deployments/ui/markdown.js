// The Markdown that models write, as trees for dom.js: headings, lists, tables, quotes, code, mathematics, emphasis,
// links. A text that is still growing renders at every length: what is not closed yet is shown as far as it goes.

import { node } from "./dom.js";
import { highlightPython } from "./highlight.js";
import { texToMathML } from "./math.js";

const FENCE = /^ {0,3}(```+|~~~+)\s*([\w+#.-]*)[^\n]*$/;
const ITEM = /^(\s*)(?:([-*+])|(\d{1,9})[.)])\s+(.*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}(?:(?:\*\s*){3,}|(?:-\s*){3,}|(?:_\s*){3,})$/;
const TABLE_RULE = /^\s*\|?(?:\s*:?-+:?\s*\|)+\s*:?-*:?\s*$/;
const MATH_OPEN = /^\s*(\$\$|\\\[)/;
const PYTHON = /^(?:py|python|python3|pycon)?$/i;
const MAX_NESTING = 6;

const INLINE = new RegExp(
  [
    /(?<ticks>`+)(?<code>[\s\S]*?[^`])\k<ticks>(?!`)/,
    /\$\$(?<display1>[\s\S]+?)\$\$/,
    /\\\[(?<display2>[\s\S]+?)\\\]/,
    /\\\((?<inline1>[\s\S]+?)\\\)/,
    /\$(?<inline2>(?![\s$])(?:\\.|[^$\\\n])*?(?:\\.|[^$\\\s]))\$(?!\d)/,
    /(?<boxed>\\boxed\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})/,
    /(?<environment>\\begin\{(?<name>[a-zA-Z]+\*?)\}[\s\S]*?\\end\{\k<name>\})/,
    /\\(?<escaped>[\\`*_{}[\]()#+\-.!$|<>])/,
    /\*\*(?<bold>(?!\s)[\s\S]+?(?<!\s))\*\*/,
    /(?<![\w*])\*(?<italic1>(?![\s*])[^*\n]+?(?<!\s))\*(?!\*)/,
    /(?<!\w)_(?<italic2>(?![\s_])[^_\n]+?(?<!\s))_(?!\w)/,
    /~~(?<struck>[^~\n]+)~~/,
    /\[(?<label>[^[\]\n]+)\]\((?<target>https?:\/\/[^\s()<>]+)\)/,
    /(?<url>https?:\/\/[^\s<>()[\]"'`]+[^\s<>()[\]"'`.,;:!?])/,
    /(?<newline>(?: {2,}|\\)?\n)/,
  ].map((part) => part.source).join("|"),
  "gu",
);

/** Trees of a whole text. */
export function markdown(text) {
  return blocks(text.replace(/\r\n?/g, "\n").split("\n"), 0);
}

/** Trees of a text within a line: what candidates answer. */
export function inline(text) {
  const out = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    if (match.index > end) out.push(text.slice(end, match.index));
    out.push(span(match.groups, match[0]));
    end = match.index + match[0].length;
  }
  if (end < text.length) out.push(text.slice(end));
  return out;
}

function span(groups, whole) {
  const is = (name) => groups[name] !== undefined;
  if (is("code")) return node("code", {}, [groups.code.replace(/^ (.*) $/s, "$1")]);
  if (is("display1") || is("display2")) return texToMathML(groups.display1 ?? groups.display2, true);
  if (is("inline1") || is("inline2")) return texToMathML(groups.inline1 ?? groups.inline2);
  if (is("boxed")) return texToMathML(whole);
  if (is("environment")) return texToMathML(whole, true);
  if (is("escaped")) return groups.escaped;
  if (is("bold")) return node("strong", {}, inline(groups.bold));
  if (is("italic1") || is("italic2")) return node("em", {}, inline(groups.italic1 ?? groups.italic2));
  if (is("struck")) return node("s", {}, inline(groups.struck));
  if (is("newline")) return node("br");
  const href = groups.target ?? groups.url;
  const attrs = { href, rel: "noopener noreferrer nofollow", target: "_blank" };
  return node("a", attrs, is("label") ? inline(groups.label) : [href]);
}

function blocks(lines, depth) {
  const out = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const rest = lines.slice(at);
    const [trees, used] = !line.trim() ? [[], 1]
      : FENCE.test(line) ? fenced(rest)
      : MATH_OPEN.test(line) ? displayed(rest)
      : HEADING.test(line) ? heading(line)
      : RULE.test(line) ? [[node("hr")], 1]
      : /^\s*>/.test(line) && depth < MAX_NESTING ? quote(rest, depth)
      : ITEM.test(line) && depth < MAX_NESTING ? list(rest, depth)
      : line.includes("|") && TABLE_RULE.test(rest[1] ?? "") ? table(rest)
      : paragraph(rest);
    out.push(...trees);
    at += used;
  }
  return out;
}

function heading(line) {
  const [, marks, text] = line.match(HEADING);
  return [[node(`h${Math.min(6, marks.length + 2)}`, {}, inline(text))], 1];
}

function fenced(lines) {
  const [, mark, language] = lines[0].match(FENCE);
  let end = 1;
  while (end < lines.length && !lines[end].trim().startsWith(mark)) end += 1;
  const source = lines.slice(1, end).join("\n");
  const code = node("code", {}, PYTHON.test(language) ? highlightPython(source) : [source]);
  const label = language || "code";
  const pre = node("pre", { tabindex: "0", role: "region", "aria-label": `${label} listing` }, [code]);
  return [[node("div", { class: "listing", "data-language": label }, [pre])], end + 1];
}

function displayed(lines) {
  const close = lines[0].match(MATH_OPEN)[1] === "$$" ? "$$" : "\\]";
  const text = lines.join("\n");
  const start = text.search(/\S/) + 2;
  const end = text.indexOf(close, start);
  if (end < 0 || /\n\s*\n/.test(text.slice(start, end))) return paragraph(lines);
  const used = text.slice(0, end + 2).split("\n").length;
  const rest = text.slice(end + 2).split("\n", 1)[0];
  const formula = node("div", { class: "formula" }, [texToMathML(text.slice(start, end).trim(), true)]);
  return [rest.trim() ? [formula, node("p", {}, inline(rest.trim()))] : [formula], used];
}

function quote(lines, depth) {
  let end = 0;
  while (end < lines.length && /^\s*>/.test(lines[end])) end += 1;
  const inner = lines.slice(0, end).map((line) => line.replace(/^\s*> ?/, ""));
  return [[node("blockquote", {}, blocks(inner, depth + 1))], end];
}

/** A list: each item with the lines that are indented below it; a change of its kind of marks begins another list. */
function list(lines, depth) {
  const [, indent, bullet, number] = lines[0].match(ITEM);
  const items = [];
  let at = 0;
  while (at < lines.length) {
    const match = lines[at].match(ITEM);
    const [deeper, blank] = [leading(lines[at]) > indent.length, !lines[at].trim()];
    if (match && !deeper && Boolean(match[2]) === Boolean(bullet)) items.push([match[4]]);
    else if (deeper || (blank && leading(lines[at + 1] ?? "") > indent.length)) items.at(-1).push(lines[at]);
    else if (!(blank && sameList(lines[at + 1] ?? "", indent, bullet))) break;
    at += 1;
  }
  const trees = items.map((item) => node("li", {}, tight(blocks(dedent(item), depth + 1))));
  return [[node(bullet ? "ul" : "ol", number && number !== "1" ? { start: number } : {}, trees)], at];
}

const leading = (line) => (line.trim() ? line.search(/\S/) : 0);
const tight = (trees) => (trees.length && trees[0].tag === "p" ? [...trees[0].children, ...trees.slice(1)] : trees);

function sameList(line, indent, bullet) {
  const match = line.match(ITEM);
  return match !== null && match[1].length <= indent.length && Boolean(match[2]) === Boolean(bullet);
}

function dedent([first, ...rest]) {
  const indents = rest.filter((line) => line.trim()).map(leading);
  const indent = indents.length ? Math.min(...indents) : 0;
  return [first, ...rest.map((line) => line.slice(indent))];
}

function table(lines) {
  let end = 2;
  while (end < lines.length && lines[end].trim() && lines[end].includes("|")) end += 1;
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim());
  const tr = (line, tag) => node("tr", {}, cells(line).map((cell) => node(tag, tag === "th" ? { scope: "col" } : {}, inline(cell))));
  const body = lines.slice(2, end).map((line) => tr(line, "td"));
  const grid = node("table", {}, [node("thead", {}, [tr(lines[0], "th")]), node("tbody", {}, body)]);
  return [[node("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "table" }, [grid])], end];
}

function paragraph(lines) {
  let end = 1;
  const starts = [FENCE, MATH_OPEN, HEADING, RULE, ITEM, /^\s*>/];
  while (end < lines.length && lines[end].trim() && !starts.some((start) => start.test(lines[end]))) end += 1;
  return [[node("p", {}, inline(lines.slice(0, end).join("\n")))], end];
}
