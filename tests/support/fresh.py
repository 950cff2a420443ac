"""Runs code in a new process that has imported third-party packages, but not this one. It is forked from a process that
imported them once, so that tests do not wait for torch."""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SERVER = """
import importlib, importlib.util, json, os, sys, traceback

for name in sys.argv[1:]:
    if importlib.util.find_spec(name.split(".")[0]) is not None:
        importlib.import_module(name)
for line in sys.stdin:
    code, environment, folder, arguments, outputs = json.loads(line)
    if (child := os.fork()) == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in enumerate(outputs, 1):
            os.dup2(os.open(path, os.O_WRONLY), number)
        os.chdir(folder)
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
        sys.argv = ["-c", *arguments]
        status = 0
        try:
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

IMPORTED = (
    "torch",
    "torch._dynamo",  # every torch.optim.Optimizer imports it
    "matplotlib.pyplot",
    "sklearn.datasets",
    "typer",
    "rich.progress",
    "jinja2",
    "safetensors.torch",
)


def run(code: str, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the code with these arguments and environment changes, and return its exit code and output."""
    if not hasattr(os, "fork"):
        command = [sys.executable, "-c", code, *arguments]
        changed = {**os.environ, **environment}
        return subprocess.run(command, cwd=cwd, env=changed, capture_output=True, text=True, check=False)
    server = _server()
    with tempfile.NamedTemporaryFile() as stdout, tempfile.NamedTemporaryFile() as stderr:
        outputs = [stdout.name, stderr.name]
        changed = {name: str(value) for name, value in {**os.environ, **environment}.items()}
        request = [code, changed, str(cwd or Path.cwd()), arguments, outputs]
        server.stdin.write(json.dumps(request) + "\n")  # type: ignore[union-attr]
        server.stdin.flush()  # type: ignore[union-attr]
        status = int(server.stdout.readline())  # type: ignore[union-attr]
        return subprocess.CompletedProcess([code], status, stdout.read().decode(), stderr.read().decode())


@functools.cache
def _server() -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SERVER, *IMPORTED]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.kill)
    return server
