"""What a model will cost on a board, predicted from the board's profile and from published measurements.

`decoder` says how many tokens a second, how long until the first one, and how much memory; `encoder` how long a text
takes, how big the file is and how much memory. Every figure is a `Measurement` of the kind "predicted". Speeds of
decoders have intervals of `LEVEL`, made of the errors on published rows; what no rows stand behind has rough ranges.
"""

from edgedistill.predictor.decoder import decoder
from edgedistill.predictor.encoder import encoder
from edgedistill.predictor.speed import LEVEL

__all__ = ["LEVEL", "decoder", "encoder"]
