// One answer: asked for, received, performed, perhaps stopped.

import { Player } from "./player.js";
import { Refused, ask } from "./stream.js";
import { t } from "./text.js";

/**
 * Ask one actor and let it perform the answer.
 *
 * asked: the question as the server takes it. one: {actor, cues, session, heard}. page: {written: the dialogue's line,
 * offer, live, record, problem, still}. Returns {stop, finished: promise}.
 */
export function answer(asked, one, page) {
  const { actor, cues } = one;
  const { written, offer, live } = page;
  const abort = new AbortController();
  let spoken = "";
  cues.clear();
  actor.ponder();
  const player = new Player(
    {
      say(text, event) {
        actor.say(text);
        written.say(text);
        cues.said(event.row, text);
        spoken += text;
      },
      speak: (text) => actor.speak(text),
      act(event) {
        if (spoken.trim()) live(spoken.trim());
        spoken = "";
        cues.light(event.row);
        written.act(event.name);
        const act = actor.act(event.name);
        offer.light(event.name, act.ended);
        return act;
      },
      fault(event) {
        cues.light(event.row);
        written.note(event.kind === "model" ? t("cut") : event.raw);
        actor.fault(event);
      },
      end(event) {
        if (spoken.trim()) live(spoken.trim());
        cues.light(event.row);
        if (event.finish_reason !== "stop") written.note(t(event.finish_reason));
        one.heard = null;
      },
    },
    { whole: page.still },
  );
  let over = false;
  const stop = () => {
    if (over) return;
    // The server forgets what nobody heard; see `heard` in the next question.
    one.heard = player.stop();
    abort.abort();
    actor.reset();
    written.note(t("interrupted"));
    live(t("interrupted"));
  };
  const finished = receive(asked, one, player, abort, page).then(() => player.finished).then(() => (over = true));
  return { stop, finished };
}

async function receive(asked, one, player, abort, page) {
  const { model, question, actions } = asked;
  const body = { ...asked, session: one.session };
  if (one.heard !== null) body.heard = one.heard;
  const began = performance.now();
  page.record({ type: "ask", model, question, actions });
  let first = null;
  let came = false;
  let done = false;
  try {
    for await (const event of ask(body, abort.signal)) {
      const ms = performance.now() - began;
      came = true;
      page.record({ model, ms: Math.round(ms * 10) / 10, ...event });
      if (first === null && event.type === "text" && event.text.trim()) {
        first = ms;
        one.cues.number("first", Math.round(ms), " ms");
      }
      if (event.type === "done") {
        done = true;
        if (event.tokens) one.cues.number("rate", (event.tokens / (ms / 1000)).toFixed(1));
        if (Number.isInteger(event.prevented)) one.cues.number("prevented", event.prevented);
      }
      player.push({ ...event, row: one.cues.add(event, ms) });
    }
  } catch (error) {
    if (abort.signal.aborted) return;
    page.problem(error instanceof Refused ? error.message : t("failed"));
  }
  if (done || abort.signal.aborted) return;
  if (came) player.push({ type: "done", finish_reason: "cut", row: null });
  else {
    player.stop();
    one.actor.reset();
    one.actor.puppet.mood("sad");
  }
}
