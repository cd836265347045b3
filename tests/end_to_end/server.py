"""`tutti serve` as a process, for the tests that talk to it."""

import http.client
import json
import re
import signal
import subprocess
import threading

import openai
from prometheus_client.parser import text_string_to_metric_families
from user import TUTTI

MODEL = "smollm2"


class Server:
    """`tutti serve` at a free port; its log is read to the end."""

    def __init__(self, *arguments, model=MODEL, scheme="http", port=0):
        self.process = subprocess.Popen([TUTTI, "serve", "-m", str(model), "--port", str(port), *map(str, arguments)],
                                        stderr=subprocess.PIPE, text=True)
        self.log = ""
        for line in self.process.stderr:
            self.log += line
            if found := re.search(rf"listening at {scheme}://127\.0\.0\.1:(\d+)/v1", line):
                self.port = int(found[1])
                break
        else:
            raise AssertionError(self.log)
        self.reader = threading.Thread(target=self.read_log, daemon=True)  # a full pipe would stop the server
        self.reader.start()

    def read_log(self):
        for line in self.process.stderr:
            self.log += line

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def client(self, key="none"):
        return openai.OpenAI(base_url=self.url + "/v1", api_key=key, max_retries=0, timeout=120)

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = json.dumps(body) if isinstance(body, (dict, list)) else body
        connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        text = response.read().decode()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, text

    def error(self, *arguments, **options):
        status, headers, text = self.request(*arguments, **options)
        return status, json.loads(text)["error"], headers

    def metrics(self):
        status, headers, text = self.request("GET", "/metrics")
        assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
        return {(sample.name, sample.labels.get("finished_reason", "")): sample.value
                for family in text_string_to_metric_families(text) for sample in family.samples
                if "le" not in sample.labels}

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=60)
        self.reader.join()
        return code
