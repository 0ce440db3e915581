"""The names of `hf_unlearn.trainer`, which loads them when they are first asked for."""

from .batches.seeded import random_state_kept as random_state_kept
from .batches.training_data import spread as spread
from .checkpoints.step_digests import StepDigests as StepDigests
from .checkpoints.step_digests import step_digests as step_digests
from .checks.training_steps import check_steps as check_steps
from .checks.whisper_prompt import check_prompt as check_prompt
from .checks.whisper_prompt import generation_prompt as generation_prompt
from .losses.time_masks import time_masks_that_fit as time_masks_that_fit
from .processes import all_processes as all_processes
from .setup.adapters import base_of as base_of
from .setup.adapters import keep_merged as keep_merged
from .setup.adapters import load_merged as load_merged
from .setup.adapters import whole_base_of as whole_base_of
from .setup.model_setup import with_adapter as with_adapter
from .stopping.rule import RETRAINED as RETRAINED
from .stopping.rule import Rule as Rule
from .trainer import UnlearnTrainer as UnlearnTrainer
