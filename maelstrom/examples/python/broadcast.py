#!/usr/bin/env python3
"""A node that spreads values to all others, through partitions.

A value that is new goes to the neighbours at once. A neighbour confirms what it has; what it has not confirmed is sent
to it again every half second. So a lost message costs time and nothing else. Kills are another matter: values and
neighbours are in memory alone, the topology is told only once, and nobody sends again what the dead node had confirmed.
"""
import json
import sys
import threading

RETRY_SECONDS = 0.5

lock = threading.Lock()  # guards all of the following, and standard output
node_id = None
neighbours = []
values = []  # in the order in which they came
confirmed = {}  # neighbour -> the values that it has


def send(dest, body):
    print(json.dumps({"src": node_id, "dest": dest, "body": body}), flush=True)


def spread():
    """Sends each neighbour what it has not confirmed."""
    for neighbour in neighbours:
        missing = [v for v in values if v not in confirmed[neighbour]]
        if missing:
            send(neighbour, {"type": "gossip", "values": missing})


def repair():
    while True:
        threading.Event().wait(RETRY_SECONDS)
        with lock:
            spread()


def learn(new):
    fresh = [v for v in new if v not in values]
    values.extend(fresh)
    return fresh


def handle(src, body):
    """Returns the answer; None if there is none."""
    global node_id, neighbours
    kind = body["type"]
    if kind == "init":
        node_id = body["node_id"]
        return {"type": "init_ok"}
    if kind == "topology":
        neighbours = body["topology"][node_id]
        confirmed.update({n: set() for n in neighbours})
        return {"type": "topology_ok"}
    if kind == "broadcast":
        if learn([body["message"]]):
            spread()
        return {"type": "broadcast_ok"}
    if kind == "read":
        return {"type": "read_ok", "messages": values}
    if kind == "gossip":
        fresh = learn(body["values"])
        if src in confirmed:
            confirmed[src].update(body["values"])
        send(src, {"type": "gossip_ok", "values": body["values"]})
        if fresh:
            spread()
        return None
    if kind == "gossip_ok" and src in confirmed:
        confirmed[src].update(body["values"])
    return None


threading.Thread(target=repair, daemon=True).start()
for line in sys.stdin:
    message = json.loads(line)
    request = message["body"]
    with lock:
        answer = handle(message["src"], request)
        if answer and "msg_id" in request:
            answer["in_reply_to"] = request["msg_id"]
            send(message["src"], answer)
