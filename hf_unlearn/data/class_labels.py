"""The labels that a classifier's head has for the classes of the data."""

from transformers import PretrainedConfig
from transformers.utils import logging

logger = logging.get_logger(__name__)


def labels_of(classes: list[str], config: PretrainedConfig) -> dict[str, int]:
    """The label that a model's head has for each class.

    Classes are matched by name; in their order if the head names its labels otherwise, with a
    warning unless it has transformers' default names.

    Raises:
        ValueError: the head has another number of labels, or the same names in another order.
    """
    labels = {str(name): int(label) for name, label in config.label2id.items()}
    if set(classes) <= set(labels):
        return {name: labels[name] for name in classes}
    in_order = {name: label for label, name in enumerate(classes)}
    contradicted = [name for name in classes if name in labels and labels[name] != in_order[name]]
    if config.num_labels != len(classes) or contradicted:
        raise ValueError(
            f"the model's head has {config.num_labels} labels "
            f"({', '.join(list(labels)[:3])}, ...), which do not fit the data's {len(classes)} "
            f"classes ({', '.join(classes[:3])}, ...): "
            "give a model trained on this data, or train one with model: train and base_model"
        )
    if set(labels) != {f"LABEL_{label}" for label in range(len(classes))}:
        logger.warning(
            "The model's labels have other names than the data's classes: they are matched in "
            "order."
        )
    return in_order
