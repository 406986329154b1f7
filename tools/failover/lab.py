"""A lab with a redirector, as the loop sees it through dsr-lab and dsrctl."""
import json
import os
import subprocess
import time

HERE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Failure(Exception):
    pass


def run(words, check=True, seconds=60, **options):
    result = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds,
        **options)
    if check and result.returncode != 0:
        raise Failure(f"{' '.join(words)}: status {result.returncode}: {result.stdout.strip()}")
    return result.stdout


def wait_for(seconds, condition):
    """The time that it took; None when it did not become so."""
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        if condition():
            return time.monotonic() - start
        time.sleep(0.02)
    return None


class Lab:
    def __init__(self, options, topology, configure=lambda text: text):
        """configure changes the text of the topology's dsr.yaml."""
        self.options = options
        self.topology = f"{HERE}/topologies/{topology}"
        self.programs = options.programs
        self.prefix = f"failover-{os.getpid()}"
        self.state = f"/run/dsr-lab/{self.prefix}"
        self.configuration = f"/tmp/{self.prefix}.yaml"
        self.environment = dict(os.environ, DSR_SOCKET=f"{self.state}/dsrd.sock")
        with open(f"{self.topology}/dsr.yaml") as file:
            self.text = configure(file.read()).replace(f"/run/dsr-lab/{topology}", self.state)

    def __enter__(self):
        with open(self.configuration, "w") as file:
            file.write(self.text)
        try:
            self.lab("up", self.topology, "--prefix", self.prefix,
                     "--dsr-config", self.configuration)
        except BaseException:
            os.unlink(self.configuration)
            raise
        return self

    def __exit__(self, *_):
        if self.options.keep:
            print(f"kept: dsr-lab down {self.prefix}; {self.configuration}")
            return
        self.lab("down", self.prefix, check=False)
        os.unlink(self.configuration)

    def lab(self, *words, check=True):
        return run([f"{self.programs}/dsr-lab", *words], check)

    def control(self, *words, check=True):
        return run([f"{self.programs}/dsrctl", *words], check, env=self.environment)

    # What dsrctl answers is read here and nowhere else.

    def json(self, *words):
        text = self.control(*words, "--json")
        try:
            return json.loads(text)
        except ValueError as error:
            raise Failure(f"dsrctl {' '.join(words)}: no JSON: {error}: {text[:200]}")

    def owners(self):
        """Resource to server."""
        return {entry["name"]: entry.get("assigned") for entry in self.json("resource", "list")}

    def sessions(self):
        """Resource and server of each session, or of each unit of one; the server is None while it has none."""
        sessions = self.json("session", "list")
        units = [unit for entry in sessions for unit in entry.get("units", [])]
        return [(entry["resource"], entry.get("server"))
                for entry in sessions + units if entry.get("resource")]

    def servers(self):
        return [entry["name"] for entry in self.json("server", "list")]

    def healthy(self):
        return {entry["name"] for entry in self.json("server", "list")
                if entry.get("health") in ("healthy", "up")}

    def events(self, after=0):
        """One object a line, unlike the other listings."""
        try:
            lines = self.control("events", "--after", str(after), "--json").splitlines()
            return [json.loads(line) for line in lines if line]
        except (Failure, ValueError):
            return []

    def last_event(self):
        return max((event["sequence"] for event in self.events()), default=0)

    def move(self, name, server):
        self.control("resource", "move", name, server)

    def service(self, server, verb, kind="tgtd"):
        return self.lab("service", self.prefix, server, verb, "--kind", kind,
                        check=verb != "status")
