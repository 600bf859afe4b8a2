"""A plugin of pytest: the disk is full when the file that $FULL_AT names is to be written."""

import errno
import os

replace = os.replace


def full(source, target):
    if os.path.basename(target) == os.environ["FULL_AT"]:  # noqa: PTH119
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    replace(source, target)


os.replace = full
