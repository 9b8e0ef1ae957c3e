// The server: what it has, and an answer's events as they come.

let key = "";

export const setKey = (value) => (key = value);

/** A refusal by the server, with its HTTP status. */
export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function call(path, options = {}) {
  const headers = { ...(options.body ? { "Content-Type": "application/json" } : {}), ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new Refused(body?.error?.message ?? response.statusText, response.status);
}

/** The names of the models; the first is the one asked for where none is named. */
export async function models() {
  return (await (await call("v1/models")).json()).data.map((card) => card.id);
}

/** What the stage shows: mapping, scenes, the server's own list of actions, whether it is a replay. */
export async function setting() {
  return (await call("stage.json")).json();
}

/** Yield the events of an answer; aborting the signal leaves, and the server stops writing. */
export async function* ask(body, signal) {
  const response = await call("act", { method: "POST", body: JSON.stringify(body), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const frames = (rest + value).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      const data = frame.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
      if (data.length) yield JSON.parse(data.join("\n"));
    }
  }
}
