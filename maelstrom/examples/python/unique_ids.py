#!/usr/bin/env python3
"""A node that gives out ids which no other node gives, and no other life of this one, without asking anybody.

An id is the node's name, the time of its start, and a count. The time is there for nodes that are killed and started
again: they count from 1 anew.
"""
import json
import sys
import time

node_id = None
started = time.time_ns()
count = 0


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
        count += 1
        reply["type"] = "generate_ok"
        reply["id"] = f"{node_id}-{started}-{count}"
    send(message["src"], reply)
