// Follows a live query as a program of Node.js would, by what is built in: fetch (HTTP/1.1) or http2 with prior knowledge.
// Comes back with `from` after the connection is cut. Usage: node follow.mjs fetch|http2 URL

import http2 from "node:http2";

const [how, base] = process.argv.slice(2);
const query = "SELECT id, health_port FROM containers WHERE service = 'followed'";
const json = { "content-type": "application/json" };

/** One request: its status, headers and the pieces of its body. */
async function byFetch(method, path, body) {
  const response = await fetch(base + path, { method, headers: json, body: body && JSON.stringify(body) });
  return { status: response.status, id: response.headers.get("corro-query-id"), pieces: response.body };
}

async function byHttp2(method, path, body) {
  const session = http2.connect(base);
  const stream = session.request({ ":method": method, ":path": path, ...json });
  stream.end(body && JSON.stringify(body));
  const head = await new Promise((resolve, reject) => {
    stream.on("response", resolve);
    for (const it of [session, stream]) it.on("error", reject);
  });
  stream.on("close", () => session.destroy());
  return { status: head[":status"], id: head["corro-query-id"], pieces: whole(stream) };
}

/** A stream that is cut ends by itself in http2; only its code says so. */
async function* whole(stream) {
  yield* stream;
  if (stream.rstCode || !stream.readableEnded || stream.aborted) throw new Error("cut off");
}

const ask = how === "http2" ? byHttp2 : byFetch;

async function* lines(pieces) {
  let rest = "";
  const decoder = new TextDecoder();
  for await (const piece of pieces) {
    const parts = (rest + decoder.decode(piece, { stream: true })).split("\n");
    rest = parts.pop();
    for (const line of parts) yield JSON.parse(line);
  }
}

async function execute(sql, params) {
  const { status, pieces } = await ask("POST", "/v1/transactions", [[sql, params]]);
  for await (const done of pieces) void done;
  if (status !== 200) throw new Error(`${sql}: ${status}`);
}

const insert = "INSERT INTO containers (id, service, health_port) VALUES (?, 'followed', ?)";
await execute(insert, ["a", 80]);
let last = 0;
let id = null;
for (let attempt = 0; attempt < 50; attempt++) {
  try {
    const path = id ? `/v1/subscriptions/${id}?from=${last}` : "/v1/subscriptions";
    const answer = await ask(id ? "GET" : "POST", path, id ? undefined : query);
    id ??= answer.id;
    for await (const line of lines(answer.pieces)) {
      delete line.eoq?.time;
      console.log(JSON.stringify(line));
      if (line.eoq) await execute(insert, ["b", 81]);
      if (!line.change) continue;
      last = line.change[3];
      if (last === 1) console.log("following");
      if (line.change[0] === "delete") process.exit(0);
    }
    throw new Error("the stream ended");
  } catch (error) {
    if (last === 0) throw error;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
process.exit(1);
