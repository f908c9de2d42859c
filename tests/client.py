"""Fresh Python processes that tests talk to: the Hub's client reads its settings once, when it is imported."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "scripts" / "client_process.py"
LIBRARIES = ("fpt_adapters", "transformers")


class ClientError(Exception):
    """What a client's code raised. `kinds`: the names of its class and of the ancestors."""

    def __init__(self, message, kinds, trace):
        super().__init__(message)
        self.kinds = kinds
        self.trace = trace


class Client:
    """A Python process with `environment`, and `modules` imported by their names.

    `python`: how it is started. `setup`: code that goes before all other.
    """

    def __init__(self, environment, modules=LIBRARIES, python=(sys.executable,), setup="", cwd=None):
        command = [*python, "-W", "ignore", str(SCRIPT), *modules]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=environment, cwd=cwd, **pipes)
        self.setup = setup

    def send(self, code, **values):
        """Begin to run code, with values given to it by name, without waiting for its answer."""
        given = "".join(f"{name} = {value!r}\n" for name, value in values.items())
        print(json.dumps({"code": self.setup + given + textwrap.dedent(code)}), file=self.process.stdin, flush=True)

    def receive(self):
        """Wait for the answer: the code's `result`. Raises ClientError for what it raised."""
        line = self.process.stdout.readline()
        assert line, "the client ended"
        answer = json.loads(line)
        if "error" in answer:
            raise ClientError(answer["error"], answer["kinds"], answer["trace"])
        return answer["result"]

    def run(self, code, **values):
        """Run code and return its `result`."""
        self.send(code, **values)
        return self.receive()

    def fails(self, code, **values):
        """Run code that must raise; returns the error."""
        with pytest.raises(ClientError) as caught:
            self.run(code, **values)
        return caught.value

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()
