"""What all modes begin and end with."""
import signal
import time

from .nfs import OK, Client, Mounter, NFSError
from .results import Results
from .rpc import CallFailed, Channel, Credential, Engine, Settings
from .xdr import ProtocolError

#: What a call can fail with.
FAULTS = (CallFailed, NFSError, ProtocolError)


def kind_of(error):
    if isinstance(error, CallFailed):
        return error.kind
    return "status" if isinstance(error, NFSError) else "protocol"


class SetupError(Exception):
    """The load could not begin."""


class Load:
    """An engine with the server that it talks to."""

    def __init__(self, options):
        self.options = options
        self.engine = Engine()
        self.results = Results(options, self.engine)
        self.settings = Settings(
            options.rto, options.rto_max, options.call_seconds, options.reconnect,
            options.rpc_fragment, options.source, options.reserved_port)
        self.credential = Credential(
            options.uid, options.gid, range(100, 100 + options.groups), options.machine)
        self.mounter = Mounter(
            self.engine, options.server, options.transport, self.credential, self.settings,
            options.port, options.mount_port, options.version)
        self.is_ended = False
        self.roots = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.end)

    def end(self, *_):
        self.is_ended = True

    def client(self):
        """A connection, or a flow, of its own."""
        channel = Channel(
            self.engine, self.options.server, self.mounter.port, self.options.transport,
            self.credential, self.settings)
        return Client(channel)

    def prepare(self):
        """Finds the ports and mounts the exports."""
        try:
            self.engine.complete(self.mounter.find(), self.options.setup_seconds)
            for path in self.options.export:
                self.roots[path] = self.engine.complete(
                    self.root(path), self.options.setup_seconds)
        except FAULTS as error:
            raise SetupError(f"{type(error).__name__}: {error}")

    def root(self, path):
        """An export's root handle: by MNT, or by names from the root of all exports."""
        if not self.options.from_root:
            return (yield from self.mounter.mount(path))
        handle = yield from self.mounter.mount("/")
        client = self.client()
        for name in path.strip("/").split("/"):
            status, found = yield from client.lookup(handle, name)
            if status != OK:
                raise NFSError(f"LOOKUP {name} from /", status)
            handle = found[0]
        client.channel.close()
        return handle

    def waiting(self):
        return [call for channel in self.engine.channels.values() for call in channel.calls.values()]

    def run_for(self, seconds, is_done):
        """Lets the load go on, with a line each second if that is wanted."""
        begin = time.monotonic()
        second = begin + 1
        while not self.is_ended and not is_done() and time.monotonic() < begin + seconds:
            self.engine.turn(min(begin + seconds, time.monotonic() + 0.1, second))
            if time.monotonic() >= second:
                second += 1
                if self.options.live:
                    self.results.live(self.waiting())
