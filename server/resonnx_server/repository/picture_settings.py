"""What the settings say of pictures, as the options that the codecs take."""

from resonnx_proto.v1.manifest_pb2 import ImageInput

from resonnx_server.config import Settings
from resonnx_server.runtime.pictures.options import PictureOptions


def picture_options(settings: Settings, model: str, recipe: ImageInput) -> PictureOptions:
    """Return how pictures are read for a model whose manifest has this recipe."""
    of_model = settings.for_model(model)
    return PictureOptions(
        recipe,
        jpeg_scaling=of_model.jpeg_scaling,
        exif_orientation=of_model.exif_orientation,
        formats=settings.formats,
        max_pixels=settings.max_image_pixels,
        max_side=settings.max_image_side,
    )
