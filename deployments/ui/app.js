// The page: the question that is being written, the conversation so far, the key if the server wants one.

import { ApiError, models, streamChat } from "./api.js";
import { el } from "./dom.js";
import { Turn } from "./turn.js";

const KEY = "raythink-key";
const NEWS_MS = 150;
const EXAMPLES = [
  ["Mathematics", "What is the sum of the first 50 odd positive integers?"],
  ["Code", "Write a function f(n) in Python that returns the n-th Fibonacci number, with f(0) == 0 and f(7) == 13."],
  ["Logic", "Ann is taller than Bo. Cy is shorter than Bo. Dee is taller than Ann. Who is the second tallest?"],
  ["Science", "How long does light take to travel 150 million kilometres? Answer in seconds."],
];
const HINTS = { low: "One candidate, no plan", medium: "A plan, three candidates", high: "A plan, up to eight candidates" };

const find = (id) => document.getElementById(id);
const [composer, question, send, stop, conversation] = ["composer", "question", "send", "stop", "conversation"].map(find);
const page = document.scrollingElement;
const state = { messages: [], turn: null, abort: null, news: [] };

/** Tell a screen reader; what comes at almost the same time is told together, so that nothing is lost. */
function announce(text) {
  state.news.push(text);
  if (state.news.length > 1) return;
  setTimeout(() => {
    find("status").textContent = state.news.splice(0).join(". ");
  }, NEWS_MS);
}

const effort = () => new FormData(composer).get("effort");
const key = () => sessionStorage.getItem(KEY);

async function ask(text) {
  const turn = new Turn(text, announce);
  state.turn = turn;
  state.abort = new AbortController();
  state.messages.push({ role: "user", content: text });
  find("welcome").hidden = true;
  conversation.append(turn.node);
  turn.node.addEventListener("answered", () => showAnswer(turn), { once: true });
  refresh();
  state.following = true;
  follow();
  const body = { messages: state.messages, reasoning_effort: effort(), raythink: { explain: true } };
  if (state.model) body.model = state.model;
  try {
    await streamChat(body, { key: key(), signal: state.abort.signal, onChunk: (chunk) => turn.receive(chunk) });
    turn.done();
    state.messages.push({ role: "assistant", content: turn.content });
  } catch (error) {
    if (error.name === "AbortError") turn.stopped();
    else turn.failed(reasonOf(error));
    state.messages.pop(); // what was not answered is not part of the conversation
    if (error.status === 401) openKeyDialog();
    if (!question.value) question.value = text;
  }
  state.turn = null;
  refresh();
  question.focus({ preventScroll: true });
}

function reasonOf(error) {
  if (!(error instanceof ApiError)) return `The server cannot be reached (${error.message}).`;
  const message = error.message.replace(/^\p{Ll}/u, (letter) => letter.toUpperCase()).replace(/\.?$/, ".");
  return error.retryAfter ? `${message} Try again in ${error.retryAfter} s.` : message;
}

function refresh() {
  const busy = state.turn !== null;
  send.hidden = busy;
  stop.hidden = !busy;
  send.disabled = !question.value.trim();
  find("new").disabled = busy || conversation.childElementCount === 0;
  find("hint").textContent = HINTS[effort()];
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight}px`;
}

/** Keep the end in view while a reply grows, unless the reader scrolled up. */
function follow() {
  if (state.following) page.scrollTop = page.scrollHeight;
}

/** An answer that comes as a whole is read from its beginning. */
function showAnswer(turn) {
  if (!state.following) return;
  state.following = false;
  requestAnimationFrame(() => requestAnimationFrame(() => turn.candidates.votes.scrollIntoView({ block: "nearest" })));
}

function startAnew() {
  state.messages = [];
  conversation.replaceChildren();
  find("welcome").hidden = false;
  announce("New conversation");
  refresh();
  question.focus();
}

function openKeyDialog() {
  find("key-open").hidden = false;
  find("key").value = "";
  find("key-dialog").showModal();
}

async function showModel() {
  const label = find("model");
  label.hidden = false;
  try {
    const [model] = await models(key());
    state.model = model?.id;
    label.textContent = model?.id ?? "no model";
    label.hidden = model?.id === "raythink"; // as the page's own name, which stands beside it
    label.removeAttribute("data-down");
  } catch (error) {
    label.textContent = error.status === 401 ? "locked" : "not reachable";
    label.dataset.down = "";
    if (error.status === 401) openKeyDialog();
  }
}

function submit(event) {
  event?.preventDefault();
  const text = question.value.trim();
  if (!text || state.turn) return;
  question.value = "";
  ask(text);
}

composer.addEventListener("submit", submit);
composer.addEventListener("input", refresh);
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
});
stop.addEventListener("click", () => state.abort.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && state.turn && !find("key-dialog").open) state.abort.abort();
});
window.addEventListener("pagehide", () => state.abort?.abort()); // the browser may keep a page that was left, at work
find("new").addEventListener("click", startAnew);
find("key-open").addEventListener("click", openKeyDialog);
find("key-cancel").addEventListener("click", () => find("key-dialog").close());
find("key-form").addEventListener("submit", () => {
  sessionStorage.setItem(KEY, find("key").value.trim());
  showModel();
});
find("examples").append(...EXAMPLES.map(([kind, text]) => el("li", {},
  el("button", { type: "button", on: { click: () => { question.value = text; refresh(); question.focus(); } } },
    el("b", { text: kind }), text))));
document.addEventListener("scroll", () => {
  state.following = page.scrollHeight - page.scrollTop - page.clientHeight < 60;
}, { passive: true });
new MutationObserver(follow).observe(conversation, { childList: true, subtree: true, characterData: true });
refresh();
showModel();
