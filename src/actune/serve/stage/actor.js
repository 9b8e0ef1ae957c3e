// One actor on its stage: words in the bubble, actions by the puppet, what it does on a placard.

import { lookup } from "./lookup.js";
import { Puppet } from "./puppet.js";
import { lang, t } from "./text.js";

// Of a look that names no time.
const SECONDS = 1.8;
const MUTE_MS = 2500;

export class Actor {
  #mouth = 0;
  #turn = 0;
  #words = "";

  /** voice: a function that tells whether words are spoken; live: a function that tells a screen reader. */
  constructor({ wardrobe, mapping, still, voice, live }) {
    Object.assign(this, { mapping, still, voice, live });
    this.root = document.querySelector("#actor").content.firstElementChild.cloneNode(true);
    this.find = (selector) => this.root.querySelector(selector);
    this.puppet = new Puppet(wardrobe, still);
    this.find(".puppet-box").append(this.puppet.svg);
    this.describe("");
  }

  /** Say in words what the picture shows. */
  describe(doing) {
    this.puppet.svg.setAttribute("aria-label", doing ? `${t("puppet")}: ${doing}` : t("puppet"));
  }

  name(text) {
    this.find(".name").textContent = text;
  }

  /** A question was put: think until the first word. */
  ponder() {
    this.reset();
    this.puppet.face("think");
    this.describe(t("thinking"));
  }

  /** Be quiet. */
  reset() {
    window.speechSynthesis?.cancel();
    this.#turn++;
    this.#shut();
    this.puppet.mood("smile");
    this.puppet.rest();
    this.#bubble("");
    this.find(".placard").hidden = true;
    this.#clip(null);
    this.describe("");
  }

  say(text) {
    // Words after an action begin a new bubble; so does a new line.
    const fresh = this.#words === "" || this.#words.endsWith("\n");
    if (fresh) this.puppet.face("smile");
    this.#bubble(fresh ? text.trimStart() : this.#words + text);
    if (!this.still && text.trim()) {
      clearTimeout(this.#mouth);
      this.puppet.talk(Date.now() % 240 < 140);
      this.#mouth = setTimeout(() => this.#shut(), 160);
    }
  }

  /** Speak, if wanted; the promise ends with the voice. */
  speak(text) {
    if (!this.voice() || !text.trim()) return Promise.resolve();
    return new Promise((resolve) => {
      const words = new SpeechSynthesisUtterance(text);
      words.lang = /[\u4e00-\u9fff]/.test(text) ? "zh-CN" : "en-US";
      // A browser without voices says nothing, and does not say that either.
      const mute = setTimeout(resolve, MUTE_MS);
      words.onstart = () => clearTimeout(mute);
      words.onend = words.onerror = resolve;
      window.speechSynthesis.speak(words);
    });
  }

  act(name) {
    const look = lookup(this.mapping, name);
    const ms = 1000 * (look.seconds ?? (look.motion ? this.puppet.wardrobe.motions[look.motion].ms / 1000 : SECONDS));
    this.#shut();
    this.#words = "";
    this.#placard(name, look);
    this.#light(look.set?.light);
    this.describe(name);
    this.live(`${t("acts")}: ${name}`);
    this.#clip(look.clip);
    const mine = ++this.#turn;
    const ended = this.puppet.perform(look, ms).then(() => {
      if (mine !== this.#turn) return;
      this.find(".placard").hidden = true;
      this.#clip(null);
      this.describe("");
    });
    return { ended, blocking: look.blocking ?? true };
  }

  fault(event) {
    this.puppet.face("afraid");
    this.#placard(event.raw, { known: false, caption: t("fault") });
  }

  #shut() {
    clearTimeout(this.#mouth);
    this.puppet.talk(false);
  }

  #bubble(text) {
    this.#words = text;
    const bubble = this.find(".words");
    bubble.hidden = !text.trim();
    bubble.textContent = text;
    bubble.scrollTop = bubble.scrollHeight;
  }

  #placard(name, look) {
    const placard = this.find(".placard");
    const caption = typeof look.caption === "object" ? look.caption[lang()] ?? "" : look.caption ?? "";
    placard.classList.toggle("unmapped", !look.known);
    placard.querySelector("b").textContent = name;
    placard.querySelector("span").textContent = look.known || caption ? caption : t("unmapped");
    placard.hidden = false;
  }

  #light(light) {
    if (light) this.root.dataset.light = light;
  }

  #clip(clip) {
    const box = this.find(".clip");
    box.hidden = !clip;
    box.replaceChildren();
    if (!clip) return;
    const film = document.createElement(clip.kind === "video" ? "video" : "img");
    if (clip.kind === "video") Object.assign(film, { muted: true, autoplay: true, loop: true, playsInline: true });
    film.src = clip.src;
    box.append(film);
  }
}
