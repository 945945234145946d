// A subscriber of an endpoint with keys: node curve_subscriber.cjs ENDPOINT KEYS.toml COUNT (npm install zeromq).
const { readFileSync } = require("node:fs");
const { Subscriber } = require("zeromq");

const [endpoint, file, count] = process.argv.slice(2);
const keys = Object.fromEntries([...readFileSync(file, "utf8").matchAll(/^(\w+) = "(.*)"$/gm)].map(([, name, value]) => [name, JSON.parse(`"${value}"`)]));
const subscriber = new Subscriber({ curveServerKey: keys.server_key, curvePublicKey: keys.public_key, curveSecretKey: keys.secret_key });
subscriber.subscribe("decision.");
subscriber.connect(endpoint);
(async () => {
  let seen = 0;
  for await (const [, payload] of subscriber) {
    console.log(payload.toString());
    if (++seen == Number(count)) break;
  }
  subscriber.close();
})();
