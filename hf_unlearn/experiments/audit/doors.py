"""The table of doors, in the order in which they are tried. A new door is a file with a `Door`, and
a line here."""

from .attacks import ATTACKS
from .ct2 import CTRANSLATE2
from .decoding import DECODING
from .door import Door
from .forms import FORMS
from .joined import JOINED
from .relearning import RELEARNING
from .standing_out import STANDING_OUT

DOORS: dict[str, Door] = {
    door.name: door
    for door in (
        *FORMS,
        *CTRANSLATE2,
        *DECODING,
        JOINED,
        *RELEARNING,
        *ATTACKS,
        *STANDING_OUT,
    )
}
