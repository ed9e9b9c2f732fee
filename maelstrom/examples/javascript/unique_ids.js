#!/usr/bin/env node
// A node that gives out ids which nobody else gives. Randomness does it as well as names and counts: 122 random bits.
const readline = require("node:readline");
const { randomUUID } = require("node:crypto");

let nodeId;

function send(dest, body) {
  console.log(JSON.stringify({ src: nodeId, dest, body }));
}

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const { src, body } = JSON.parse(line);
  if (body.type === "init") {
    nodeId = body.node_id;
    send(src, { type: "init_ok", in_reply_to: body.msg_id });
  } else {
    send(src, { type: "generate_ok", in_reply_to: body.msg_id, id: randomUUID() });
  }
});
