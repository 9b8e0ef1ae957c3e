// The order: words at reading speed, each action when the words before it have been said. No page in here.

const MS = { wide: 95, narrow: 30, comma: 130, stop: 260 };
const WIDE = /[\u1100-\u11ff\u2e80-\ua4cf\uac00-\ud7af\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffe6]/;
const letters = typeof Intl.Segmenter === "function" ? new Intl.Segmenter() : null;

const split = (text) => (letters ? Array.from(letters.segment(text), (one) => one.segment) : Array.from(text));

/** How long a letter takes to be read, in milliseconds. */
export function readingMs(letter) {
  const stop = /[。！？!?…\n]/.test(letter) ? MS.stop : /[，、；：,;:]/.test(letter) ? MS.comma : 0;
  return (WIDE.test(letter) ? MS.wide : MS.narrow) + stop;
}

/**
 * Performs the events of one answer, one after the other, whenever they come.
 *
 * body: what performs them: say(text, event), speak(text) -> promise, act(event) -> {ended: promise, blocking},
 * fault(event), end(event).
 */
export class Player {
  #queue = [];
  #wake = null;
  #stopped = false;
  #cut = null;
  #stop = new Promise((resolve) => (this.#cut = resolve));
  #heard = "";

  constructor(body, { whole = false } = {}) {
    this.body = body;
    this.whole = whole;
    this.finished = this.#run();
  }

  /** Take the next event. Nothing is performed before what came before it. */
  push(event) {
    this.#queue.push(event);
    this.#wake?.();
  }

  /** Stop at once; return the words that were said. */
  stop() {
    this.#stopped = true;
    this.#cut();
    return this.#heard;
  }

  async #run() {
    let acting = Promise.resolve();
    for (;;) {
      const event = await this.#next();
      if (!event) return;
      if (event.type === "text") await this.#say(event);
      if (this.#stopped) return;
      if (event.type === "action") {
        // One body: an action waits for the one before it, and unless its look says otherwise the words wait too.
        await this.#unlessStopped(acting);
        if (this.#stopped) return;
        const { ended, blocking } = this.body.act(event);
        acting = ended;
        if (blocking) await this.#unlessStopped(ended);
      } else if (event.type === "error") {
        this.body.fault(event);
      } else if (event.type === "done") {
        await this.#unlessStopped(acting);
        if (!this.#stopped) this.body.end(event);
        return;
      }
    }
  }

  async #next() {
    while (!this.#queue.length && !this.#stopped) await this.#unlessStopped(new Promise((resolve) => (this.#wake = resolve)));
    return this.#stopped ? null : this.#queue.shift();
  }

  #unlessStopped(promise) {
    return Promise.race([promise, this.#stop]);
  }

  async #say(event) {
    const spoken = this.body.speak(event.text);
    const parts = this.whole ? [event.text] : split(event.text);
    let due = performance.now();
    for (let place = 0; place < parts.length; ) {
      if (this.#stopped) return;
      // By the clock, not by steps: a page in the background is woken once a second only, a slow one is late. What is
      // due by now comes at once.
      let piece = "";
      do {
        due += split(parts[place]).reduce((sum, letter) => sum + readingMs(letter), 0);
        piece += parts[place++];
      } while (place < parts.length && due <= performance.now());
      this.#heard += piece;
      this.body.say(piece, event);
      await this.#unlessStopped(new Promise((resolve) => setTimeout(resolve, due - performance.now())));
    }
    await this.#unlessStopped(spoken);
  }
}
