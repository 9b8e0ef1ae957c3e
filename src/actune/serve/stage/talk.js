// The dialogue as it was performed: what was asked, said and done, in order.

import { t } from "./text.js";

export class Talk {
  constructor(root) {
    this.root = root;
    this.clear();
  }

  clear() {
    const empty = document.createElement("li");
    empty.className = "empty";
    empty.dataset.t = "noTalk";
    empty.textContent = t("noTalk");
    this.root.replaceChildren(empty);
  }

  ask(question) {
    this.root.querySelector(".empty")?.remove();
    this.#line("question").textContent = question;
  }

  /** Begin an answer; return what writes it. */
  answer(who) {
    const line = this.#line("answer");
    if (who) {
      const label = document.createElement("small");
      label.textContent = who;
      line.append(label);
    }
    const put = (kind, text) => {
      const last = line.lastChild;
      if (kind === "said" && last?.className === "said") last.textContent += text;
      else {
        const piece = document.createElement("span");
        piece.className = kind;
        piece.textContent = text;
        line.append(piece);
      }
      this.root.scrollTop = this.root.scrollHeight;
    };
    return { say: (text) => put("said", text), act: (name) => put("act", name), note: (text) => put("note", text) };
  }

  #line(kind) {
    const line = document.createElement("li");
    line.className = kind;
    this.root.append(line);
    this.root.scrollTop = this.root.scrollHeight;
    return line;
  }
}
