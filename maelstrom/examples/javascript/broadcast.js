#!/usr/bin/env node
// A node that spreads values to all others, through partitions.
//
// A value that is new goes to the neighbours at once. A neighbour confirms what it has; what it has not confirmed is
// sent to it again every half second. So a lost message costs time and nothing else. Kills are another matter: values
// and neighbours are in memory alone, the topology is told only once, and nobody sends again what the dead node had
// confirmed.
const readline = require("node:readline");

const RETRY_MS = 500;

let nodeId;
let neighbours = [];
const values = new Set(); // in the order in which they came
const confirmed = new Map(); // neighbour → the values that it has

function send(dest, body) {
  console.log(JSON.stringify({ src: nodeId, dest, body }));
}

// spread sends each neighbour what it has not confirmed.
function spread() {
  for (const neighbour of neighbours) {
    const missing = [...values].filter((v) => !confirmed.get(neighbour).has(v));
    if (missing.length > 0) send(neighbour, { type: "gossip", values: missing });
  }
}

// learn takes values in, and passes on those that are new.
function learn(these) {
  const before = values.size;
  these.forEach((v) => values.add(v));
  if (values.size > before) spread();
}

function confirm(neighbour, these) {
  these.forEach((v) => confirmed.get(neighbour)?.add(v));
}

const handlers = {
  init(src, body) {
    nodeId = body.node_id;
    return { type: "init_ok" };
  },
  topology(src, body) {
    neighbours = body.topology[nodeId];
    neighbours.forEach((n) => confirmed.set(n, new Set()));
    return { type: "topology_ok" };
  },
  broadcast(src, body) {
    learn([body.message]);
    return { type: "broadcast_ok" };
  },
  read() {
    return { type: "read_ok", messages: [...values] };
  },
  gossip(src, body) {
    confirm(src, body.values);
    send(src, { type: "gossip_ok", values: body.values });
    learn(body.values);
  },
  gossip_ok(src, body) {
    confirm(src, body.values);
  },
};

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const { src, body } = JSON.parse(line);
  const answer = handlers[body.type](src, body);
  if (answer) send(src, { ...answer, in_reply_to: body.msg_id });
});
setInterval(spread, RETRY_MS);
process.stdin.on("end", () => process.exit());
