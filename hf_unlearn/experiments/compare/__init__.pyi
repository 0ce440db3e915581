"""The names of `hf_unlearn.experiments.compare`, which loads them when they are first asked for."""

from .plan import Comparison as Comparison
from .run_comparison import compare as compare
from .runs import reached_at as reached_at
