"""The names of `hf_unlearn.metrics`, which loads them when they are first asked for."""

from .attack_table import ATTACKS as ATTACKS
from .attack_table import Attack as Attack
from .distances import earth_movers_distance as earth_movers_distance
from .distances import matched_pairs as matched_pairs
from .distances import separation as separation
from .distances import share_above as share_above
from .informed_attack import informed_scores as informed_scores
from .membership import lira_scores as lira_scores
from .membership import loss_attack as loss_attack
from .membership import svc_attacks as svc_attacks
from .quality import CharacterErrorRate as CharacterErrorRate
from .quality import WordErrorRate as WordErrorRate
from .quality import accuracy as accuracy
from .quality import accuracy_of_classes as accuracy_of_classes
from .quality import bootstrap_interval as bootstrap_interval
from .quality import character_errors as character_errors
from .quality import error_rate as error_rate
from .quality import f1_macro as f1_macro
from .quality import word_errors as word_errors
from .scores import adaptive_unlearning_score as adaptive_unlearning_score
from .scores import global_unlearning_metric as global_unlearning_metric
from .scores import unlearning_impact_score as unlearning_impact_score
