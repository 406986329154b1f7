"""The load of a loop: tools/verify-load.py on the lab's client."""
import json
import os
import random
import signal
import subprocess
import threading
import time

from .lab import HERE, Failure

TARGET = "iqn.2026-01.lab.dsr:"


class Load:
    """verify-load.py on the client; its errors as they come, its result at the end."""

    def __init__(self, lab, options, home):
        self.errors = []
        self.output = f"/tmp/{lab.prefix}.json"
        self.is_running = threading.Event()
        words = [f"{lab.programs}/dsr-lab", "exec", lab.prefix, "client1", "--",
                 f"{HERE}/tools/verify-load.py", "--portal", "10.10.0.100", "--seconds", "1000000",
                 "--depth", str(options.depth), "--seed", str(options.seed), "--final-verify",
                 "--output", self.output, "--live"]
        if options.rate:
            words += ["--rate", options.rate]
        if options.one_session:
            units = ",".join(name.removeprefix("r") for name in sorted(home))
            words += ["--target", f"{TARGET}all/{units}", "--range-mib", str(16 * len(home))]
        else:
            words += ["--sessions", str(options.sessions)]
            for name in self.order(home, random.Random(options.seed)):
                words += ["--target", TARGET + name]
        self.worst = {}
        self.lines = 0
        self.process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        threading.Thread(target=self.read, daemon=True).start()
        if not self.is_running.wait(60) or self.process.poll() is not None:
            self.process.kill()
            raise Failure("the load does not start: " + "; ".join(self.errors[:3]))

    @staticmethod
    def order(home, chance):
        """Resources by chance, but first one of each server: sessions take them in turn."""
        names = chance.sample(sorted(home), len(home))
        first = {home[name]: name for name in names}.values()
        return [*first, *(name for name in names if name not in first)]

    def read(self):
        for line in self.process.stderr:
            words = line.split()
            if line.strip() == "running":
                self.is_running.set()
            elif "requests" in words and "worst" in words:
                # Also a request that has no answer yet is a stall.
                worst = dict(self.worst)
                for field in words[-1].split(",") if "=" in words[-1] else []:
                    target, value = field.rsplit("=", 1)
                    name = target.removeprefix(TARGET).replace("all/", "r")
                    worst[name] = max(worst.get(name, 0), float(value))
                self.worst = worst
                self.lines += 1
            else:
                self.errors.append(line.strip())
        self.is_running.set()

    def take_worst(self):
        """The longest request of each resource since the last call, ms; the load tells it once a second."""
        line = self.lines
        limit = time.monotonic() + 3
        while self.lines == line and time.monotonic() < limit and self.is_alive:
            time.sleep(0.02)
        worst, self.worst = self.worst, {}
        return worst

    @property
    def is_alive(self):
        return self.process.poll() is None

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(180)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Failure("the load does not end")
        with open(self.output) as file:
            return json.load(file)

    def clean(self):
        if self.is_alive:
            self.process.kill()
        if os.path.exists(self.output):
            os.unlink(self.output)
