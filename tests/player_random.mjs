// Plays random answers through the page's player by a clock of its own and prints the first broken promise, if any.
// Arguments: the folder of the page, how many answers.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

const [folder, count] = process.argv.slice(2);
let now = 0;
let timers = [];
globalThis.performance = { now: () => now };
const later = setImmediate;
globalThis.setTimeout = (call, ms = 0) => timers.push({ at: now + ms, call });
const source = readFileSync(`${folder}/player.js`, "utf8");
const { Player } = await import(`data:text/javascript,${encodeURIComponent(source)}`);

let state = 7;
const random = (n) => (state = (state * 48271) % 2147483647) % n;
const pick = (list) => list[random(list.length)];
const settle = () => new Promise((resolve) => later(() => later(resolve)));
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function play() {
  const events = Array.from({ length: random(12) }, () =>
    random(2) ? { type: "text", text: pick(["好的。", "Hi, 👩‍👩‍👧 ", "\n", "a", "了解，马上 "]) } : { type: "action", ms: random(900), blocking: random(3) > 0 },
  );
  events.push({ type: "done" });
  const log = [];
  const acting = new Set();
  let voices = 0;
  const body = {
    say(part, event) {
      assert(![...acting].some((one) => one.blocking), "words while an action blocks");
      log.push({ event, part });
    },
    speak() {
      voices += 1;
      return wait(random(3) ? 0 : random(500)).then(() => (voices -= 1));
    },
    act(event) {
      assert.equal(voices, 0, "an action while words are spoken");
      assert.equal(acting.size, 0, "two actions at once");
      acting.add(event);
      log.push({ event });
      return { ended: wait(event.ms).then(() => acting.delete(event)), blocking: event.blocking };
    },
    end(event) {
      assert.equal(acting.size, 0, "the end while an action lasts");
      log.push({ event });
    },
  };
  const player = new Player(body, { whole: random(2) === 0 });
  let over = false;
  player.finished.then(() => (over = true));
  let time = 0;
  for (const event of events) setTimeout(() => player.push(event), (time += pick([0, 0, 5, 400])));
  const cut = random(3) === 0 ? random(4000) : Infinity;
  let stopped = null;
  while (!over) {
    await settle();
    if (over) break;
    timers.sort((one, other) => one.at - other.at);
    if (stopped === null && (timers[0]?.at ?? Infinity) > cut) {
      now = Math.max(now, cut);
      stopped = { heard: player.stop(), length: log.length };
      continue;
    }
    assert(timers.length || stopped, "it hangs");
    const next = timers.shift();
    now = Math.max(now, next.at);
    next.call();
  }
  for (const one of timers.splice(0)) one.call();
  await settle();
  // What was performed is the beginning of what was written: all of it, unless it was stopped.
  const done = log.map(({ event, part }) => part ?? events.indexOf(event)).reduce(joined, []);
  const written = events.map((event, place) => event.text ?? place).reduce(joined, []);
  if (stopped) {
    assert.equal(log.length, stopped.length, "something happened after the stop");
    assert.equal(stopped.heard, done.filter((one) => typeof one === "string").join(""));
    const last = done.pop();
    assert.deepEqual(done, written.slice(0, done.length));
    const there = written[done.length];
    assert(last === undefined || (typeof last === "string" ? there.startsWith(last) : there === last), "out of order");
  } else assert.deepEqual(done, written);
}

const joined = (all, one) => {
  if (typeof one === "string" && typeof all.at(-1) === "string") all[all.length - 1] += one;
  else all.push(one);
  return all;
};

for (let i = 0; i < Number(count); i++) {
  now = 0;
  timers = [];
  await play();
}

// On a page that takes 200 ms to show a letter, words are not late: several come at once.
now = 0;
let shows = 0;
const slow = { speak: () => Promise.resolve(), end() {} };
slow.say = () => {
  shows += 1;
  now += 200;
};
const player = new Player(slow);
player.push({ type: "text", text: "word ".repeat(40) });
player.push({ type: "done" });
let over = false;
player.finished.then(() => (over = true));
for (await settle(); !over; await settle()) {
  const next = timers.shift();
  now = Math.max(now, next.at);
  next.call();
}
assert(shows < 50 && now < 7500, `late: ${shows} times, ${now} ms`);
console.log("kept");
