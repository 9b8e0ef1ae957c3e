// The page: who answers, a question, its performance.

import { Actor } from "./actor.js";
import { answer } from "./answer.js";
import { Cues } from "./cues.js";
import { Offer } from "./offer.js";
import { wardrobe } from "./puppet.js";
import { Refused, models, setKey, setting } from "./stream.js";
import { Talk } from "./talk.js";
import { lang, setLang, t } from "./text.js";

const BASE = "base";
const BOTH = "";
const find = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

const page = {
  names: [], // of the models
  chosen: BOTH,
  actors: new Map(), // by model: {actor, cues, session, heard}
  running: [],
  recording: [],
};

const talk = new Talk(find("talk"));
const offer = new Offer({ list: find("chips"), count: find("offer-count"), form: find("add"), input: find("name"), clear: find("clear") });
const voiceOn = () => find("voice").getAttribute("aria-pressed") === "true";

/** Tell a screen reader; what was told before stays, so that nothing is lost when two things come at once. */
function live(text) {
  const line = document.createElement("p");
  line.textContent = text;
  find("live").append(line);
  while (find("live").childElementCount > 8) find("live").firstElementChild.remove();
}

async function begin() {
  setLang(lang());
  page.names = await models().catch(async (error) => {
    if (!(error instanceof Refused) || error.status !== 401) throw error;
    await wantKey();
    return models();
  });
  const [things, set] = await Promise.all([wardrobe(), setting()]);
  page.setting = set;
  page.make = () => new Actor({ wardrobe: things, mapping: set.mapping, still, voice: voiceOn, live });
  find("replay-badge").hidden = !set.replay;
  find("replay-who").textContent = page.names.join(", ");
  find("voice").hidden = !("speechSynthesis" in window);
  page.chosen = page.names[0];
  fresh();
  drawScenes(true);
  find("question").focus({ preventScroll: true });
  document.body.dataset.ready = "yes";
}

function wantKey() {
  const dialog = find("key-dialog");
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(setKey(find("key").value.trim())), { once: true }));
}

// Who answers -----------------------------------------------------------------------------------------------------

const shown = () => (page.chosen === BOTH ? page.names : [page.chosen]);
const label = (model) => (model === BOTH ? t("both") : model === BASE ? t("base") : page.names.length === 2 && page.names.includes(BASE) ? t("tuned") : model);

function drawModels() {
  const box = find("models");
  box.hidden = page.names.length < 2;
  const legend = box.querySelector("legend");
  const radios = (page.names.length < 2 ? [] : [...page.names, BOTH]).map((model) => {
    const line = document.createElement("label");
    const radio = document.createElement("input");
    Object.assign(radio, { type: "radio", name: "model", value: model, checked: model === page.chosen });
    radio.addEventListener("change", () => choose(model));
    line.title = model || t("both");
    line.append(radio, label(model));
    return line;
  });
  box.replaceChildren(legend, ...radios);
}

function choose(model) {
  stop();
  page.chosen = model;
  drawActors();
}

function drawActors() {
  for (const [model, one] of page.actors) {
    // Who is alone needs no name.
    const name = shown().length > 1 ? label(model) : "";
    one.actor.name(name);
    one.cues.name(name);
  }
  find("stages").replaceChildren(...shown().map((model) => page.actors.get(model).actor.root));
  find("cues").replaceChildren(...shown().map((model) => page.actors.get(model).cues.root));
  document.body.classList.toggle("both", shown().length > 1);
}

/** Begin anew: nobody remembers anything. */
function fresh() {
  stop();
  const token = crypto.getRandomValues(new Uint32Array(2)).join("-");
  for (const model of page.names)
    page.actors.set(model, { actor: page.make(), cues: new Cues(), session: `stage-${token}-${model}`.slice(0, 200), heard: null });
  talk.clear();
  offer.dim();
  page.recording = [];
  find("save").disabled = true;
  drawModels();
  drawActors();
}

// A question and its performance ----------------------------------------------------------------------------------

async function put(question) {
  stop();
  find("problem").hidden = true;
  offer.dim();
  talk.ask(question);
  const names = offer.names;
  const answers = shown().map((model) => {
    const written = talk.answer(page.names.length > 1 ? label(model) : "");
    const asked = { model, question, actions: names, chunk: voiceOn() ? "sentence" : "delta" };
    return answer(asked, page.actors.get(model), { written, offer, live, record, problem, still });
  });
  page.running = answers.map((one) => one.stop);
  busy(true);
  const mine = page.running;
  await Promise.all(answers.map((one) => one.finished));
  if (page.running !== mine) return;
  page.running = [];
  busy(false);
}

function problem(text) {
  find("problem").textContent = text;
  find("problem").hidden = false;
}

function stop() {
  for (const one of page.running) one();
  page.running = [];
  busy(false);
}

function busy(is) {
  find("stop").disabled = !is;
  document.body.classList.toggle("busy", is);
}

// Around it -------------------------------------------------------------------------------------------------------

function drawScenes(first) {
  const all = page.setting.scenes;
  const own = all.filter((scene) => !scene.lang || scene.lang === lang());
  const scenes = own.length ? own : all;
  find("scenes").parentElement.hidden = !scenes.length;
  find("scenes").replaceChildren(
    ...scenes.map((scene) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = scene.ask;
      button.title = scene.actions.join("、");
      button.addEventListener("click", () => {
        offer.set(scene.actions);
        put(scene.ask);
      });
      return button;
    }),
  );
  if (first || !talk.root.querySelector(".question")) offer.set(page.setting.names.length ? page.setting.names : scenes[0]?.actions ?? []);
}

function record(line) {
  page.recording.push(line);
  find("save").disabled = false;
}

function save() {
  const text = page.recording.map((line) => `${JSON.stringify(line)}\n`).join("");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/x-ndjson" }));
  link.download = "stage.jsonl";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

find("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = find("question").value.trim();
  if (!question || !page.setting) return;
  find("question").value = "";
  // A recorded answer goes with the list that was recorded.
  const scene = page.setting.replay && page.setting.scenes.find((one) => one.ask === question);
  if (scene) offer.set(scene.actions);
  put(question);
});
find("stop").addEventListener("click", stop);
find("fresh").addEventListener("click", fresh);
find("save").addEventListener("click", save);
find("voice").addEventListener("click", () => find("voice").setAttribute("aria-pressed", String(!voiceOn())));
find("language").addEventListener("click", () => {
  setLang(lang() === "zh" ? "en" : "zh");
  drawLanguage();
  offer.draw();
  drawModels();
  drawActors();
  drawScenes(false);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && page.running.length) stop();
});

function drawLanguage() {
  find("language").textContent = lang() === "zh" ? "English" : "中文";
  find("language").lang = lang() === "zh" ? "en" : "zh";
}

drawLanguage();
begin().catch((error) => problem(error instanceof Refused ? error.message : `${t("failed")} ${error.message}`));
