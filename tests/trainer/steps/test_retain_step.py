"""What a step offers of its retain batch, before and after it is drawn."""

import pytest

from hf_unlearn import Method
from tests.support.tiny import make_trainer, tiny_whisper


class TooEarly(Method):
    def forget(self, step):
        return step.retain_loss()


def test_a_method_that_wants_the_retain_batch_too_early_is_told_so(tmp_path):
    trainer = make_trainer(tiny_whisper(), tmp_path, method=TooEarly())
    with pytest.raises(
        RuntimeError, match="no retain batch yet: .* use it in `Method.retain` only"
    ):
        trainer.train()
