// Decisions and status of an edge-runtime over ZeroMQ, with CURVE where it has keys.
import { readFileSync } from "node:fs";
import { Subscriber } from "zeromq";

/** What `edge-runtime keys generate FOLDER --client NAME --receive` has written. */
export function readKeys(file) {
  const lines = readFileSync(file, "utf8").matchAll(/^(\w+) = (".*")$/gm);
  const keys = Object.fromEntries([...lines].map(([, name, value]) => [name, JSON.parse(value)]));
  for (const name of ["server_key", "public_key", "secret_key"])
    if (!keys[name]) throw new Error(`${file} has no ${name}; make it with: edge-runtime keys generate`);
  return { curveServerKey: keys.server_key, curvePublicKey: keys.public_key, curveSecretKey: keys.secret_key };
}

/**
 * Messages as they come: `{ topic, message, lost }`, `message` by edge_runtime/schema/decision.json or status.json, `lost`
 * the decisions between this one and the one before. A new subscriber gets the last ones first, which may be old; a
 * runtime that starts again counts from the beginning.
 */
export async function* messages(endpoint, { keys, topics = ["decision."] } = {}) {
  const socket = new Subscriber(keys ? readKeys(keys) : {});
  const before = new Map();
  try {
    for (const topic of topics) socket.subscribe(topic);
    socket.connect(endpoint);
    for await (const [name, payload] of socket) {
      const topic = name.toString(), message = JSON.parse(payload.toString());
      const last = before.get(topic);
      before.set(topic, message.seq);
      const lost = last === undefined || message.seq <= last ? 0 : message.seq - last - 1;
      yield { topic, message, lost };
    }
  } finally {
    socket.close();
  }
}
