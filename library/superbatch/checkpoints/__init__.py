"""A learner's weights as the service takes them: from a model, a state dict or a file; converted apart; watched.

torch and safetensors are imported when a function needs them, never by importing this package.
"""

from superbatch.checkpoints.state_dict import Selected, learner_weights, select_weights

__all__ = ["Selected", "learner_weights", "select_weights"]
