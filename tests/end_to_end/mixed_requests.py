"""Requests of every kind that a causal model answers, and what of their answers must not depend on what else runs."""

import concurrent.futures
import http.client
import json
import random
import threading

WORDS = ("light house keeper river stone seven under winter glass window paper garden music stairs yellow engine harbour "
         "letter mountain quiet bridge captain silver evening market thunder copper island lantern meadow").split()
SCHEMA = {"type": "object", "required": ["name", "n"], "properties": {
    "name": {"type": "string", "maxLength": 8}, "n": {"type": "integer", "minimum": 0, "maximum": 99}}}
GBNF = 'root ::= item ("," item)* "."\nitem ::= [a-z]{1,4} | [0-9]{1,3}'
WITHOUT_TEXT = ("/v1/embeddings", "/v1/rerank")
EXIT_LAYER = {"random.gguf": 1}


class Kinds:
    """`methods`: those that write what plain decoding writes; `model`: its name at the server."""

    def __init__(self, model, methods):
        self.model, self.methods = model, methods
        self.all = [self.greedy, self.sampled, self.streamed, self.choices, self.scored, self.texts, self.by_method,
                    self.by_method_hot, self.beams, self.regex, self.schema, self.choice, self.gbnf, self.stops, self.bent,
                    self.vectors, self.ranks, self.long]

    def make(self, count, seed):
        """(path, body) of `count` requests: every kind in turn, no two alike."""
        draw = random.Random(seed)
        return [self.all[i % len(self.all)](draw) for i in range(count)]

    def text(self, draw, most=24):
        # Some begin alike: their pages are shared.
        return " ".join(["Tell me a story of"] * draw.randint(0, 1) + draw.choices(WORDS, k=draw.randint(1, most)))

    def chat(self, draw, **more):
        return "/v1/chat/completions", {"model": self.model, "messages": [{"role": "user", "content": self.text(draw)}],
                                        "max_tokens": draw.randint(4, 24), "logprobs": True, **more}

    def completion(self, draw, **more):
        return "/v1/completions", {"model": self.model, "prompt": self.text(draw), "max_tokens": draw.randint(4, 24),
                                   "logprobs": 1, **more}

    def hot(self, draw):
        return {"temperature": draw.choice([0.5, 0.8, 1.0, 1.3]), "seed": draw.getrandbits(40)}

    def greedy(self, draw):
        return self.chat(draw, temperature=0)

    def sampled(self, draw):
        return self.chat(draw, **self.hot(draw), top_p=0.9, top_logprobs=3)

    def streamed(self, draw):
        return self.chat(draw, **self.hot(draw), stream=True, stream_options={"include_usage": True})

    def choices(self, draw):
        return self.chat(draw, **self.hot(draw), n=draw.randint(2, 5), stream=draw.random() < 0.5)

    def scored(self, draw):
        return self.completion(draw, echo=True, logprobs=2, max_tokens=0, temperature=0)

    def texts(self, draw):
        prompts = [self.text(draw) for _ in range(draw.randint(2, 4))]
        return self.completion(draw, prompt=prompts, n=2, **self.hot(draw), stream=draw.random() < 0.5)

    def method(self, draw):
        method = draw.choice(self.methods)
        options = {"lookup": {"adaptive": draw.randint(0, 1), "branches": draw.randint(1, 4)},
                   "early-exit": {"exit_layer": EXIT_LAYER.get(self.model, 24)}}.get(method, {})
        return {"method": method, "method_options": options}

    def by_method(self, draw):
        return self.chat(draw, temperature=0, **self.method(draw), stream=draw.random() < 0.5)

    def by_method_hot(self, draw):
        return self.chat(draw, **self.hot(draw), **self.method(draw), n=draw.randint(1, 3))

    def beams(self, draw):
        path, body = self.completion(draw, temperature=0, method="beam", method_options={"width": draw.randint(2, 5)})
        return path, {k: v for k, v in body.items() if k != "logprobs"}

    def regex(self, draw):
        return self.chat(draw, **self.hot(draw), guided_regex="([a-f]{2,5}[0-9]?)+ (end|stop)", max_tokens=30,
                         method=draw.choice(["plain", "lookup"]))

    def schema(self, draw):
        return self.chat(draw, **self.hot(draw), max_tokens=60, stream=draw.random() < 0.5, response_format={
            "type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}})

    def choice(self, draw):
        return self.chat(draw, **self.hot(draw), guided_choice=["red", "green", "blue and more"])

    def gbnf(self, draw):
        return self.completion(draw, **self.hot(draw), grammar=GBNF, max_tokens=30, n=2)

    def stops(self, draw):
        return self.chat(draw, **self.hot(draw), stop=["e", "th", "12"], stream=draw.random() < 0.5)

    def bent(self, draw):
        return self.completion(draw, **self.hot(draw), repetition_penalty=1.2, presence_penalty=0.5, min_p=0.02, top_k=40,
                               logit_bias={"65": 2, "97": -3})

    def vectors(self, draw):
        return "/v1/embeddings", {"model": self.model, "input": [self.text(draw) for _ in range(draw.randint(1, 4))]}

    def ranks(self, draw):
        return "/v1/rerank", {"model": self.model, "query": self.text(draw), "documents": [self.text(draw) for _ in range(draw.randint(1, 4))]}

    def long(self, draw):
        return self.completion(draw, prompt=" ".join(draw.choices(WORDS, k=110)), **self.hot(draw), stream=True)


def events_of(text):
    lines = [event for event in text.split("\n\n") if event and not event.startswith(":")]
    assert lines and lines[-1] == "data: [DONE]", text[-300:]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def whole_of(events):
    """The answer that a stream of events amounts to."""
    choices, usage = {}, None
    for event in events:
        usage = event.get("usage") or usage
        for piece in event["choices"]:
            choice = choices.setdefault(piece["index"], {"text": "", "logprobs": {}, "finish_reason": None})
            choice["text"] += piece["delta"].get("content") or "" if "delta" in piece else piece["text"]
            for name, column in (piece.get("logprobs") or {}).items():
                choice["logprobs"].setdefault(name, []).extend(column or [])
            choice["finish_reason"] = piece["finish_reason"] or choice["finish_reason"]
    return choices, usage


def outcome(path, body, status, text):
    """What must be the same whatever else runs: texts, tokens, log-probabilities bit for bit, reasons, counts of tokens."""
    assert status == 200, (path, body, status, text)
    if path in WITHOUT_TEXT:
        answer = json.loads(text)
        return answer["data" if "data" in answer else "results"], answer["usage"]
    if body.get("stream"):
        choices, usage = whole_of(events_of(text))
    else:
        answer = json.loads(text)
        usage = answer["usage"]
        choices = {}
        for c in answer["choices"]:
            logprobs = {k: v for k, v in (c["logprobs"] or {}).items() if v}
            choices[c["index"]] = {"text": c["message"]["content"] if "message" in c else c["text"], "logprobs": logprobs,
                                   "finish_reason": c["finish_reason"]}
    return choices, usage and (usage["prompt_tokens"], usage["completion_tokens"])


class Clients:
    """Each thread keeps a connection, as clients do."""

    def __init__(self, port):
        self.port, self.own = port, threading.local()

    def ask(self, job):
        path, body = job
        if not hasattr(self.own, "connection"):
            self.own.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        self.own.connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = self.own.connection.getresponse()
        return outcome(path, body, response.status, response.read().decode())

    def ask_all(self, jobs, clients, order=None):
        """Outcomes by job, asked in `order` by so many clients at a time."""
        order = list(range(len(jobs))) if order is None else order
        with concurrent.futures.ThreadPoolExecutor(clients) as pool:
            found = dict(zip(order, pool.map(lambda i: self.ask(jobs[i]), order)))
        return [found[i] for i in range(len(jobs))]


def check_equality(port, jobs, levels=(1, 4, 16, 64), seed=1, say=lambda text: None):
    """Every level of clients gets what a lone client got, in another order each time."""
    alone = Clients(port).ask_all(jobs, 1)
    draw = random.Random(seed)
    for clients in levels:
        order = list(range(len(jobs)))
        draw.shuffle(order)
        together = Clients(port).ask_all(jobs, clients, order)
        for i, (mine, lone) in enumerate(zip(together, alone)):
            assert mine == lone, f"{clients} clients, request {i} {jobs[i]}:\n{mine}\nalone:\n{lone}"
        say(f"{clients} clients: {len(jobs)} requests, equal")
    return alone
