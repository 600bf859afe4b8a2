"""Every error the library raises on purpose.

Each message says which layer, what was expected, what came, and what to do.
"""


class MhaError(Exception):
    """The root of all errors raised on purpose."""


class ShapeError(MhaError, ValueError):
    """Tensors, numbers of heads or widths that do not fit together or are not possible."""


class PlanError(MhaError, ValueError):
    """A plan that is malformed, or that does not belong to the model."""


class ScoresError(MhaError, ValueError):
    """Scores that cannot be ranked, or a budget that cannot be met."""


class CalibrationError(MhaError, ValueError):
    """Calibration batches, a loss or options that a criterion cannot work with."""


class CertificateError(MhaError, ValueError):
    """A promise that can't be tested, by values, levels or candidates that don't fit; an unreadable certificate."""


class CostsError(MhaError, ValueError):
    """Costs that can't be measured, or a table of them that can't be read or does not fit."""


class TaskError(MhaError, ValueError):
    """A task that can't be had of a file: what the file says, or data and a model that don't fit it or one another."""


class MissingPackageError(MhaError, ImportError):
    """A package that is needed here, and that the project does not always bring along, is not installed."""


class OptimizerError(MhaError, ValueError):
    """An optimizer whose state can't be carried over to the pruned model."""


class UnsupportedModule(MhaError, TypeError):
    """A plan names a module of no known family, or the model has no attention of a known family."""


class EquivalenceError(MhaError, AssertionError):
    """The sliced model does not compute what the masked model computes."""


class CheckpointError(MhaError, ValueError):
    """A model that can't be saved, or a directory that can't be loaded."""


class ExportError(MhaError, ValueError):
    """A model that a format or its runtime can't have, or an export that can't be read, or is not what was written."""


class BusyError(MhaError, RuntimeError):
    """A model that another thread is working on, where waiting for that thread would not end."""


class SlowPlanWarning(UserWarning):
    """A plan that removes heads and yet, by the measured costs, is not faster than the dense model."""


class LostHeadsWarning(UserWarning):
    """All heads that a configuration lists by number, such as those that align words with times, have been pruned."""


class OverlapWarning(UserWarning):
    """Examples that evaluation has too were left out of the other parts of a task's data, as its file asks for."""
