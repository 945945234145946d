"""The process that listens for a runtime: wake word, ears and recogniser, at the other end of its pipes.

It keeps nothing that must be saved: whoever started it kills it, and it ends by itself where that is gone.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from edge_runtime.admit import Refusal
from edge_runtime.errors import ConfigError, UserError
from edge_runtime.kinds.audio import SAMPLE_RATE
from edge_runtime.voice import frames
from edge_runtime.voice.ears import Detector, silero
from edge_runtime.voice.grammar import GRAMMAR, parse_bytes
from edge_runtime.voice.listener import Listener
from edge_runtime.voice.moonshine import Moonshine
from edge_runtime.voice.pack import open_pack
from edge_runtime.voice.recogniser import NO_RECOGNISER, Recogniser
from edge_runtime.voice.wake import micro_wake_word
from edge_runtime.voice.wyoming import WyomingRecogniser

WAITING = 15 * SAMPLE_RATE // 512
"""Portions of sound that wait while an utterance is looked at: 15 s. What comes then waits in the pipe, or is lost."""
READ_BYTES = 1 << 16
OOM_SCORE = 500
"""Where memory is short, the kernel ends this process before the one that decides."""


def serve(detector: Callable[[], Detector] = silero) -> None:
    """Listen to standard input and answer on standard output, in frames (see `frames`), until either is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # they mean the runtime, which ends this process itself
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE), encoding="ascii")
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # what a library prints must not come between the answers
    waiting: queue.Queue[frames.Request] = queue.Queue(WAITING)
    threading.Thread(target=_take_in, args=(requests, waiting), daemon=True).start()
    try:
        for answer in _answers(waiting, detector):
            data = memoryview(frames.packed(answer))
            while data:
                data = data[os.write(answers, data) :]
    except BrokenPipeError:
        pass


def _take_in(requests: int, waiting: queue.Queue[frames.Request]) -> None:
    """On a thread of its own, so that the process ends with its runtime, whatever it is looking at."""
    incoming = frames.Incoming[frames.Request](frames.Request)  # type: ignore[arg-type]
    try:
        while data := os.read(requests, READ_BYTES):
            for request in incoming.messages(data):
                waiting.put(request)
    except frames.FrameError as error:
        sys.stderr.write(f"edge-runtime: voice: {error}\n")
        sys.stderr.flush()
    os._exit(0)


def _answers(waiting: queue.Queue[frames.Request], detector: Callable[[], Detector]) -> Iterator[frames.Answer]:
    try:
        setup = waiting.get()
        assert isinstance(setup, frames.Setup)
        listener = _listener(setup, detector)
        yield frames.Opened()
        listener.ready()
    except UserError as error:
        yield frames.Unfit(type(error).__name__, str(error))
        return
    while not isinstance(request := waiting.get(), frames.End):
        if isinstance(request, frames.Sound):
            for said in _hear(listener, request):
                yield frames.Told(said)
        else:
            listener.lost()
    yield frames.Ended()


def _hear(listener: Listener, sound: frames.Sound) -> Iterator[frames.Said]:
    try:
        yield from listener.hear(np.frombuffer(sound.pcm, "<i2").astype(np.int16), sound.captured_ns)
    except OSError as error:
        listener.lost()
        yield frames.Said(Refusal(NO_RECOGNISER, str(error)), sound.captured_ns)


def _listener(setup: frames.Setup, detector: Callable[[], Detector]) -> Listener:
    """Raises ConfigError, GrammarError, PackError."""
    recogniser = _recogniser(setup)
    wake = micro_wake_word(setup.wake_word) if setup.wake_word else None
    return Listener(detector(), recogniser, setup.longest_s, setup.min_snr_db, setup.speed, wake=wake)


def _recogniser(setup: frames.Setup) -> Recogniser:
    grammar = None if setup.grammar is None else parse_bytes(setup.grammar, setup.where)
    if setup.recogniser == "wyoming":
        return WyomingRecogniser(setup.host, setup.port, grammar, setup.language or None)
    if grammar is None:
        raise ConfigError(f"source voice: the bundle has no {GRAMMAR}; give `grammar`, a file or shipped:NAME")
    return Moonshine(open_pack(Path(setup.pack)), grammar, setup.max_score, setup.min_margin)
