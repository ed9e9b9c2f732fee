#!/usr/bin/env node
// A node that answers every echo with what it was sent.
const readline = require("node:readline");

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
    send(src, { type: "echo_ok", in_reply_to: body.msg_id, echo: body.echo });
  }
});
