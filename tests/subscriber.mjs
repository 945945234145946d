// A subscriber in another language with nothing but a socket: ZMTP 3.0 (rfc.zeromq.org/spec/23), NULL security, SUB.
// node subscriber.mjs HOST PORT COUNT prints COUNT decisions, one JSON document a line.
import { connect } from "node:net";

const [host, port, count] = process.argv.slice(2);
const command = (name, body) => Buffer.concat([Buffer.from([4, 1 + name.length + body.length, name.length]), Buffer.from(name), body]);
const property = (name, value) => Buffer.concat([Buffer.from([name.length]), Buffer.from(name), Buffer.from([0, 0, 0, value.length]), Buffer.from(value)]);
const greeting = Buffer.alloc(64);
greeting[0] = 0xff; greeting[9] = 0x7f; greeting[10] = 3; greeting.write("NULL", 12);

let waiting = Buffer.alloc(0), greeted = false, parts = [], seen = 0;
const socket = connect(Number(port), host, () => socket.write(greeting));
socket.on("data", (data) => {
  waiting = Buffer.concat([waiting, data]);
  if (!greeted && waiting.length >= 64) {
    greeted = true; waiting = waiting.subarray(64);
    socket.write(command("READY", property("Socket-Type", "SUB")));
    socket.write(Buffer.concat([Buffer.from([0, 10, 1]), Buffer.from("decision.")]));
  }
  while (greeted && waiting.length >= 2) {
    const [flags] = waiting, long = flags & 2, head = long ? 9 : 2;
    if (waiting.length < head) return;
    const size = long ? Number(waiting.readBigUInt64BE(1)) : waiting[1];
    if (waiting.length < head + size) return;
    const body = waiting.subarray(head, head + size);
    waiting = waiting.subarray(head + size);
    if (flags & 4) continue;
    parts.push(body);
    if (flags & 1) continue;
    console.log(parts[1].toString("utf8"));
    parts = [];
    if (++seen == Number(count)) return socket.destroy();
  }
});
