"""The pictures of a request: files, raw pixels, or pixels as the model takes them. Event loop only."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import numpy as np

from resonnx_server.preprocessing.decode import Decoder, Plan
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.pictures.options import PictureOptions
from resonnx_server.scheduling.deadline_admission import Decoding


class EncodedPictures:
    """Picture files of a request.

    Args:
        files: One for each picture.
        field: The request's field, for errors.
        numbered: Errors name a picture's index as well.
    """

    def __init__(self, files: Sequence[bytes], field: str, *, numbered: bool) -> None:
        self.files = files
        self.count = len(files)
        self.field = field
        self.numbered = numbered
        # Width and height of a single picture, as the model takes it upright or not, once it is decoded.
        self.size = (0, 0)
        # Kept from the prediction for the decoding.
        self._plans: list[Plan] = []

    async def decoding(self, decoder: Decoder, options: PictureOptions, priority: int, caller: str) -> Decoding | None:
        """Return the predicted time to decode them."""
        self._plans = await decoder.plan(self.files, options)
        return decoder.expected(self._plans, options, priority, caller)

    async def pixels(self, decoder: Decoder, options: PictureOptions, priority: int, caller: str) -> Pixels:
        """Return them decoded."""
        if self.numbered:
            return await decoder.load_all(self.files, options, self.field, priority, self._plans, caller)
        (file,), (plan,) = self.files, self._plans
        pixels = await decoder.load(file, options, self.field, priority, plan, caller, partial(setattr, self, "size"))
        return pixels[np.newaxis]


@dataclass(frozen=True, slots=True)
class RawPicture:
    """A picture of a request as 8-bit RGB, row by row."""

    rgb: bytes
    width: int
    height: int
    field: str
    count: Literal[1] = 1

    @property
    def size(self) -> tuple[int, int]:
        """Its width and height."""
        return self.width, self.height

    async def decoding(self, decoder: Decoder, options: PictureOptions, priority: int, caller: str) -> Decoding | None:
        """Return the predicted time to resize it: none."""
        return Decoding(0.0, 0.0)

    async def pixels(self, decoder: Decoder, options: PictureOptions, priority: int, caller: str) -> Pixels:
        """Return it resized."""
        pixels = await decoder.from_raw(self.rgb, self.width, self.height, options, self.field, priority, caller)
        return pixels[np.newaxis]


@dataclass(frozen=True, slots=True)
class DecodedPictures:
    """Pictures of a request as the model takes them: uint8 [count,H,W,3]."""

    array: Pixels
    count: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of each."""
        return self.array.shape[2], self.array.shape[1]

    async def decoding(self, decoder: Decoder, options: PictureOptions, priority: int, caller: str) -> Decoding | None:
        """Return None: nothing is decoded."""

    async def pixels(self, decoder: Decoder, options: PictureOptions, priority: int, caller: str) -> Pixels:
        """Return them as they are."""
        return self.array


class Frames:
    """The frames of a request that a model reads.

    Args:
        pictures: Picture files, and raw pixels, in any order.
        names: The field of each picture file, for errors.
    """

    def __init__(self, pictures: Sequence[bytes | RawPicture], names: Sequence[str]) -> None:
        self._pictures, self._names = pictures, names
        self.count = len(pictures)
        self._plans: dict[int, Plan] = {}

    async def decoding(self, decoder: Decoder, options: PictureOptions, priority: int, caller: str) -> Decoding | None:
        """Return the predicted time to decode the files; None if there are none."""
        numbers = [i for i, picture in enumerate(self._pictures) if isinstance(picture, bytes)]
        if not numbers:
            return None
        plans = await decoder.plan([each for each in self._pictures if isinstance(each, bytes)], options)
        self._plans = dict(zip(numbers, plans, strict=True))
        return decoder.expected(plans, options, priority, caller)

    async def pixels(self, decoder: Decoder, options: PictureOptions, priority: int, caller: str) -> Pixels:
        """Return them as the model takes them, uint8 [count,H,W,3]. Raises BadImage, naming the frame."""

        def load(i: int) -> Awaitable[Pixels]:
            picture, name = self._pictures[i], self._names[i]
            if isinstance(picture, RawPicture):
                return decoder.from_raw(picture.rgb, picture.width, picture.height, options, name, priority, caller)
            return decoder.load(picture, options, name, priority, self._plans.get(i), caller)

        return await decoder.all(self.count, options, load)


Pictures = EncodedPictures | RawPicture | DecodedPictures


class AnyPictures(Protocol):
    """The pictures of one request, whatever its task: those above, frames of clips among them."""

    @property
    def count(self) -> int:
        """Their number."""

    async def decoding(self, decoder: Decoder, options: PictureOptions, priority: int, caller: str) -> Decoding | None:
        """Return the predicted time to decode them; None if they are decoded."""

    async def pixels(self, decoder: Decoder, options: PictureOptions, priority: int, caller: str) -> Pixels:
        """Return them as the model takes them, uint8 [count,H,W,3]. Raises BadImage."""
