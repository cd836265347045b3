"""The program as a user has it: commands with their exit code and both streams, and a terminal."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from pathlib import Path

import program

os.environ.setdefault("TUTTI_THREADS", "1")
TUTTI = str(program.path())


class Done:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def json(self):
        """The one document of stdout; nothing else may be there."""
        assert self.code == 0, self.err
        assert self.out.endswith("\n") and self.out.count("\n") == 1, self.out[:300]
        return json.loads(self.out)

    def lines(self):
        assert self.out.endswith("\n"), self.out[:300]
        return [json.loads(line) for line in self.out.splitlines()]


def tutti(*arguments, input=None, timeout=120, **options) -> Done:
    if isinstance(input, str):
        input = input.encode()
    command = [TUTTI, *(a if isinstance(a, bytes) else str(a) for a in arguments)]
    done = subprocess.run(command, input=input, stdin=subprocess.DEVNULL if input is None else None,
                          capture_output=True, timeout=timeout, **options)
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def jsonl(path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Terminal:
    """A program on a pseudo-terminal of its own, so that Ctrl-C and Ctrl-D are what they are for a person."""

    def __init__(self, *arguments):
        self.fd, child = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}

        def take_terminal():
            os.setsid()
            fcntl.ioctl(child, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen([TUTTI, *map(str, arguments)], stdin=child, stdout=child, stderr=child,
                                        env=environment, preexec_fn=take_terminal, close_fds=True)
        os.close(child)
        self.seen = ""  # since the last expect()
        self.raw = b""

    def read(self, seconds) -> bool:
        ready, _, _ = select.select([self.fd], [], [], seconds)
        if not ready:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # the program has gone
            return False
        self.raw += data
        self.seen += data.decode("utf-8", "replace")
        return bool(data)

    def expect(self, pattern, seconds=60) -> str:
        """What came up to the first match of `pattern`."""
        end = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.seen, re.S)
            if found:
                before, self.seen = self.seen[: found.start()], self.seen[found.end():]
                return before
            assert time.monotonic() < end, f"no {pattern!r} after {seconds} s; saw {self.seen[-500:]!r}"
            assert self.read(0.2), f"the program ended before {pattern!r}; saw {self.seen[-500:]!r}"

    def send(self, keys):
        os.write(self.fd, keys if isinstance(keys, bytes) else keys.encode())

    def wait(self, seconds=20) -> int:
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            self.read(0.1)
        return self.process.wait(1)

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self.fd)
