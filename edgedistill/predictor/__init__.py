"""What a model will cost on a board, predicted from the board's profile and from published measurements.

`decoder` says how many tokens a second, how long until the first one, and how much memory; `encoder` how long a text
takes, how big the file is and how much memory. Every figure is a `PredictedMeasurement`. Speeds of decoders have
intervals of `LEVEL`, made of the errors on published rows; what no rows stand behind has rough ranges, and says so.
"""

from edgedistill.predictor.decoder import Prediction, decoder
from edgedistill.predictor.encoder import encoder
from edgedistill.predictor.law import LEVEL
from edgedistill.predictor.names import Decoder

__all__ = ["LEVEL", "Decoder", "Prediction", "decoder", "encoder"]
