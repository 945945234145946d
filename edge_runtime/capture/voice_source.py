"""Speech as sentences: the source of kind `voice`, at a microphone or from a WAV file."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edge_runtime import config
from edge_runtime.admit import Refusal
from edge_runtime.bundle import Bundle
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.outages import Outage, ReturningSource
from edge_runtime.capture.playback import log_end, wait_until
from edge_runtime.capture.slow_lane import NICENESS
from edge_runtime.capture.source import Source
from edge_runtime.errors import ConfigError
from edge_runtime.kinds.audio import SAMPLE_RATE
from edge_runtime.plain_file import read_plain
from edge_runtime.voice.ears import silero
from edge_runtime.voice.grammar import GRAMMAR, MAX_BYTES, Grammar, parse_bytes
from edge_runtime.voice.grammars import shipped_grammar
from edge_runtime.voice.listener import Listener
from edge_runtime.voice.moonshine import Moonshine
from edge_runtime.voice.pack import open_pack
from edge_runtime.voice.recogniser import Recogniser
from edge_runtime.voice.wake import micro_wake_word
from edge_runtime.voice.wyoming import WyomingRecogniser
from edge_runtime.wav import WavError, read_wav

if TYPE_CHECKING:
    from edge_runtime.kinds.audio import Sound

CHUNK = 512
"""Samples that come at once: 32 ms."""
WAITING = 15 * SAMPLE_RATE // CHUNK
"""Chunks that wait while an utterance is looked at: 15 s."""
TURN_S = 0.2
SILENT_S = 5.0
"""A microphone that gives nothing for so long is away."""
LOST = "lost_sound"
"""Why sound was refused that could not wait any longer."""


class VoiceFileSource(Source):
    """Plays a WAV file to a listener at its own pace; the thread that listens is this one, and nobody waits for it."""

    ends: ClassVar[bool] = True

    def __init__(self, intake: Intake, row: config.VoiceSource, bundle: Bundle | None) -> None:
        """Raises ConfigError, GrammarError, PackError."""
        super().__init__(f"voice {row.path}", intake)
        self._row = row
        try:
            self._pcm = read_wav(Path(row.path))
        except WavError as error:
            raise ConfigError(f"source voice: {row.path} {error}") from None
        self._listener = _listener(row, bundle, self.stopping.is_set)

    def _run(self) -> None:
        row, clock = self._row, self._intake.clock
        _make_ready(self._listener)
        begin_ns, said, before = clock.now_ns(), 0, self._intake.refusals(row.stream)
        while True:
            for start in range(0, len(self._pcm), CHUNK):
                chunk = self._pcm[start : start + CHUNK]
                due_ns = begin_ns + int((start + len(chunk)) * 1e9 / SAMPLE_RATE / row.speed)
                if not wait_until(self, due_ns):
                    return
                said += _deliver(self._intake, row.stream, self._listener, chunk, min(due_ns, clock.now_ns()))
            if not row.loop:
                break
            begin_ns = due_ns
        silence = np.zeros(SAMPLE_RATE, np.int16)  # nobody speaks behind the end
        said += _deliver(self._intake, row.stream, self._listener, silence, due_ns + int(1e9 / row.speed))
        log_end(self, self._intake, row.stream, before, said, "utterances")


class MicrophoneSource(ReturningSource):
    """Listens at a microphone by PortAudio. Its own thread takes the sound in; this one listens, and while it looks at
    an utterance the sound waits. What cannot wait is lost, counted as `lost_sound`."""

    ends: ClassVar[bool] = False

    def __init__(self, intake: Intake, row: config.VoiceSource, bundle: Bundle | None) -> None:
        """Raises ConfigError, GrammarError, PackError. The microphone is opened later, and again where it was away."""
        super().__init__(f"voice {row.device or 'microphone'}", intake)
        self._row = row
        self._listener = _listener(row, bundle, self.stopping.is_set)
        self._sound: queue.Queue[tuple[bytes, int]] = queue.Queue(WAITING)
        self._lost = False

    def _session(self) -> None:
        _make_ready(self._listener)
        while not self._sound.empty():
            self._sound.get_nowait()
        device = None if self._row.device == "" else self._row.device
        with _portaudio() as sounddevice:
            try:
                stream = sounddevice.RawInputStream(SAMPLE_RATE, CHUNK, device, 1, "int16", callback=self._take)
            except (sounddevice.PortAudioError, ValueError) as error:
                raise Outage(f"{'the default microphone' if device is None else device}: {error}") from None
            with stream:
                self._there()
                self._listen()

    def _listen(self) -> None:
        self._listener.lost()
        heard_s = time.monotonic()
        while not self.stopping.is_set():
            try:
                data, captured_ns = self._sound.get(timeout=TURN_S)
            except queue.Empty:
                if time.monotonic() - heard_s > SILENT_S:
                    raise Outage("the microphone gives nothing") from None
                continue
            heard_s = time.monotonic()
            if self._lost:
                self._lost = False
                self._listener.lost()
                self._intake.refuse(self._row.stream, Refusal(LOST, "it came faster than it could be looked at"))
            pcm: Sound = np.frombuffer(data, "<i2").astype(np.int16)
            _deliver(self._intake, self._row.stream, self._listener, pcm, captured_ns)

    def _take(self, data: Any, frames: int, at: Any, flags: Any) -> None:
        """PortAudio's thread, which must not wait."""
        now_ns = self._intake.clock.now_ns()
        # How long the first sample has lain there; what a driver cannot know is 0, or nonsense.
        waited_s = at.currentTime - at.inputBufferAdcTime - frames / SAMPLE_RATE
        waited_ns = int(waited_s * 1e9) if 0 <= waited_s <= 1 else 0
        try:
            self._sound.put_nowait((bytes(data), now_ns - waited_ns))
        except queue.Full:
            self._lost = True
        if flags.input_overflow:
            self._lost = True


_portaudio_lock = threading.Lock()
_portaudio_users = 0


@contextmanager
def _portaudio() -> Iterator[Any]:
    """sounddevice, with the devices that are there now: PortAudio looks for them when it is opened, and no later. While
    somebody else listens it stays as it is. Raises Outage where it is not installed."""
    global _portaudio_users  # noqa: PLW0603  # PortAudio is one for the process, and so is its count
    try:
        import sounddevice
    except OSError as error:
        raise Outage(f"PortAudio cannot be loaded ({error}); apt-get install libportaudio2") from None
    with _portaudio_lock:
        if not _portaudio_users:
            sounddevice._terminate()
            sounddevice._initialize()
        _portaudio_users += 1
    try:
        yield sounddevice
    finally:
        with _portaudio_lock:
            _portaudio_users -= 1


def _make_ready(listener: Listener) -> None:
    """On the thread that will listen: the kernel runs the loop first, where there is not enough for both."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
    listener.ready()


def _deliver(intake: Intake, stream: str, listener: Listener, pcm: Sound, captured_ns: int) -> int:
    """Hand on what is understood; how many utterances there were."""
    count = 0
    try:
        for said in listener.hear(pcm, captured_ns):
            count += 1
            if isinstance(said.content, Refusal):
                intake.refuse(stream, said.content)
            else:
                intake.put(stream, said.content, said.ended_ns)
    except InterruptedError:
        pass  # the source is stopped
    except OSError as error:
        listener.lost()
        intake.refuse(stream, Refusal("no_recogniser", str(error)))
        count += 1
    return count


def _listener(row: config.VoiceSource, bundle: Bundle | None, stopping: Callable[[], bool]) -> Listener:
    wake = micro_wake_word(row.wake_word) if row.wake_word else None
    return Listener(silero(), _recogniser(row, bundle, stopping), row.longest_s, row.min_snr_db, row.speed, wake=wake)


def _recogniser(row: config.VoiceSource, bundle: Bundle | None, stopping: Callable[[], bool]) -> Recogniser:
    grammar = _grammar(row, bundle)
    if row.recogniser == "wyoming":
        return WyomingRecogniser(row.host, row.port, grammar, row.language or None)
    if grammar is None:
        raise ConfigError(f"source voice: the bundle has no {GRAMMAR}; give `grammar`, a file or shipped:NAME")
    return Moonshine(open_pack(Path(row.pack)), grammar, row.max_score, row.min_margin, stopping=stopping)


def _grammar(row: config.VoiceSource, bundle: Bundle | None) -> Grammar | None:
    """The row's, or else the bundle's, if it has one."""
    if row.grammar.startswith(config.SHIPPED):
        return shipped_grammar(row.grammar.removeprefix(config.SHIPPED))
    if row.grammar:
        try:
            data = read_plain(Path(row.grammar), MAX_BYTES)
        except OSError as error:
            raise ConfigError(f"source voice: grammar {row.grammar}: cannot be read ({error.strerror})") from None
        where = row.grammar
    elif bundle is not None and GRAMMAR in bundle.manifest.files:
        data, where = bundle.read(GRAMMAR), f"of bundle {bundle.path}"
    else:
        return None
    return parse_bytes(data, where)
