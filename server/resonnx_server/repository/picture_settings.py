"""The picture options of a model, from the settings."""

from dataclasses import fields

from resonnx_proto.v1.manifest_pb2 import ImageInput

from resonnx_server.config import Settings
from resonnx_server.runtime.pictures.options import PictureOptions


def picture_options(settings: Settings, model: str, recipe: ImageInput) -> PictureOptions:
    """Return the picture options of a model with this recipe: its own settings of the same names, and the server's."""
    own = settings.for_model(model).model_dump(include={field.name for field in fields(PictureOptions)})
    return PictureOptions(
        recipe,
        formats=settings.formats,
        max_pixels=settings.max_image_pixels,
        max_side=settings.max_image_side,
        **own,
    )
