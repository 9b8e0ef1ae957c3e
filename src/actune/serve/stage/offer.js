// The list of actions of the next request: edited by the user, the chosen one lit.

import { reveal } from "./scroll.js";
import { t } from "./text.js";

export class Offer {
  #names = [];

  constructor({ list, count, form, input, clear }) {
    Object.assign(this, { list, count, input });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.set([...this.#names, ...input.value.split(/[、\n]/)]);
      input.value = "";
    });
    clear.addEventListener("click", () => {
      this.set([]);
      input.focus();
    });
  }

  get names() {
    return [...this.#names];
  }

  /** Offer these; blanks and doubles go. */
  set(names) {
    this.#names = [...new Set(names.map((name) => name.trim()).filter(Boolean))];
    this.draw();
  }

  draw() {
    this.count.textContent = this.#names.length || "";
    const chips = this.#names.map((name) => {
      const chip = document.createElement("li");
      chip.dataset.name = name;
      const label = document.createElement("span");
      label.textContent = name;
      const remove = document.createElement("button");
      remove.type = "button";
      remove.textContent = "×";
      remove.setAttribute("aria-label", `${t("remove")} ${name}`);
      remove.addEventListener("click", () => {
        const place = this.#names.indexOf(name);
        this.set(this.#names.filter((one) => one !== name));
        (this.list.querySelectorAll("button")[place] ?? this.input).focus();
      });
      chip.append(label, remove);
      return chip;
    });
    if (!chips.length) {
      const empty = document.createElement("li");
      empty.className = "empty";
      empty.textContent = t("noActions");
      chips.push(empty);
    }
    this.list.replaceChildren(...chips);
  }

  /** Light the chosen action as long as a promise lasts. */
  light(name, ended) {
    const chip = [...this.list.children].find((one) => one.dataset.name === name);
    if (!chip) return;
    chip.classList.add("now", "chosen");
    reveal(chip, this.list);
    ended.finally(() => chip.classList.remove("now"));
  }

  /** Forget what was chosen. */
  dim() {
    for (const chip of this.list.children) chip.classList.remove("now", "chosen");
  }
}
