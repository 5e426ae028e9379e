// The candidates of one turn as cards: what each writes, what it answers, whom it agrees with, which one won.

import { el, show } from "./dom.js";
import { highlightPython } from "./highlight.js";
import { inline } from "./markdown.js";

const COLOURS = 6;
const TAIL = 220; // characters of a growing trace that the card shows
const LABELS = { running: "writing", finished: "done", failed: "failed", late: "too late", cancelled: "stopped early", chosen: "chosen" };
const SAYS = { finished: "No answer found.", failed: "It failed.", late: "Time was up.", cancelled: "Not needed: the vote was decided." };
const VERDICTS = { passed: "passes the examples", failed: "fails the examples" };
const MAX_BRIEF = 48;
const BARE_TEX = /^[^$`]*\\(?:[dt]?frac|sqrt|pi|infty|cdot|times|pm|le|ge|sin|cos|ln|log|left|begin|text|theta|alpha)(?![a-zA-Z])[^$`]*$/;
const TAGS = /<\/?(?:think|answer)>/g;

class Card {
  constructor(index) {
    this.index = index;
    this.text = "";
    this.tokens = 0;
    this.started = null;
    this.ended = null;
    this.state = "running";
    this.final = null; // its answer as the verifier reads it
    this.reason = "";
    this.pill = el("span", { class: "pill" });
    this.answer = el("p", { class: "says" });
    this.verdict = el("p", { class: "verdict", hidden: true });
    this.rate = el("span", { class: "rate" });
    this.trace = el("pre", { class: "trace", tabindex: "0", role: "region", "aria-label": `Trace of candidate ${index + 1}` });
    this.details = el("details", { on: { toggle: () => this.draw() } }, el("summary", {}, el("span", { text: "Trace" }), this.rate), this.trace);
    this.node = el("li", { class: "card candidate" },
      el("div", { class: "head" }, el("span", { class: "name", text: `Candidate ${index + 1}` }), this.pill),
      this.answer, this.verdict, this.details);
    this.draw();
  }

  grow(text, tokens, now) {
    this.started ??= now;
    this.ended = now;
    this.text += text;
    this.tokens += tokens;
  }

  settle(state, { reason = "", tokens = 0 }) {
    this.state = state;
    this.reason = reason;
    this.tokens = Math.max(this.tokens, tokens);
  }

  /** Tokens a second, None before the second piece. */
  get speed() {
    const seconds = (this.ended - this.started) / 1000;
    return this.started === null || seconds < 0.05 ? null : this.tokens / seconds;
  }

  /** What stands in place of an answer. */
  get note() {
    return this.state === "finished" && !this.read ? "…" : this.reason || SAYS[this.state] || SAYS.finished;
  }

  draw() {
    const growing = this.state === "running";
    this.node.dataset.state = this.state;
    this.pill.textContent = LABELS[this.state];
    const rate = this.speed ? ` · ${Math.round(this.speed)} tok/s` : "";
    this.rate.textContent = this.tokens ? `${this.tokens} tokens${rate}` : "";
    this.answer.classList.toggle("growing", growing);
    this.answer.classList.toggle("program", this.final?.includes("\n") ?? false);
    if (growing) this.answer.textContent = this.text.slice(-TAIL).replace(TAGS, "").trimStart();
    else show(this.answer, this.final ? answerTrees(this.final) : [this.note]);
    if (this.details.open && this.trace.textContent.length !== this.text.length) this.trace.textContent = this.text;
  }
}

/** A program is coloured; a number is a number, in dollars of TeX or not; TeX without its dollars is TeX. */
function answerTrees(answer) {
  if (answer.includes("\n")) return highlightPython(answer);
  const bare = answer.replace(/^\$([\w.,+-]+)\$$/, "$1");
  return inline(BARE_TEX.test(bare) ? `$${bare}$` : bare);
}

function wide(node, size) {
  node.style.flexGrow = size;
  return node;
}

const brief = (answer) => (answer && answer.length <= MAX_BRIEF && !answer.includes("\n") ? answer : "");

function showVerdict(node, passed) {
  const kind = { true: "passed", false: "failed" }[passed];
  node.hidden = !kind;
  node.className = `verdict ${kind ?? ""}`;
  node.textContent = VERDICTS[kind] ?? "";
}

export class Candidates {
  constructor() {
    this.cards = new Map();
    this.dirty = new Set();
    this.wanted = 0; // how many will write
    this.list = el("ul", { class: "cards", role: "list", "aria-label": "Candidates" });
    this.count = el("span", { class: "count" });
    this.details = el("details", { open: true }, el("summary", {}, el("span", { text: "Candidates" }), this.count), this.list);
    this.votes = el("div", { class: "votes", role: "img", hidden: true });
    this.node = el("div", { class: "candidates", hidden: true }, this.details, this.votes);
  }

  get all() {
    return [...this.cards.values()];
  }

  get settled() {
    return this.all.filter((card) => card.state !== "running").length;
  }

  get tokens() {
    return this.all.reduce((sum, card) => sum + card.tokens, 0);
  }

  card(index) {
    if (!this.cards.has(index)) {
      const card = new Card(index);
      const after = this.all.find((other) => other.index > index);
      this.list.insertBefore(card.node, after?.node ?? null);
      this.cards.set(index, card);
      this.node.hidden = false;
    }
    return this.cards.get(index);
  }

  delta({ index, text, tokens }, now) {
    this.card(index).grow(text, tokens, now);
    this.dirty.add(index);
  }

  /** The engine that wrote a candidate went away; another begins it anew. */
  restart(index) {
    const card = this.card(index);
    [card.text, card.started, card.ended] = ["", null, null];
    this.dirty.add(index);
  }

  settle(index, state, facts) {
    this.card(index).settle(state, facts);
    this.card(index).draw();
  }

  /** The verifier's comparison: for each of `indices`, its answer, the cluster of equal answers, its public tests. */
  agree({ indices, answers, clusters, passed }) {
    const groups = new Map();
    indices.forEach((index, at) => {
      const card = this.card(index);
      [card.final, card.read] = [answers[at], true];
      showVerdict(card.verdict, passed[at]);
      if (clusters[at] >= 0) groups.set(clusters[at], [...(groups.get(clusters[at]) ?? []), card]);
    });
    const ranked = [...groups.values()].sort((a, b) => b.length - a.length || a[0].index - b[0].index);
    for (const index of indices) this.card(index).node.dataset.colour = "none";
    ranked.forEach((cards, rank) => cards.forEach((card) => {
      card.node.dataset.colour = rank % COLOURS;
    }));
    for (const index of indices) this.card(index).draw();
    this.drawVotes(ranked);
  }

  drawVotes(ranked) {
    this.votes.hidden = ranked.length === 0;
    const spoken = ranked.map((cards) => `${cards.length} for ${brief(cards[0].final) || "another answer"}`);
    this.votes.setAttribute("aria-label", `Votes: ${spoken.join(", ")}`);
    const parts = ranked.map((cards, rank) => {
      const answer = brief(cards[0].final);
      const label = el("span", {});
      show(label, answer ? answerTrees(answer) : [cards.length > 1 ? "behave alike" : "on its own"]);
      const count = el("b", { text: String(cards.length) });
      return wide(el("span", { class: "vote", data: { colour: rank % COLOURS } }, count, label), cards.length);
    });
    const waiting = Math.max(this.wanted, this.all.length) - this.settled;
    if (waiting > 0) parts.push(wide(el("span", { class: "vote open" }), waiting));
    this.votes.replaceChildren(...parts);
  }

  /** The end: candidate `index` won (null: nobody), who still writes was stopped for this reason. */
  choose(index, reason = "") {
    for (const card of this.all) if (card.state === "running") card.settle("cancelled", { reason });
    if (this.cards.has(index)) this.cards.get(index).state = "chosen";
    for (const card of this.all) card.draw();
    this.votes.querySelector(".open")?.remove();
  }

  /** Draw the cards that grew since the last time. */
  draw() {
    for (const index of this.dirty) this.cards.get(index).draw();
    this.dirty.clear();
    const answered = this.all.filter((card) => card.state === "finished" || card.state === "chosen").length;
    this.count.textContent = `${answered} of ${Math.max(this.wanted, this.all.length)} answered`;
  }
}
