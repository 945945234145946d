"""Cameras: the newest frame counts."""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
from msgspec import UNSET, Struct, UnsetType

from edge_runtime import pictures
from edge_runtime.admit import FreezeDetector, Refusal, admit_image, decode_jpeg
from edge_runtime.kinds.kind import Admit, Field, Kind, Make, Preprocess, Read
from edge_runtime.kinds.record import Time, none, unset
from edge_runtime.messages import Frame, Slice, Tensors
from edge_runtime.preprocess import image_tensor
from edge_runtime.specs import CameraStream

PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY]
"""Camera noise has no repeats to look for: without the search PNG is a third faster to write, and smaller."""


class CompressedImage(Struct, frozen=True):
    """A picture: the fields of Foxglove's message (https://docs.foxglove.dev/docs/sdk/schemas/compressed-image), and
    ours.
    """

    timestamp: Time
    frame_id: str
    data: bytes
    """Base64 in JSON: a camera's own JPEG as it came, else PNG (or JPEG, where the configuration says so)."""
    format: Literal["jpeg", "png"]
    captured_ns: int
    """Monotonic nanoseconds."""
    seq: int
    id: str | UnsetType = UNSET


class Camera(Kind[CameraStream, Frame, CompressedImage]):
    """Frames [height, width, 3] BGR, or their JPEG bytes."""

    spec = CameraStream
    message = Frame
    content = (bytes, memoryview, np.ndarray)
    record = CompressedImage
    schema = "foxglove.CompressedImage"
    pairs = True

    def admission(self, spec: CameraStream) -> Admit:
        """Decodes JPEG; refuses what is no picture, black, or repeated (`frozen_after`)."""
        freeze = FreezeDetector(spec)

        def admit(content: Any) -> Make | Refusal:
            encoded: bytes | memoryview | None = None
            if isinstance(content, Frame):
                image, encoded = content.image, content.encoded
            elif isinstance(content, np.ndarray):
                image = content
            else:
                decoded = decode_jpeg(content)
                if isinstance(decoded, Refusal):
                    return decoded
                image, encoded = decoded, content
            admitted = admit_image(spec, image)
            if isinstance(admitted, Refusal):
                return admitted
            if frozen := freeze.admit(admitted):
                return frozen
            return lambda stream, seq, captured_ns, id: Frame(stream, seq, captured_ns, admitted, encoded, id=id)

        return admit

    def fields(self, spec: CameraStream) -> dict[str, Field]:
        return {"image": Field("uint8", (1, spec.height, spec.width, 3), "picture")}

    def preprocessor(self, spec: CameraStream, read: Read) -> Preprocess:
        def tensors(part: Slice) -> Tensors:
            newest = part.newest
            assert isinstance(newest, Frame)
            return {"image": image_tensor(spec, newest.image)}

        return tensors

    def to_record(self, message: Frame, at: Time, jpeg_quality: int | None) -> CompressedImage:
        kind: Literal["jpeg", "png"] = "png" if message.encoded is None and jpeg_quality is None else "jpeg"
        data: bytes | memoryview
        if message.encoded is not None:
            data = message.encoded
        else:
            how = PNG if jpeg_quality is None else [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]
            done, buffer = cv2.imencode(f".{kind}", message.image, how)
            assert done, "every admitted picture can be written"
            data = buffer.data
        # msgspec writes a memoryview as it writes bytes; copying a picture first would cost the more.
        return CompressedImage(at, message.stream, data, kind, message.captured_ns, message.seq, unset(message.id))  # type: ignore[arg-type]

    def to_message(self, stream: str, record: CompressedImage) -> Frame:
        try:
            image = pictures.decode(record.data)
        except pictures.PictureError as error:
            raise ValueError(f"picture {record.seq} of {stream}: {error}") from None
        encoded = record.data if record.format == "jpeg" else None
        return Frame(stream, record.seq, record.captured_ns, image, encoded, id=none(record.id))

    def weight(self, message: Frame) -> int:
        return message.image.nbytes if message.encoded is None else len(message.encoded)

    def footprint(self, message: Frame) -> int:
        return message.image.nbytes + (0 if message.encoded is None else len(message.encoded))

    def encoded(self, message: Frame) -> bool:
        return message.encoded is not None

    def detail(self, spec: CameraStream) -> str:
        return f"{spec.width}x{spec.height}"
