"""What a process imports whose forks run scripts (see `forks`)."""

import gc

import tests.trainer.processes.process_cases  # noqa: F401
from hf_unlearn import cli  # noqa: F401
from hf_unlearn.experiments.images import recipe as images  # noqa: F401
from hf_unlearn.experiments.speech import whisper as speech  # noqa: F401

# Trainer collects garbage when training begins, and would search all these modules.
gc.collect()
gc.freeze()
