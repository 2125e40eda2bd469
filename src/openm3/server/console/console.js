// The console: a conversation with the served model. Nothing is kept but the key, until the tab is closed.

const at = (id) => document.getElementById(id);
const LONGEST_ANSWER = 1024; // tokens
const root = new URL("v1/", document.baseURI);
const messages = []; // what was said, as the API has it
let files = []; // {name, text} that the next question brings along
let running = null; // the AbortController of the answer that is being read

at("key").value = sessionStorage.getItem("key") ?? "";

async function call(path, body, signal) {
  const headers = { "content-type": "application/json" };
  if (at("key").value) headers.authorization = `Bearer ${at("key").value}`;
  const response = await fetch(new URL(path, root), { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  throw new Error(told?.error?.message ?? `the server answered ${response.status}`);
}

// Objects of a stream of server-sent events, until "[DONE]".
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let held = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (held + value).split(/\r?\n\r?\n/);
    held = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: ?/, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

function addTurn(who, text) {
  const turn = at("turn").content.cloneNode(true).firstElementChild;
  turn.querySelector("h2").textContent = who;
  turn.querySelector(".text").textContent = text;
  at("turns").append(turn);
  turn.scrollIntoView({ block: "end" });
  return turn;
}

function tell(error) {
  at("error").hidden = !error;
  at("error").textContent = error ? error.message : "";
}

function showProgress({ read, total }) {
  at("reading").hidden = read >= total;
  at("progress").value = read / total;
  at("read").textContent = `${read.toLocaleString()} of ${total.toLocaleString()} tokens`;
}

// A strip of the whole prompt with what was read most; a press shows the text.
function showEvidence(turn, sentences, total) {
  const blocks = new Map();
  for (const reference of sentences.flatMap((sentence) => sentence.references)) {
    const known = blocks.get(reference.start);
    if (!known || known.weight < reference.weight) blocks.set(reference.start, reference);
  }
  if (!blocks.size) return;
  const strip = turn.querySelector(".strip");
  const most = Math.max(...[...blocks.values()].map((block) => block.weight));
  for (const block of [...blocks.values()].sort((a, b) => a.start - b.start)) {
    const button = document.createElement("button");
    button.type = "button";
    button.style.left = `min(${(100 * block.start) / total}%, 100% - 8px)`;
    button.style.width = `${(100 * (block.stop - block.start)) / total}%`;
    button.style.opacity = 0.35 + (0.65 * block.weight) / most;
    button.ariaExpanded = "false";
    button.ariaLabel = `Tokens ${block.start} to ${block.stop}, weight ${block.weight.toFixed(2)}`;
    button.addEventListener("click", () => showBlock(turn, button, block));
    strip.append(button);
  }
  turn.querySelector(".evidence").hidden = false;
  turn.scrollIntoView({ block: "end" });
}

function showBlock(turn, button, block) {
  const isOpen = button.ariaExpanded === "true";
  for (const other of turn.querySelectorAll(".strip button")) other.ariaExpanded = "false";
  button.ariaExpanded = String(!isOpen);
  const figure = turn.querySelector("figure");
  figure.hidden = isOpen;
  const places = block.sources.map((source) => `lines ${source.first_line} to ${source.last_line}`);
  figure.querySelector("figcaption").textContent = [...places, `${Math.round(100 * block.weight)}% of what a sentence was read from`].join(", ");
  figure.querySelector("pre").textContent = block.text;
  figure.scrollIntoView({ block: "nearest" });
}

async function answer(turn, signal) {
  const body = {
    model: at("model").value || "default",
    messages,
    stream: true,
    max_tokens: LONGEST_ANSWER,
    temperature: 0.2,
    frequency_penalty: 0.5, // small models repeat themselves without it
    stream_options: { include_usage: true },
    openm3: { evidence: at("evidence").checked, progress: true },
  };
  const [thinking, text] = [turn.querySelector(".thinking"), turn.querySelector(".text")];
  let sentences = [];
  for await (const event of events(await call("chat/completions", body, signal))) {
    if (event.openm3?.progress) showProgress(event.openm3.progress);
    for (const found of event.openm3?.evidence ?? []) sentences = found.sentences;
    const delta = event.choices[0]?.delta ?? {};
    if (delta.reasoning_content) {
      thinking.hidden = false;
      thinking.querySelector("p").textContent += delta.reasoning_content;
    }
    if (delta.content) text.textContent += delta.content;
    if (event.usage) showEvidence(turn, sentences, event.usage.prompt_tokens);
    turn.scrollIntoView({ block: "nearest" });
  }
  messages.push({ role: "assistant", content: text.textContent });
}

async function ask(question) {
  tell(null);
  const context = files.map((file) => `=== ${file.name} ===\n${file.text}\n`).join("\n");
  messages.push({ role: "user", content: context ? `${context}\n${question}` : question });
  addTurn("You", [...files.map((file) => `[${file.name}]`), question].join(" "));
  const turn = addTurn("Answer", "");
  running = new AbortController();
  [at("send").hidden, at("stop").hidden] = [true, false];
  try {
    await answer(turn, running.signal);
    files = [];
    showFiles();
    at("question").value = "";
  } catch (error) {
    if (messages.at(-1).role === "user") messages.pop(); // so that it can be asked again
    if (error.name !== "AbortError") tell(error);
    if (!turn.querySelector(".text").textContent) turn.remove();
  } finally {
    running = null;
    [at("send").hidden, at("stop").hidden, at("reading").hidden] = [false, true, true];
    at("question").focus();
    refresh();
  }
}

function showFiles() {
  at("context").replaceChildren(
    ...files.map((file) => {
      const [item, remove] = [document.createElement("li"), document.createElement("button")];
      remove.type = "button";
      [remove.textContent, remove.ariaLabel] = ["×", `Remove ${file.name}`];
      remove.addEventListener("click", () => {
        files = files.filter((other) => other !== file);
        showFiles();
      });
      item.append(`${file.name} `, remove);
      return item;
    }),
  );
}

async function addFiles(list) {
  for (const file of list) {
    const text = await file.text();
    if (text.includes("\0") || text.includes("\uFFFD")) tell(new Error(`${file.name} is not text`));
    else files.push({ name: file.name, text });
  }
  at("files").value = "";
  showFiles();
}

async function showModels() {
  const { data } = await (await call("models")).json();
  const chosen = at("model").value;
  at("model").replaceChildren(...data.map((model) => new Option(model.id)));
  if (data.some((model) => model.id === chosen)) at("model").value = chosen;
}

async function showUsage() {
  const { key, plan, tokens_per_day: day } = await (await call("usage")).json();
  const limit = day?.limit == null ? "no limit" : `${day.limit.toLocaleString()} a day`;
  at("usage").textContent = key ? `${plan}: ${day?.used.toLocaleString() ?? 0} tokens used, ${limit}` : "";
}

async function showLoad() {
  const load = await (await fetch(new URL("healthz", document.baseURI))).json();
  const pages = load.num_pages ? `, ${Math.round(100 - (100 * load.free_pages) / load.num_pages)}% of the cache` : "";
  at("load").textContent = `${load.running} running, ${load.waiting} waiting${pages}`;
}

// What a wrong key or a stopped server brings is told where something is asked; here it only leaves things empty.
async function refresh() {
  await Promise.allSettled([showModels(), showLoad(), showUsage().catch(() => (at("usage").textContent = ""))]);
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = at("question").value.trim();
  if (question && !running) ask(question);
});
at("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  at("ask").requestSubmit();
});
at("stop").addEventListener("click", () => running?.abort());
at("reset").addEventListener("click", () => {
  running?.abort();
  messages.length = 0;
  at("turns").replaceChildren();
  tell(null);
});
at("files").addEventListener("change", (event) => addFiles(event.target.files));
at("key").addEventListener("change", () => {
  sessionStorage.setItem("key", at("key").value);
  refresh();
});
setInterval(() => document.hidden || showLoad().catch(() => (at("load").textContent = "the server can't be reached")), 2000);
refresh();
