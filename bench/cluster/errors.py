"""What goes wrong on workers, and in a sweep as a whole."""


class CaseDiedError(Exception):
    """The process of a case ended without a result: another try may do better."""


class CaseRefusedError(Exception):
    """A worker did not begin a case, or ended the run of it, for a reason that another try would meet again."""


class OtherCodeError(Exception):
    """A worker has other source files of `mha` and `bench` than the sweep: nothing was run there."""


class SweepError(Exception):
    """The sweep can't go on, or a case of it could not be measured; the message says why."""
