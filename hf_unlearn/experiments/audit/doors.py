"""The table of doors, in the order in which they are tried. A new door is a file with a `Door`, and
a line here."""

from .after_a_stranger import AFTER_A_STRANGER
from .attacks import ATTACKS
from .ctranslate2 import CTRANSLATE2
from .decoding import DECODING
from .deployment_forms import FORMS
from .door import Door
from .full_length import FULL_LENGTH
from .relearning import RELEARNING
from .standing_out import STANDING_OUT

DOORS: dict[str, Door] = {
    door.name: door
    for door in (
        *FORMS,
        *CTRANSLATE2,
        *DECODING,
        FULL_LENGTH,
        AFTER_A_STRANGER,
        *RELEARNING,
        *ATTACKS,
        *STANDING_OUT,
    )
}
