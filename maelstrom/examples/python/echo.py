#!/usr/bin/env python3
"""A node that answers every echo with what it was sent."""
import json
import sys

node_id = None


def send(dest, body):
    print(json.dumps({"src": node_id, "dest": dest, "body": body}), flush=True)


for line in sys.stdin:
    message = json.loads(line)
    request = message["body"]
    reply = {"in_reply_to": request["msg_id"]}
    if request["type"] == "init":
        node_id = request["node_id"]
        reply["type"] = "init_ok"
    else:
        reply["type"] = "echo_ok"
        reply["echo"] = request["echo"]
    send(message["src"], reply)
