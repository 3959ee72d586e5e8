"""What a model will cost on a board, predicted from the board's profile and from published measurements.

`decoder` says how many tokens a second, how long until the first one, and how much memory; `encoder` how long a text
takes, how big the file is and how much memory. Every figure is a `Measurement` of the kind "predicted". Speeds of
decoders have intervals of `LEVEL`, made of the errors on published rows; what no rows stand behind has rough ranges.
"""

from edgedistill.predictor.decoder import Prediction, decoder
from edgedistill.predictor.encoder import encoder
from edgedistill.predictor.law import LEVEL
from edgedistill.predictor.names import Decoder
from edgedistill.types import Measurement

__all__ = ["LEVEL", "Decoder", "Prediction", "called", "decoder", "encoder"]

_FITTED = ("decode@", "prefill@", "first_token@")


def called(predicted: Measurement) -> str:
    """What the range of a prediction is: an interval where published rows stand behind it, else a rough range."""
    return f"{LEVEL:.0%} interval".replace("%", " %") if predicted.name.startswith(_FITTED) else "rough range"
