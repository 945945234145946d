"""Run by Piper's own Python: VOICE FOLDER, a sentence per line of standard input, each to a WAV file by its number."""

import sys
import wave
from importlib import import_module
from pathlib import Path

from piper import PiperVoice

voice, folder = sys.argv[1], Path(sys.argv[2])
package = Path(import_module(f"{voice}_us_piper_voice").__file__).parent
speaker = PiperVoice.load(next(package.rglob("*.onnx")))
for number, text in enumerate(sys.stdin.read().splitlines()):
    with wave.open(str(folder / f"{number}.wav"), "wb") as file:
        speaker.synthesize_wav(text, file)
