#!/usr/bin/env python3
"""A counter whose sum is one key of the service seq-kv.

An add reads the sum, and sets what it must be then if it still is what was read, until nobody was faster. If the service
does not answer, nobody knows whether the sum was set: then the client is not answered either. A read writes something new
first: what seq-kv shows may be old, but not older than the last write of the one who asks.
"""
import json
import queue
import sys
import threading
import time

TIMEOUT_SECONDS = 1

lock = threading.Lock()  # guards standard output, and what follows
waiting = {}  # msg_id of a request to the service -> queue for its answer
last_id = time.time_ns() // 1000  # of a request; not that of an earlier process, should this one have been killed
node_id = None


def send(dest, body):
    print(json.dumps({"src": node_id, "dest": dest, "body": body}), flush=True)


def ask(body):
    """Asks seq-kv; without an answer it raises queue.Empty."""
    global last_id
    answer = queue.Queue()
    with lock:
        last_id += 1
        msg_id = last_id
        waiting[msg_id] = answer
        send("seq-kv", {**body, "msg_id": msg_id})
    try:
        return answer.get(timeout=TIMEOUT_SECONDS)
    finally:
        with lock:
            del waiting[msg_id]


def current():
    return ask({"type": "read", "key": "sum"}).get("value", 0)


def add(delta):
    while True:
        value = current()
        answer = ask({"type": "cas", "key": "sum", "from": value, "to": value + delta, "create_if_not_exists": True})
        if answer["type"] == "cas_ok":
            return {"type": "add_ok"}


def read():
    ask({"type": "write", "key": "mark/" + node_id, "value": last_id})
    return {"type": "read_ok", "value": current()}


def work():
    """Does what clients ask, one after the other."""
    while True:
        src, request = requests.get()
        try:
            reply = add(request["delta"]) if request["type"] == "add" else read()
        except queue.Empty:
            continue
        with lock:
            send(src, {**reply, "in_reply_to": request["msg_id"]})


requests = queue.Queue()
threading.Thread(target=work, daemon=True).start()
for line in sys.stdin:
    message = json.loads(line)
    body = message["body"]
    if "in_reply_to" in body:
        with lock:
            if body["in_reply_to"] in waiting:
                waiting[body["in_reply_to"]].put(body)
    elif body["type"] == "init":
        node_id = body["node_id"]
        with lock:
            send(message["src"], {"type": "init_ok", "in_reply_to": body["msg_id"]})
    else:
        requests.put((message["src"], body))
