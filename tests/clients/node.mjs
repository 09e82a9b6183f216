// Node's http with an agent that keeps connections, and Node's http2. Prints what answered each
// request.
//
// usage: node.mjs HOST PORT COUNT

import assert from "node:assert/strict";
import http from "node:http";
import http2 from "node:http2";

const [host, port, count] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const agent = new http.Agent({ keepAlive: true, maxSockets: 4 });

function ask(method, path, { headers = {}, chunks = [] } = {}) {
  return new Promise((resolve, reject) => {
    const request = http.request({ host, port, method, path, headers, agent }, (answer) => {
      const parts = [];
      answer.on("data", (part) => parts.push(part));
      answer.on("end", () => resolve({ answer, body: Buffer.concat(parts).toString() }));
      answer.on("error", reject);
    });
    request.on("error", reject);
    // Without a length, more than one write is sent in chunks.
    for (const chunk of chunks) request.write(chunk);
    request.end();
  });
}

const servers = [];
const all = Array.from({ length: count }, (_, n) => ask("GET", `/anything?n=${n}`, { headers: { "X-Client": "node" } }));
for (const [n, { answer, body }] of (await Promise.all(all)).entries()) {
  const seen = JSON.parse(body);
  assert.deepEqual([answer.statusCode, seen.path], [200, `/anything?n=${n}`]);
  servers.push(seen.server);
}
const chunked = await ask("POST", "/chunks", { chunks: ["ab", "cd"] });
assert.equal(JSON.parse(chunked.body).body, "abcd");
const bytes = await ask("GET", "/bytes?n=1000000");
assert.equal(bytes.body, "0123456789".repeat(100_000));
agent.destroy();

const session = http2.connect(`http://${host}:${port}`);
const streams = Array.from({ length: count }, (_, n) => new Promise((resolve, reject) => {
  const stream = session.request({ ":method": "POST", ":path": `/anything?n=${n}`, "x-client": "node" });
  let [body, status] = ["", 0];
  stream.setEncoding("utf8");
  stream.on("response", (fields) => { status = fields[":status"]; });
  stream.on("data", (part) => { body += part; });
  stream.on("end", () => resolve({ n, status, body }));
  stream.on("error", reject);
  stream.end("hello");
}));
for (const { n, status, body } of await Promise.all(streams)) {
  const seen = JSON.parse(body);
  assert.deepEqual([status, seen.path, seen.body], [200, `/anything?n=${n}`, "hello"]);
  servers.push(seen.server);
}
session.close();
console.log(JSON.stringify(servers));
