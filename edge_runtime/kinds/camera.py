"""Cameras: the newest frame counts."""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace
from numpy.typing import NDArray

from edge_runtime import pictures
from edge_runtime.admit import FreezeDetector, Refusal, admit_image, decode_jpeg
from edge_runtime.kinds.kind import Admit, Field, Kind, Make, Preprocess, Read
from edge_runtime.kinds.record import Time, none, unset
from edge_runtime.messages import Frame, Slice, Tensors
from edge_runtime.pixels import decoded, fewest, fitted, pixels
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
    """Frames [height, width, 3] BGR, or their JPEG bytes. The model's pixels are made on the source's thread."""

    spec = CameraStream
    message = Frame
    content = (bytes, memoryview, np.ndarray)
    record = CompressedImage
    schema = "foxglove.CompressedImage"
    pairs = True

    def admission(self, spec: CameraStream) -> Admit:
        """Decodes JPEG and makes the model's pixels; refuses what is no picture, black, or repeated (`frozen_after`).

        A JPEG that is not decoded whole repeats where its scans do: then it is the same picture at any size.
        """
        freeze = FreezeDetector(spec)
        needed = fewest(spec)

        def admit(content: Any) -> Make | Refusal:
            picture: bytes | memoryview | NDArray[np.uint8]
            picture = content.picture if isinstance(content, Frame) else content
            if isinstance(picture, np.ndarray):
                image, jpeg = admit_image(spec, picture), None
            else:
                decoded = decode_jpeg(picture, needed)
                image = decoded if isinstance(decoded, Refusal) else admit_image(spec, decoded)
                jpeg = None if needed is None else picture
            if isinstance(image, Refusal):
                return image
            if frozen := freeze.admit(image, jpeg):
                return frozen
            taken, size = fitted(spec, image), (image.shape[1], image.shape[0])
            return lambda stream, seq, captured_ns, id: Frame(stream, seq, captured_ns, picture, taken, size, id=id)

        return admit

    def work_ns(self, content: Any) -> int:
        return pictures.work_ns(content) if isinstance(content, bytes | memoryview) else 0

    def fields(self, spec: CameraStream) -> dict[str, Field]:
        return {"image": Field("uint8", (1, spec.height, spec.width, 3), "picture")}

    def preprocessor(self, spec: CameraStream, read: Read) -> Preprocess:
        def tensors(part: Slice) -> Tensors:
            newest = part.newest
            assert isinstance(newest, Frame)
            made = pixels(spec, newest.picture) if newest.pixels is None else newest.pixels
            return {"image": made[None]}

        return tensors

    def to_record(self, message: Frame, at: Time, jpeg_quality: int | None) -> CompressedImage:
        picture = message.picture
        kind: Literal["jpeg", "png"] = "jpeg"
        data: bytes | memoryview
        if isinstance(picture, np.ndarray):
            kind = "png" if jpeg_quality is None else "jpeg"
            how = PNG if jpeg_quality is None else [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]
            done, buffer = cv2.imencode(f".{kind}", picture, how)
            assert done, "every admitted picture can be written"
            data = buffer.data
        else:
            data = picture
        # msgspec writes a memoryview as it writes bytes; copying a picture first would cost the more.
        return CompressedImage(at, message.stream, data, kind, message.captured_ns, message.seq, unset(message.id))  # type: ignore[arg-type]

    def to_message(self, stream: str, record: CompressedImage) -> Frame:
        """A JPEG is read to its end mark, and decoded by whoever takes the frame."""
        picture: bytes | NDArray[np.uint8] = record.data
        try:
            if record.format == "jpeg":
                pictures.read_header(record.data)
            else:
                picture = pictures.decode(record.data)
        except pictures.PictureError as error:
            raise ValueError(f"picture {record.seq} of {stream}: {error}") from None
        return Frame(stream, record.seq, record.captured_ns, picture, id=none(record.id))

    def fitted(self, spec: CameraStream, message: Frame) -> Frame:
        """With the pixels that the stream takes."""
        try:
            image = decoded(spec, message.picture)
            return replace(message, pixels=fitted(spec, image), size=(image.shape[1], image.shape[0]))
        except pictures.PictureError as error:
            raise ValueError(f"picture {message.seq} of {message.stream}: {error}") from None

    def unrecorded(self, message: Frame) -> Frame:
        """Of a raw picture only the model's pixels: it is many times larger, and several of each camera would wait."""
        whole, made = message.picture, message.pixels
        if made is None or made is whole or not isinstance(whole, np.ndarray):
            return message
        # A view (of a cropped picture that need not be scaled) would keep all of it.
        made = made.copy() if np.may_share_memory(made, whole) else made
        return replace(message, picture=made, pixels=made)

    def weight(self, message: Frame) -> int:
        return message.picture.nbytes if isinstance(message.picture, np.ndarray) else len(message.picture)

    def footprint(self, message: Frame) -> int:
        whole, made = message.picture, message.pixels
        if made is None or (isinstance(whole, np.ndarray) and np.may_share_memory(made, whole)):
            return self.weight(message)
        return self.weight(message) + made.nbytes

    def encoded(self, message: Frame) -> bool:
        return message.encoded is not None

    def detail(self, spec: CameraStream) -> str:
        return f"{spec.width}x{spec.height}, {spec.fit}, {spec.scaling}"
