"""Errors that a user can act on: each names what is wrong, where, and the remedy."""

__all__ = [
    "AxisNotExercisedError",
    "ConfigurationError",
    "InfoptError",
    "InvalidComparisonError",
    "ModelLoadError",
    "NoChatTemplateError",
    "NonFiniteLogitsError",
    "NotEquivalentError",
    "NotSupportedError",
    "ServerRefusedError",
    "ServerUnavailableError",
    "UndecidedError",
    "WorkerError",
]


class InfoptError(Exception):
    """Base of all errors of this package that are not a verdict on a candidate."""


class ConfigurationError(InfoptError):
    """The configuration asks for something that cannot be done; the message names file and line."""


class NotSupportedError(ConfigurationError):
    """A model or its engine lacks what a gate requires: the gate is not run on it."""


class ModelLoadError(InfoptError):
    """A model could not be loaded: missing path, pickled weights, truncated file, no library."""


class NoChatTemplateError(ConfigurationError):
    """A chat was asked of a tokenizer without a template."""


class InvalidComparisonError(InfoptError):
    """Reference and candidate cannot be compared: another tokenizer, vocabulary, or corpus."""


class AxisNotExercisedError(InvalidComparisonError):
    """Nothing shows that what should differ between two sides did: their equality says nothing."""


class UndecidedError(InfoptError):
    """There is evidence neither for two sides' equivalence nor against it."""


class NotEquivalentError(AssertionError):
    """Two sides part by more than rounding, and by more than one of them does from itself: a
    verdict, and no fault of the comparison."""


class ServerRefusedError(InvalidComparisonError):
    """A server that is up does not take a request as it is; ``status`` is HTTP's, 0 where it takes
    it and leaves out what was asked for."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class ServerUnavailableError(InvalidComparisonError):
    """A server does not answer for the moment; ``wait_seconds`` is the wait that it named."""

    def __init__(self, message: str, wait_seconds: float | None = None) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


class NonFiniteLogitsError(InfoptError):
    """A model returned NaN or infinity where logits belong."""


class WorkerError(InfoptError):
    """The process that held the models died, hung, or raised; its last words are quoted."""
