// One question and all that comes back for it: plan, candidates, vote, reasoning, answer.

import { Candidates } from "./candidates.js";
import { el, show } from "./dom.js";
import { markdown, inline } from "./markdown.js";

const TICK_MS = 200;
const UNNEEDED = "the vote was decided without it"; // the card says so in its own words
const FEW = 3; // candidates that stay in view above the answer
const NARROW = "(max-width: 640px)";

export class Turn {
  /** `announce(text)` tells a screen reader; it is called at milestones, never for every token. */
  constructor(question, announce) {
    this.announce = announce;
    this.started = performance.now();
    this.content = "";
    this.reasoning = "";
    this.explained = false; // whether the stream shows plan and candidates; else its reasoning is shown
    this.usage = null;
    this.phase = el("span", { class: "phase", text: "Thinking" });
    this.clock = el("span", { class: "clock" });
    this.plan = el("details", { class: "card plan", open: true, hidden: true }, el("summary", { text: "Plan" }));
    this.candidates = new Candidates();
    this.why = el("p", { class: "why", hidden: true });
    this.thoughts = el("pre", { class: "trace", tabindex: "0", role: "region", "aria-label": "Reasoning" });
    this.thinking = el("details", { class: "card thinking", hidden: true }, el("summary", { text: "Reasoning" }), this.thoughts);
    this.answer = el("div", { class: "answer" });
    this.error = el("p", { class: "error", role: "alert", hidden: true });
    this.facts = el("div", { class: "facts", hidden: true });
    this.node = el("article", { class: "turn busy", "aria-label": "Question and answer" },
      el("div", { class: "question" }, el("span", { class: "hidden", text: "You asked: " }), el("div", { text: question })),
      el("div", { class: "progress" }, el("i", { class: "dot", "aria-hidden": "true" }), this.phase, this.clock),
      this.plan, this.candidates.node, this.why, this.thinking, this.answer, this.error, this.facts);
    this.timer = setInterval(() => this.tick(), TICK_MS);
    this.tick();
  }

  /** A chunk of the stream. */
  receive(chunk) {
    if (chunk.usage) this.usage = chunk.usage;
    if (chunk.system_fingerprint) this.version = chunk.system_fingerprint;
    if (chunk.raythink) this.event(chunk.raythink);
    const delta = chunk.choices?.[0]?.delta ?? {};
    if (delta.reasoning_content && !this.explained) this.reasoning += delta.reasoning_content;
    if (delta.content) {
      if (!this.content) this.say("Answering");
      this.content += delta.content;
    }
    if (this.explained && delta.content) this.node.dispatchEvent(new CustomEvent("answered"));
    this.redraw();
  }

  event(event) {
    const { candidates } = this;
    switch (event.type) {
      case "start": this.begin(event); break;
      case "plan": this.showPlan(event); break;
      case "delta": if (this.explained) candidates.delta(event, performance.now()); break;
      case "restarted": if (this.explained) candidates.restart(event.index); break;
      case "candidate": if (this.explained) this.settled(event); break;
      case "votes": if (this.explained) this.voted(event); break;
      case "judged": this.say("The answers that tie were judged"); break;
      case "selected": this.selected(event); break;
      default: break; // a newer server may tell more than this page knows
    }
  }

  begin({ n, plan }) {
    this.candidates.wanted = n;
    this.explained = n > 1; // a single candidate is shown as reasoning and answer
    this.say(plan ? "Planning" : "Thinking");
  }

  say(text, aloud = true) {
    this.phase.textContent = text;
    if (aloud) this.announce(text);
  }

  showPlan({ text, steps }) {
    this.plan.hidden = !text;
    if (!text) return;
    const list = el("ol", {}, ...steps.map((step) => {
      const item = el("li");
      show(item, inline(step));
      return item;
    }));
    this.plan.append(steps.length > 1 ? list : el("p", { text }));
    this.say(this.explained ? "The plan is ready; the candidates are writing" : "The plan is ready");
  }

  settled({ index, state, reason, tokens }) {
    const { candidates } = this;
    candidates.settle(index, state, { reason: reason === UNNEEDED ? "" : reason, tokens });
    this.say(`${candidates.settled} of ${candidates.wanted} candidates are done`, false);
    if (state === "failed") this.announce(`Candidate ${index + 1} failed`);
  }

  voted(event) {
    this.candidates.agree(event);
    this.announce(this.candidates.votes.getAttribute("aria-label"));
  }

  selected({ index, why }) {
    this.candidates.choose(index);
    this.why.replaceChildren(el("b", { text: `Candidate ${index + 1} was chosen: ` }), why.replace(/[.]?$/, "."));
    this.why.hidden = !why || !this.explained;
  }

  redraw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      this.candidates.draw();
      show(this.answer, markdown(this.content));
      this.thinking.hidden = !this.reasoning;
      if (this.reasoning) this.thoughts.textContent = this.reasoning;
    });
  }

  tick() {
    this.seconds = (performance.now() - this.started) / 1000;
    this.clock.textContent = `${this.seconds.toFixed(1)} s`;
  }

  /** The stream came to its end. */
  done() {
    this.settle("Done");
    this.plan.open = false;
    if (this.candidates.all.length > FEW || matchMedia(NARROW).matches) this.candidates.details.open = false;
    this.announce(`Answer: ${this.content.slice(0, 400)}`);
    this.showFacts();
  }

  /** Whoever asked stopped it. */
  stopped() {
    this.candidates.choose(null, "Stopped.");
    this.node.classList.add("stopped");
    this.settle("Stopped");
    this.announce("Stopped");
  }

  /** It failed, for this reason. */
  failed(reason) {
    this.candidates.choose(null, "Stopped.");
    this.error.textContent = reason;
    this.error.hidden = false;
    this.node.classList.add("broken");
    this.settle("Failed");
  }

  settle(phase) {
    clearInterval(this.timer);
    this.tick();
    this.node.classList.remove("busy");
    this.say(phase, false);
    this.redraw();
  }

  showFacts() {
    const tokens = this.usage?.completion_tokens;
    const facts = [`${this.seconds.toFixed(1)} s`];
    if (tokens) facts.push(`${tokens.toLocaleString()} tokens`, `${Math.round(tokens / Math.max(this.seconds, 0.1)).toLocaleString()} tok/s`);
    if (this.version) facts.push(`policy ${this.version}`);
    const copy = el("button", { type: "button", class: "quiet", text: "Copy", on: { click: () => this.copy(copy) } });
    // No clipboard where the page came over plain HTTP from another machine.
    this.facts.append(...(navigator.clipboard ? [copy] : []), ...facts.map((text) => el("span", { text })));
    this.facts.hidden = false;
  }

  async copy(button) {
    await navigator.clipboard.writeText(this.content);
    button.textContent = "Copied";
    this.announce("Copied");
    setTimeout(() => {
      button.textContent = "Copy";
    }, 1500);
  }
}
