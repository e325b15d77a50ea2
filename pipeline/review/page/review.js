"use strict";
const at = (id) => document.getElementById(id);
const video = at("video");
let items = [], place = 0, busy = false;

const clock = (s) => {
  const t = Math.round(s * 10) / 10, m = Math.floor(t / 60);
  return `${Math.floor(m / 60)}:${String(m % 60).padStart(2, "0")}:${(t - 60 * m).toFixed(1).padStart(4, "0")}`;
};
const percent = (p) => (p === null ? "" : `${Math.round(100 * p)} %`);
const reasons = { audit: "the unpruned run said something else", unsure: "hardly more probable than the next", sampled: "drawn at random" };

function trouble(text) {
  at("trouble").textContent = text;
  at("trouble").hidden = !text;
}

async function ask(path, body) {
  const options = body && { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  const answer = await fetch(path, options);
  const result = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
  if (result.error) throw new Error(result.error);
  return result;
}

function play() {
  const item = items[place];
  if (!item) return;
  video.currentTime = item.start_s;
  // Browsers play no sound before the first key or click.
  video.play().catch((error) => {
    if (error.name !== "NotAllowedError") return;
    video.muted = true;
    video.play().catch(() => {});
  });
}

function hear() {
  video.muted = false;
  for (const kind of ["keydown", "pointerdown"]) document.removeEventListener(kind, hear, true);
}

function show() {
  const item = items[place];
  at("card").hidden = !item;
  at("done").hidden = Boolean(item);
  if (!item) { video.pause(); return; }
  trouble("");
  at("why").textContent = `${item.question_id} · ${reasons[item.why]}`;
  at("question").textContent = item.question;
  at("answer").textContent = item.answer;
  at("sure").textContent = item.probability === null ? "" : `${percent(item.probability)}, ${percent(item.margin)} ahead of the next`;
  at("dense").hidden = item.dense_answer === null;
  at("dense").textContent = `Unpruned: ${item.dense_answer}`;
  at("where").textContent = `${item.media_key} · ${clock(item.start_s)} to ${clock(item.end_s)}`;
  at("options").replaceChildren(...item.options.map((option, index) => {
    const button = document.createElement("button"), key = document.createElement("kbd");
    key.textContent = String(index + 1);
    button.append(key, ` ${option}`);
    button.addEventListener("click", () => choose(index));
    return button;
  }));
  at("form").hidden = item.options.length > 0;
  at("own").value = "";
  const source = `media/${encodeURIComponent(item.media_id)}`;
  if (video.dataset.source === source) return play();
  video.dataset.source = source;
  video.src = source;
}

async function say(verdict, answer) {
  const item = items[place];
  if (!item || busy) return;
  busy = true;
  try {
    const { labelled } = await ask("label", { clip_id: item.clip_id, question_id: item.question_id, verdict, answer });
    at("progress").textContent = `${labelled} labelled`;
    item.labelled = true;
    await step();
  } catch (error) { trouble(error.message); } finally { busy = false; }
}

async function step() {
  place += 1;
  if (place >= items.length) return more();
  show();
}

async function back() {
  if (place === 0 || busy) return;
  busy = true;
  place -= 1;
  const item = items[place];
  try {
    if (item.labelled) {
      const { labelled } = await ask("label", { clip_id: item.clip_id, question_id: item.question_id, verdict: null });
      at("progress").textContent = `${labelled} labelled`;
      item.labelled = false;
    }
    show();
  } catch (error) { trouble(error.message); } finally { busy = false; }
}

function choose(index) {
  const item = items[place], option = item && item.options[index];
  if (option !== undefined) say(option === item.answer ? "right" : "wrong", option);
}

async function more() {
  try {
    const result = await ask("next");
    items = result.items;
    place = 0;
    at("progress").textContent = `${result.labelled} labelled`;
    show();
  } catch (error) { trouble(error.message); }
}

for (const kind of ["keydown", "pointerdown"]) document.addEventListener(kind, hear, true);
video.addEventListener("loadedmetadata", play);
video.addEventListener("timeupdate", () => {
  const item = items[place];
  if (item && video.currentTime >= item.end_s) video.pause();
});
video.addEventListener("error", () => {
  const item = items[place];
  if (item) trouble(`The browser cannot play ${item.media_key}: it is gone, or in a format that browsers do not play.`);
});
at("right").addEventListener("click", () => say("right"));
at("wrong").addEventListener("click", () => say("wrong"));
at("skip").addEventListener("click", step);
at("undo").addEventListener("click", back);
at("replay").addEventListener("click", play);
at("more").addEventListener("click", more);
at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("own").value.trim();
  if (text) say(text === items[place].answer ? "right" : "wrong", text);
});
document.addEventListener("keydown", (event) => {
  if (event.target === at("own") || event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = { y: () => say("right"), n: () => say("wrong"), s: step, u: back, " ": play };
  if (/^[1-9]$/.test(event.key)) choose(Number(event.key) - 1);
  else if (keys[event.key]) keys[event.key]();
  else return;
  event.preventDefault();
});
more().then(() => { document.documentElement.dataset.ready = ""; });
