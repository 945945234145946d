#!/usr/bin/env node
// node listen.js [--connect ENDPOINT] [--keys FILE] [--count N] [--json]: print decisions as they come.
import { parseArgs } from "node:util";
import { messages } from "./subscriber.js";

const { values: options } = parseArgs({
  options: {
    connect: { type: "string", default: "tcp://127.0.0.1:5560" },
    keys: { type: "string" },
    count: { type: "string", default: "0" },
    json: { type: "boolean", default: false },
  },
});

let left = Number(options.count), lost = 0;
for await (const { message, lost: gap } of messages(options.connect, { keys: options.keys })) {
  lost += gap;
  const why = message.reason ? ` (${message.reason})` : "";
  console.log(
    options.json ? JSON.stringify(message) : `#${message.seq} ${message.label} ${message.confidence.toFixed(2)} ${message.source}${why}`,
  );
  if (--left === 0) break;
}
if (lost) console.error(`${lost} lost`);
