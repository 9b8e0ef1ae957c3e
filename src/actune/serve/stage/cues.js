// The cue sheet of one answer: words and actions with the milliseconds at which they came, lit as they are performed.

import { reveal } from "./scroll.js";
import { t, translate } from "./text.js";

export class Cues {
  #rows = [];

  constructor() {
    this.root = document.querySelector("#cue-column").content.firstElementChild.cloneNode(true);
    translate(this.root);
    this.list = this.root.querySelector(".list");
    this.ribbon = this.root.querySelector(".ribbon");
  }

  name(text) {
    this.root.querySelector("h3").textContent = text;
  }

  /** Begin a new sheet. */
  clear() {
    this.#rows = [];
    this.list.replaceChildren();
    this.ribbon.replaceChildren();
    for (const key of ["first", "rate", "prevented"]) this.number(key, null);
  }

  /** Show a number; null: it is not known. */
  number(key, value, unit = "") {
    this.root.querySelector(`[data-n="${key}"]`).textContent = value === null ? "–" : `${value}${unit}`;
  }

  /** Write down an event that came; return its row. Words that follow words lengthen their row. */
  add(event, ms) {
    const last = this.#rows.at(-1);
    if (event.type === "text" && last?.type === "text") {
      last.text += event.text;
      last.to = ms;
      this.#write(last);
      return last;
    }
    const row = { type: event.type, text: event.text ?? event.name ?? event.raw ?? reason(event), from: ms, to: ms, said: "" };
    row.element = document.createElement("li");
    row.element.className = row.type;
    row.time = document.createElement("time");
    row.what = document.createElement("span");
    row.element.append(row.time, row.what);
    this.#rows.push(row);
    this.#write(row);
    this.list.append(row.element);
    return row;
  }

  #write(row) {
    row.time.textContent = row.to > row.from ? `${Math.round(row.from)}–${Math.round(row.to)} ms` : `${Math.round(row.from)} ms`;
    // What has been said stands out from what is still to come.
    const said = document.createElement("b");
    said.textContent = row.said;
    row.what.replaceChildren(said, row.text.slice(row.said.length));
    row.element.hidden = row.type === "text" && !row.text.trim();
    this.#draw();
  }

  /** Words of a row were said. */
  said(row, text) {
    row.said += text;
    this.#write(row);
    this.light(row);
  }

  /** Light what is being performed. */
  light(row) {
    for (const one of this.#rows) one.element.classList.toggle("now", one === row);
    row?.element.classList.add("done");
    if (row) reveal(row.element, this.list);
    this.#draw();
  }

  /** The ribbon: words are bars, actions are diamonds, on an axis of milliseconds. */
  #draw() {
    const end = Math.max(1, ...this.#rows.map((row) => row.to));
    const marks = this.#rows.filter((row) => row.type !== "done").map((row) => {
      const mark = document.createElement("i");
      mark.className = row.element?.className ?? row.type;
      mark.style.left = `${(96 * row.from) / end}%`;
      if (row.type === "text") mark.style.width = `${Math.max(1, (96 * (row.to - row.from)) / end)}%`;
      return mark;
    });
    this.ribbon.replaceChildren(...marks);
  }
}

const reason = (event) => (event.finish_reason === "stop" ? "■" : `■ ${t(event.finish_reason)}`);
