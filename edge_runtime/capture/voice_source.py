"""Speech as sentences: the source of kind `voice`, at a microphone or from a WAV file.

A process of its own listens (`listener_process`); sound is sent to it here, and what it understood is handed on.
"""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edge_runtime import config
from edge_runtime.admit import Refusal
from edge_runtime.bundle import Bundle
from edge_runtime.capture.intake import Intake
from edge_runtime.capture.listener_process import ListenerGone, ListenerProcess
from edge_runtime.capture.outages import Outage, ReturningSource
from edge_runtime.capture.playback import log_end
from edge_runtime.errors import ConfigError, UserError
from edge_runtime.kinds.audio import SAMPLE_RATE
from edge_runtime.plain_file import read_plain
from edge_runtime.voice.frames import Setup
from edge_runtime.voice.grammar import GRAMMAR, MAX_BYTES
from edge_runtime.voice.grammars import shipped_text
from edge_runtime.wav import WavError, read_wav

if TYPE_CHECKING:
    from edge_runtime.kinds.audio import Sound

CHUNK = 512
"""Samples that come at once: 32 ms."""
TURN_S = 0.2
FULL_S = 0.01
"""A file waits so long where there is no room for more of it."""
SILENT_S = 5.0
"""A microphone that gives nothing for so long is away."""
LOST = "lost_sound"
"""Why sound was refused that could not wait any longer, or was being listened to by a process that has ended."""


class VoiceSource(ReturningSource):
    """Has a process listen. One that ends is started again at growing pauses; what it was listening to is lost."""

    def __init__(self, name: str, intake: Intake, row: config.VoiceSource, bundle: Bundle | None) -> None:
        """Raises ConfigError, GrammarError, PackError."""
        super().__init__(f"voice {name}", intake)
        self._row = row
        self._said = 0
        self._listener = ListenerProcess(_setup(row, bundle), self.stopping.is_set)
        try:
            self._listener.open()
        except ListenerGone as error:
            raise ConfigError(f"source {self.name}: {error}") from None

    def _session(self) -> None:
        try:
            self._listener.open()
        except InterruptedError:
            return
        except UserError as error:
            raise Outage(str(error)) from None
        try:
            self._listen()
        except ListenerGone as error:
            self._listener.close()
            self._intake.refuse(self._row.stream, Refusal(LOST, str(error)))
            raise

    def _close(self) -> None:
        self._listener.close()

    @abstractmethod
    def _listen(self) -> None:
        """Until `stopping`, or the end."""

    def _deliver(self, timeout_s: float) -> None:
        """Hand on what is said within that time. Raises ListenerGone."""
        for content, ended_ns in self._listener.said(timeout_s):
            self._said += 1
            if isinstance(content, Refusal):
                self._intake.refuse(self._row.stream, content)
            else:
                self._intake.put(self._row.stream, content, ended_ns)


class VoiceFileSource(VoiceSource):
    """Plays a WAV file to a listener at its own pace. Where nobody listens it waits."""

    ends: ClassVar[bool] = True

    def __init__(self, intake: Intake, row: config.VoiceSource, bundle: Bundle | None) -> None:
        """Raises ConfigError, GrammarError, PackError."""
        try:
            self._pcm = read_wav(Path(row.path))
        except WavError as error:
            raise ConfigError(f"source voice: {row.path} {error}") from None
        self._at = 0
        """Samples that were played."""
        self._before: Counter[str] | None = None
        super().__init__(row.path, intake, row, bundle)

    def _listen(self) -> None:
        row, clock = self._row, self._intake.clock
        self._there()
        if self._before is None:
            self._before = self._intake.refusals(row.stream)
        ns_per_sample = 1e9 / SAMPLE_RATE / row.speed
        due_ns = clock.now_ns()
        begin_ns = due_ns - int(self._at * ns_per_sample)
        while True:
            while self._at < len(self._pcm):
                chunk = self._pcm[self._at : self._at + CHUNK]
                due_ns = begin_ns + int((self._at + len(chunk)) * ns_per_sample)
                if not self._wait(due_ns) or not self._play(chunk, min(due_ns, clock.now_ns())):
                    return
                self._at += len(chunk)
            if not row.loop:
                break
            begin_ns, self._at = due_ns, 0
        for _ in range(0, SAMPLE_RATE, CHUNK):  # nobody speaks behind the end
            due_ns += int(CHUNK * ns_per_sample)
            if not self._play(np.zeros(CHUNK, np.int16), due_ns):
                return
        while not self._listener.end() and not self.stopping.is_set():
            self._deliver(FULL_S)
        while not self._listener.ended and not self.stopping.is_set():
            self._deliver(TURN_S)
        if self._listener.ended:
            log_end(self, self._intake, row.stream, self._before, self._said, "utterances")

    def _wait(self, due_ns: int) -> bool:
        """Hand on what is said until `due_ns`; False where it was stopped."""
        while not self.stopping.is_set():
            left_s = (due_ns - self._intake.clock.now_ns()) / 1e9
            self._deliver(min(max(0.0, left_s), TURN_S))
            if left_s <= 0:
                return True
        return False

    def _play(self, chunk: Sound, captured_ns: int) -> bool:
        """False where it was stopped."""
        data = chunk.astype("<i2").tobytes()
        while not self._listener.hear(data, captured_ns):
            if self.stopping.is_set():
                return False
            self._deliver(FULL_S)
        return True


class MicrophoneSource(VoiceSource):
    """Listens at a microphone by PortAudio, whose thread sends the sound on. While the process looks at an utterance
    the sound waits there; what cannot wait is lost, counted as `lost_sound`."""

    ends: ClassVar[bool] = False

    def __init__(self, intake: Intake, row: config.VoiceSource, bundle: Bundle | None) -> None:
        """Raises ConfigError, GrammarError, PackError. The microphone is opened later, and again where it was away."""
        self._heard_s = 0.0
        """When sound came last, or a session began."""
        self._missing = self._told = False
        """Whether sound is missing since the listener was given some, and whether it knows."""
        self._losses = self._losses_told = 0
        super().__init__(str(row.device) or "microphone", intake, row, bundle)

    def _listen(self) -> None:
        device = None if self._row.device == "" else self._row.device
        with _portaudio() as sounddevice:
            try:
                stream = sounddevice.RawInputStream(SAMPLE_RATE, CHUNK, device, 1, "int16", callback=self._take)
            except (sounddevice.PortAudioError, ValueError) as error:
                raise Outage(f"{'the default microphone' if device is None else device}: {error}") from None
            self._listener.lost()
            self._missing = self._told = False
            self._heard_s = time.monotonic()
            try:
                with stream:
                    self._there()
                    while not self.stopping.is_set():
                        self._deliver(TURN_S)
                        self._tell_losses()
                        if time.monotonic() - self._heard_s > SILENT_S:
                            raise Outage("the microphone gives nothing")
            finally:  # what is missing at the end no listener will know of
                self._losses += self._missing and not self._told
                self._tell_losses()

    def _tell_losses(self) -> None:
        while self._losses_told < self._losses:
            self._losses_told += 1
            self._intake.refuse(self._row.stream, Refusal(LOST, "it came faster than it could be looked at"))

    def _take(self, data: Any, frames: int, at: Any, flags: Any) -> None:
        """PortAudio's thread, which must not wait."""
        now_ns = self._intake.clock.now_ns()
        self._heard_s = time.monotonic()
        # How long the first sample has lain there; what a driver cannot know is 0, or nonsense.
        waited_s = at.currentTime - at.inputBufferAdcTime - frames / SAMPLE_RATE
        waited_ns = int(waited_s * 1e9) if 0 <= waited_s <= 1 else 0
        self._missing = self._missing or bool(flags.input_overflow)
        if self._missing and not self._told:
            if not self._listener.lost():
                return  # nothing is heard across a gap of which the listener does not know
            self._told = True
            self._losses += 1
        self._missing = not self._listener.hear(bytes(data), now_ns - waited_ns)
        self._told = self._told and self._missing


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


def _setup(row: config.VoiceSource, bundle: Bundle | None) -> Setup:
    """Raises ConfigError."""
    grammar, where = _grammar(row, bundle)
    return Setup(
        recogniser=row.recogniser,
        grammar=grammar,
        where=where,
        pack=row.pack,
        host=row.host,
        port=row.port,
        language=row.language,
        wake_word=row.wake_word,
        longest_s=row.longest_s,
        min_snr_db=row.min_snr_db,
        max_score=row.max_score,
        min_margin=row.min_margin,
        speed=row.speed,
    )


def _grammar(row: config.VoiceSource, bundle: Bundle | None) -> tuple[bytes | None, str]:
    """The row's, or else the bundle's, if it has one; and what errors call it."""
    if row.grammar.startswith(config.SHIPPED):
        return shipped_text(row.grammar.removeprefix(config.SHIPPED)), row.grammar
    if row.grammar:
        try:
            return read_plain(Path(row.grammar), MAX_BYTES), row.grammar
        except OSError as error:
            raise ConfigError(f"source voice: grammar {row.grammar}: cannot be read ({error.strerror})") from None
    if bundle is not None and GRAMMAR in bundle.manifest.files:
        return bundle.read(GRAMMAR), f"of bundle {bundle.path}"
    return None, ""
