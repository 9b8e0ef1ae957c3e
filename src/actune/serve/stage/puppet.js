// The puppet: faces, joints, things in its hand. What it can do is drawn in puppet.svg and props.svg and written in
// faces.json and motions.json.

const SVG = "http://www.w3.org/2000/svg";
const HAND = [288, 420];
const SIDE = [366, 538];
const KINDS = ["eyes", "mouth", "extra", "wear", "hat"];

async function drawing(file) {
  const text = await (await fetch(file)).text();
  return document.importNode(new DOMParser().parseFromString(text, "image/svg+xml").documentElement, true);
}

/** Fetch all that puppets are made of. */
export async function wardrobe() {
  const json = async (file) => (await fetch(file)).json();
  const [puppet, props, faces, motions] = await Promise.all([drawing("puppet.svg"), drawing("props.svg"), json("faces.json"), json("motions.json")]);
  return { puppet, props, faces, motions };
}

export class Puppet {
  #parts = {};
  #running = [];
  #face = "neutral";
  #mood = "neutral";
  #turn = 0;

  /** still: poses are held, nothing moves. */
  constructor(wardrobe, still) {
    this.wardrobe = wardrobe;
    this.still = still;
    this.svg = wardrobe.puppet.cloneNode(true);
    for (const part of this.svg.querySelectorAll("[data-part]")) this.#parts[part.dataset.part] = part;
    this.wear({ wear: "plain", hat: "none" });
    this.face("smile");
    // A timer, not an endless animation, which would have the page painted anew all the time.
    if (!still) setInterval(() => this.#blink(), 4700);
  }

  #blink() {
    if (!this.svg.isConnected || document.hidden || this.#running.length) return;
    this.#parts.eyes.animate([{}, { transform: "scaleY(0.1)" }, {}], { duration: 180 });
  }

  #choose(kind, value) {
    for (const one of this.svg.querySelectorAll(`[data-${kind}]`)) one.classList.toggle("off", one.dataset[kind] !== value);
  }

  /** Put on a face, by its name in faces.json. */
  face(name) {
    const { eyes, mouth, brows, blush = 0, extra = "none" } = this.wardrobe.faces[name];
    this.#face = name;
    for (const [kind, value] of [["eyes", eyes], ["mouth", mouth], ["extra", extra]]) this.#choose(kind, value);
    const [lift, tilt] = brows;
    this.#parts.browL.style.transform = `translateY(${lift}px) rotate(${tilt}deg)`;
    this.#parts.browR.style.transform = `translateY(${lift}px) rotate(${-tilt}deg)`;
    this.#parts.cheeks.style.opacity = blush;
  }

  /** The face that stays when an action is over. */
  mood(name) {
    this.#mood = name;
    this.face(name);
  }

  /** Move the mouth with the words. */
  talk(open) {
    this.#choose("mouth", open ? "talk" : this.wardrobe.faces[this.#face].mouth);
  }

  /** Change clothes: cloth is a colour, wear and hat are names of drawings. */
  wear({ cloth, wear, hat }) {
    if (cloth) this.svg.style.setProperty("--cloth", cloth);
    if (wear) this.#choose("wear", wear);
    if (hat) this.#choose("hat", hat);
  }

  /** Take a thing in the hand or put it beside: a drawing of ours, a picture's address, or an emoji. */
  take(prop) {
    for (const slot of ["prop", "aside"]) this.#parts[slot].replaceChildren();
    if (!prop) return;
    const drawn = this.wardrobe.props.querySelector(`[data-prop="${CSS.escape(prop.name)}"]`);
    const side = drawn?.dataset.place === "side";
    const item = drawn ? drawn.cloneNode(true) : foreign(prop);
    const [gripX, gripY] = (item.dataset.grip ?? "32 50").split(" ").map(Number);
    const scale = Number(item.dataset.scale ?? 1.8);
    const [x, y] = side ? SIDE : HAND;
    item.setAttribute("transform", `translate(${x} ${y}) scale(${scale}) translate(${-gripX} ${-gripY})`);
    this.#parts[side ? "aside" : "prop"].append(item);
  }

  /** Let small things fly on both sides, by their name in props.svg. */
  fly(bit, count = 7) {
    const drawn = this.wardrobe.props.querySelector(`[data-bit="${CSS.escape(bit)}"]`);
    this.#parts.sky.replaceChildren();
    for (let i = 0; drawn && i < count; i++) {
      const outer = document.createElementNS(SVG, "g");
      outer.setAttribute("transform", `translate(${(i % 2 ? 285 : 5) + ((i * 37) % 75)} ${60 + ((i * 89) % 230)}) scale(${0.55 + (i % 3) * 0.15})`);
      const inner = drawn.cloneNode(true);
      outer.append(inner);
      this.#parts.sky.append(outer);
      if (this.still) continue;
      const drift = i % 2 ? 30 : -30;
      const frames = [
        { opacity: 0, transform: "translate(0, 60px) scale(0.4)" },
        { opacity: 1, transform: "translate(0, 10px) scale(1)", offset: 0.25 },
        { opacity: 0, transform: `translate(${drift}px, -110px) rotate(${drift}deg)` },
      ];
      this.#running.push(inner.animate(frames, { duration: 1700, delay: i * 170, iterations: 6, fill: "both" }));
    }
  }

  /** Perform a look for so many milliseconds; the promise ends with it. */
  async perform({ face, motion, prop, effect, set }, ms) {
    const mine = ++this.#turn;
    if (face) this.face(face);
    this.take(prop);
    if (effect) this.fly(effect);
    // Clothes are changed in the middle of a turn, when nobody sees it.
    const change = setTimeout(() => set && this.wear(set), motion === "turn" && !this.still ? ms * 0.5 : 0);
    const done = motion ? this.#move(motion, ms) : new Promise((resolve) => setTimeout(resolve, ms));
    await done;
    clearTimeout(change);
    if (set) this.wear(set);
    // It may have been told to rest before, and do something else by now.
    if (mine === this.#turn) this.rest();
  }

  /** Stop moving, put things away, show the mood. */
  rest() {
    this.#turn++;
    for (const one of this.#running) one.cancel();
    this.#running = [];
    this.take(null);
    this.#parts.sky.replaceChildren();
    this.face(this.#mood);
  }

  #move(name, ms) {
    const { frames } = this.wardrobe.motions[name];
    // Who does not want movement sees the pose that says most: the one in the middle.
    const shown = this.still ? [frames[Math.floor(frames.length / 2)]].flatMap((one) => [{ ...one, at: 0 }, { ...one, at: 1 }]) : frames;
    const options = { duration: ms, easing: "linear", fill: "none" };
    const moves = Object.entries(this.#parts).flatMap(([part, element]) => {
      const write = WRITE[part];
      if (!write) return [];
      return [element.animate(shown.map((frame) => ({ offset: frame.at, easing: "ease-in-out", transform: write(frame) })), options)];
    });
    this.#running.push(...moves);
    return Promise.allSettled(moves.map((one) => one.finished));
  }
}

const turn = (part) => (frame) => `rotate(${frame[part] ?? 0}deg)`;
const place = (part) => (frame) => {
  const [x, y, angle] = list(frame[part]);
  return `translate(${x}px, ${y}px) rotate(${angle}deg)`;
};
const list = (value) => (Array.isArray(value) ? value : [0, 0, value ?? 0]);

// How a frame of motions.json moves each part.
const WRITE = {
  all: (frame) => `${place("all")(frame)} scale(${frame.flip ?? 1}, ${frame.squash ?? 1})`,
  torso: place("torso"),
  head: place("head"),
  armL: turn("armL"),
  armR: turn("armR"),
  foreL: turn("foreL"),
  foreR: turn("foreR"),
  legL: turn("legL"),
  legR: turn("legR"),
  eyes: (frame) => `translate(${frame.eyes?.[0] ?? 0}px, ${frame.eyes?.[1] ?? 0}px)`,
  // What is in the hand stays upright, whatever the arm does.
  prop: (frame) => `rotate(${(frame.prop ?? 0) - (frame.armR ?? 0) - (frame.foreR ?? 0) - list(frame.torso)[2]}deg)`,
};

function foreign(prop) {
  const item = document.createElementNS(SVG, prop.src ? "image" : "text");
  if (prop.src) {
    item.setAttribute("href", prop.src);
    for (const side of ["width", "height"]) item.setAttribute(side, "64");
  } else {
    item.textContent = prop.name;
    for (const [attribute, value] of [["x", "32"], ["y", "50"], ["font-size", "52"], ["text-anchor", "middle"]]) item.setAttribute(attribute, value);
  }
  return item;
}
