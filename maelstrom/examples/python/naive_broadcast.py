#!/usr/bin/env python3
"""The broadcast that one writes first: each value that is new goes to the neighbours, once.

It is right while the network is whole, and wrong when it is not; broadcast.py is what to make of it.
"""
import json
import sys

node_id = None
neighbours = []
values = []


def send(dest, body):
    print(json.dumps({"src": node_id, "dest": dest, "body": body}), flush=True)


def learn(value):
    if value not in values:
        values.append(value)
        for n in neighbours:
            send(n, {"type": "gossip", "value": value})


for line in sys.stdin:
    message = json.loads(line)
    src, body = message["src"], message["body"]
    reply = {"in_reply_to": body.get("msg_id"), "type": body["type"] + "_ok"}
    if body["type"] == "init":
        node_id = body["node_id"]
    elif body["type"] == "topology":
        neighbours = body["topology"][node_id]
    elif body["type"] == "broadcast":
        learn(body["message"])
    elif body["type"] == "read":
        reply["messages"] = values
    elif body["type"] == "gossip":
        learn(body["value"])
        continue  # no answer
    send(src, reply)
